"""Every correspondence with every kind of negatives, against loops over images, pairs and negatives in float64."""

import itertools

import numpy as np
import paddle
import pytest

from passl.modeling.dense import Batch, MutualNearest, Views, build_correspondence, build_negatives
from passl.modeling.heads import ContrastiveHead
from passl.utils.errors import CheckpointError, ConfigError
from passl.utils.weights import load_into
from tests.modules.test_correspondence import by_hand as nearest, places_by_hand, some_places
from tests.modules.test_region_pooling import shares_by_hand

from .test_densecl import encoders
from .tiny import small, unit, views

T = 0.2
CORRESPONDENCES = ['BackboneSimilarity', 'MutualNearest', 'Geometric', 'Regions']
ALLOWED = [(c, n) for c, n in itertools.product(CORRESPONDENCES, ['Pooled', 'Cells', 'Batch'])
           if c != 'Regions' or n == 'Batch']


def some_regions(n, seed=0, size=32):
    """uint8 [n, 2, size, size]: squares of up to 16 regions; some are large, some cover next to nothing."""
    rng = np.random.RandomState(seed)
    numbers = np.minimum(rng.exponential(4, (n, 2, 4, 4)).astype(int), 15)
    maps = np.kron(numbers, np.ones((size // 4, size // 4), int))
    maps[:, :, 0, :3] = 14                                              # 3 of 1024 places
    return maps.astype('uint8')


def extras_of(model_or_part, n, seed=0):
    made = {'places': some_places(n, seed, 0.5), 'regions': some_regions(n, seed)}
    return {name: made[name] for name in model_or_part.needs}


def region_vectors(regions, dense, grid, min_share=0.03):
    """[(vector or None, whether it covers enough)] of the 16 regions of one view."""
    of_cells, of_view = shares_by_hand(regions[None], 16, *grid)
    return [(unit(dense @ of_cells[0, r], 0) if of_cells[0, r].any() else None, of_view[0, r] >= min_share)
            for r in range(16)]


def pairs_by_hand(name, v):
    """(per image [(query, key)], per image the key view's vectors for others to be told from), all counted."""
    pairs, keys = [], []
    if name == 'Geometric':
        index, counts = places_by_hand(v.places, *v.grid, 1.0)
    elif name != 'Regions':
        index = nearest(v.map_q, v.map_k)[0]
        back = nearest(v.map_k, v.map_q)[0]
        counts = np.array([[name == 'BackboneSimilarity' or back[n, j] == i for i, j in enumerate(index[n])]
                           for n in range(len(index))])
    for n in range(len(v.dense_q)):
        if name == 'Regions':
            ours, theirs = (region_vectors(v.regions[n, view], dense[n], v.grid)
                            for view, dense in ((0, v.dense_q), (1, v.dense_k)))
            pairs.append([(a, b) for (a, enough_a), (b, enough_b) in zip(ours, theirs) if enough_a and enough_b])
            keys.append([b for b, enough in theirs if enough])
        else:
            pairs.append([(v.dense_q[n][:, i], v.dense_k[n][:, j]) for i, j in enumerate(index[n]) if counts[n, i]])
            keys.append(list(v.dense_k[n].T))
    return pairs, keys


def dense_by_hand(name, negatives, v, queue):
    """The dense loss, its accuracies and the pairs per image; `v`: Views of float64 arrays."""
    pairs, keys = pairs_by_hand(name, v)
    losses, ranks = [], []
    for n, of_image in enumerate(pairs):
        others = [k for m, of_other in enumerate(keys) if m != n for k in of_other]
        others = np.array(others).T if negatives == 'Batch' else queue
        for q, k in of_image:
            logits = np.concatenate([[q @ k], q @ others]) / T
            losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[0])
            ranks.append((logits[1:] >= logits[0]).sum())
    ranks = np.array(ranks)
    return {'loss_dense': np.mean(losses), 'acc1_dense': 100 * np.mean(ranks < 1),
            'acc5_dense': 100 * np.mean(ranks < 5), 'pairs': len(losses) / len(pairs)}


def some_views(part, n=3, d=6, grid=(3, 4), seed=0):
    """Views of float64 arrays."""
    rng, cells = np.random.RandomState(seed), grid[0] * grid[1]
    maps = [rng.randn(n, 5, cells) for _ in range(2)]
    return Views(*maps, *(unit(rng.randn(n, d, cells), 1) for _ in range(2)), grid, **extras_of(part, n, seed))


def as_tensors(v):
    made = {k: x if k == 'grid' or x is None else paddle.to_tensor(x if k == 'regions' else x.astype('float32'))
            for k, x in v._asdict().items()}
    made['dense_q'].stop_gradient = False
    return Views(**made)


def run(part, negatives, v, queue):
    """(what the head gives, gradient of the query's cells)."""
    v = as_tensors(v)
    pairs = part(v)
    columns, hide = negatives.among(pairs, v, paddle.to_tensor(queue.astype('float32')))
    weight = None if pairs.weight is None else pairs.weight.flatten()
    d = pairs.query.shape[2]
    out = ContrastiveHead(T)(pairs.query.reshape([-1, d]), pairs.key.reshape([-1, d]), columns, True, weight, hide)
    out['loss'].backward()
    return {'loss_dense': out['loss'], 'acc1_dense': out['acc1'], 'acc5_dense': out['acc5'],
            'pairs': pairs.per_image()}, v.dense_q.grad.numpy()


@pytest.mark.parametrize('name, negatives', ALLOWED)
def test_loss_figures_and_gradient(name, negatives):
    part, source = build_correspondence(name), build_negatives(negatives)
    v, queue = some_views(part), unit(np.random.RandomState(5).randn(6, 20), 0)
    got, gradient = run(part, source, v, queue)
    want = dense_by_hand(name, negatives, v, queue)
    for key, value in want.items():
        assert float(got[key]) == pytest.approx(value, rel=1e-5, abs=1e-5), key
    assert want['pairs'] > 2
    # the oracle's differences, along two axes of every third cell of one image
    step, one = 1e-5, np.zeros_like(v.dense_q)
    for d, cell in itertools.product((0, 4), range(0, v.dense_q.shape[2], 3)):
        one[:] = 0
        one[1, d, cell] = step
        up, down = (dense_by_hand(name, negatives, v._replace(dense_q=v.dense_q + s * one), queue)['loss_dense']
                    for s in (1, -1))
        assert gradient[1, d, cell] == pytest.approx((up - down) / (2 * step), abs=2e-5)
    assert np.abs(gradient[1]).max() > 1e-2


@pytest.mark.parametrize('name', ['Geometric', 'Regions'])
def test_a_step_without_a_pair(name):
    """The loss is 0 and the gradient too; nothing is nan, although there may be no negatives either."""
    part = build_correspondence(name)
    v = some_views(part)
    apart = np.float32([[0, 0, 0.3, 0.3, 0, 0], [0.5, 0.5, 0.3, 0.3, 0, 0]])
    v = v._replace(places=np.stack([apart] * 3)) if name == 'Geometric' else \
        v._replace(regions=np.full((3, 2, 32, 32), 99, 'uint8'))
    for negatives in ('Batch',) if name == 'Regions' else ('Pooled', 'Batch'):
        got, gradient = run(part, build_negatives(negatives), v, unit(np.ones((6, 20)), 0))
        assert [float(x) for x in got.values()] == [0, 0, 0, 0]
        assert not gradient.any()


def test_one_image_alone_has_a_pair():
    """The mean is over the pairs that count, not over images."""
    part, negatives = build_correspondence('Regions'), build_negatives('Batch')
    v = some_views(part)
    v.regions[1:, 0] = 99                                               # the queries of images 1 and 2 show nothing
    got, _ = run(part, negatives, v, np.ones((6, 1)))
    want = dense_by_hand('Regions', 'Batch', v, None)
    assert float(got['loss_dense']) == pytest.approx(want['loss_dense'], rel=1e-5) and 0 < want['pairs'] < 4


def model_of(name, negatives, **more):
    """With keys of their own."""
    model = small(correspondence=name, negatives=negatives, **more)
    for p in model.encoder_k.parameters():
        p.set_value(p * (1 + 0.1 * paddle.randn(p.shape)).abs())
    return model


def batch_of(model, n=3, size=(24, 32), seed=0):
    return views(n, *size, seed), extras_of(model, n, seed)


@pytest.mark.parametrize('num_grid', [None, 2])
@pytest.mark.parametrize('name, negatives', ALLOWED)
def test_a_step_of_the_model(name, negatives, num_grid):
    model = model_of(name, negatives, neck={'num_grid': num_grid}, loss_lambda=0.3)
    model.eval()
    (im_q, im_k), extras = batch_of(model)
    (map_q, _, dense_q), (map_k, _, dense_k) = encoders(model, im_q, im_k)
    grid = (3, 4) if num_grid is None else (2, 2)
    v = Views(map_q, map_k, unit(dense_q, 1), unit(dense_k, 1), grid, **extras)
    queue = model.queue2.numpy().astype('float64') if negatives != 'Batch' else None
    label = [paddle.to_tensor([0, 1, 2])]                               # stands before what `needs` names
    got = model(im_q, im_k, *label, *map(paddle.to_tensor, extras.values()))
    want = dense_by_hand(name, negatives, v, queue)
    if (name, negatives) == ('BackboneSimilarity', 'Pooled'):
        assert 'pairs' not in got and want.pop('pairs') == grid[0] * grid[1]
    for key, value in want.items():
        assert float(got[key]) == pytest.approx(value, rel=1e-4, abs=1e-4), key
    assert float(got['loss']) == pytest.approx(0.7 * float(got['loss_global']) + 0.3 * want['loss_dense'], rel=1e-4)
    rows = unit(dense_q, 1).transpose(0, 2, 1).reshape(-1, dense_q.shape[1])
    assert float(got['std_dense']) == pytest.approx(rows.std(0).mean() * rows.shape[1] ** 0.5, rel=1e-3)
    assert model.cells == grid[0] * grid[1] and ('queue2' in model.state_dict()) == (negatives != 'Batch')
    assert model.dense_negatives == (3 * (16 if name == 'Regions' else model.cells) if negatives == 'Batch' else 32)


def test_figures_of_log_steps_only():
    model = model_of('Regions', 'Batch')
    model.with_metrics = False
    images, extras = batch_of(model)
    assert set(model(*images, *map(paddle.to_tensor, extras.values()))) == {'loss', 'loss_global', 'loss_dense'}


def test_the_default_is_the_papers():
    out = []
    for more in ({}, {'correspondence': {'name': 'BackboneSimilarity'}, 'negatives': 'pooled'}):
        model = small(**more)
        loss = model(*views())
        loss['loss'].backward()
        model.flush_queues()
        out.append([float(v) for v in loss.values()] + [v.numpy() for v in model.state_dict().values()])
    assert len(out[0]) == len(out[1]) and all(np.array_equal(a, b) for a, b in zip(*out))


@pytest.mark.parametrize('per_image', [1, 2])
def test_single_cells_enter_the_queue(per_image):
    model = small(negatives={'name': 'Cells', 'per_image': per_image})
    model.eval()
    im_q, im_k = views(3, 24, 16)
    dense = unit(encoders(model, im_q, im_k)[1][2], 1)                 # [3, D, 6]
    taken = []
    for step in range(4):
        model.step = step
        model(im_q, im_k)
        model.flush_queues()
        rows = model.queue2.numpy().T[3 * per_image * step:][:3 * per_image].reshape(3, per_image, -1)
        near = [[np.abs(dense[n].T - row).max(1).argmin() for row in rows[n]] for n in range(3)]
        for n, cells in enumerate(near):
            np.testing.assert_allclose(dense[n][:, cells].T, rows[n], atol=1e-5)
            assert len(set(cells)) == per_image and (cells[0] - near[0][0]) % 6 == n
        taken.append(near)
    assert len({str(t) for t in taken}) > 1 and int(model.queue2_ptr[0]) == 12 * per_image % 32
    again = small(negatives={'name': 'Cells', 'per_image': per_image})
    again.eval()
    again.step = 3
    again(im_q, im_k)                                                  # the same step alone: the same cells
    np.testing.assert_allclose(again._waiting[0]['queue2'].numpy().reshape(rows.shape), rows, atol=1e-5)


def test_negatives_of_the_batch_are_of_other_images_only():
    """Keys of its own image change nothing but the positive; hidden ones nothing at all."""
    part, negatives = build_correspondence('Geometric'), build_negatives('Batch')
    v = as_tensors(some_views(part))
    columns, hide = negatives.among(part(v), v, None)
    hidden = (hide[0] @ hide[1]).numpy().reshape(3, 12, 3, 12)
    assert columns.shape == [6, 36]
    for n, m in itertools.product(range(3), range(3)):
        assert (hidden[n, :, m] == float(n == m)).all()


@pytest.mark.parametrize('more, words', [
    ({'correspondence': 'Regions'}, ["'model.negatives' is Pooled", 'means over regions', 'model.negatives: batch']),
    ({'correspondence': 'Regions', 'negatives': 'cells'}, ["'model.negatives' is Cells"]),
    ({'negatives': 'queue'}, ["'model.negatives.name'", "Unknown negatives 'queue'", 'Pooled']),
    ({'correspondence': {'name': 'Geometric', 'radios': 1}}, ["'model.correspondence.radios'", "'radius'"]),
    ({'negatives': 3}, ["'model.negatives' must be a mapping"]),
])
def test_wrong_settings(more, words):
    with pytest.raises(ConfigError) as e:
        small(**more)
    assert all(word in str(e.value) for word in words), e.value


def test_a_model_without_such_parts():
    with pytest.raises(ConfigError, match="'model.negatives' is given, but MoCo has no negatives. Remove it."):
        small('MoCo', negatives='batch')


def test_wrong_batches():
    with pytest.raises(ConfigError, match=r"the batch has one image.*batch_size to 2 or more"):
        small(negatives='batch')(*views(1, 16, 16))
    with pytest.raises(ConfigError, match=r'per_image.* is 5, but a view has 4 cells'):
        small(negatives={'name': 'Cells', 'per_image': 5})(*views(2, 16, 16))
    model = small(correspondence='geometric')
    for extra in ((), (paddle.zeros([4], 'int64'),), (paddle.zeros([4, 2, 4]),)):
        with pytest.raises(ConfigError, match=r"is Geometric, which needs 'places' of every sample"):
            model(*views(), *extra)


def test_weights_of_another_variant():
    """What a model with a queue misses in a file is named; a model without one leaves it unused."""
    paper, batch = small(), small(negatives='batch')
    state = {k: v.numpy() for k, v in batch.state_dict().items()}
    with pytest.raises(CheckpointError, match='missing in the file: queue2, queue2_ptr'):
        load_into(paper, state)
    report = load_into(batch, {k: v.numpy() for k, v in paper.state_dict().items()})
    assert report.complete and report.unexpected == ['queue2', 'queue2_ptr']


@pytest.mark.parametrize('text', ['batch', 'Batch', 'BATCH'])
def test_a_text_is_the_name(text):
    assert isinstance(build_negatives(text), Batch) and isinstance(build_negatives({'name': text}), Batch)
    assert isinstance(build_correspondence('mutualnearest'), MutualNearest)
