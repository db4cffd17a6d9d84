"""DenseCL's and MoCo's losses, recomputed slowly in numpy from the encoders' outputs."""

import numpy as np
import paddle
import pytest

from .tiny import small, unit, values, views


def cross_entropy(queries, keys, queue, t):
    """(mean loss, acc1, acc5) of queries and keys [M, D], one at a time."""
    losses, ranks = [], []
    for q, k in zip(queries, keys):
        logits = np.concatenate([[q @ k], q @ queue]) / t
        losses.append(np.log(np.exp(logits - logits.max()).sum()) + logits.max() - logits[0])
        ranks.append((logits[1:] > logits[0]).sum())
    return np.mean(losses), 100 * np.mean(np.array(ranks) < 1), 100 * np.mean(np.array(ranks) < 5)


def spread(rows):
    """Mean over dimensions of the deviation over unit rows [M, D], times the root of D."""
    return np.std(np.asarray(rows), 0).mean() * np.sqrt(np.shape(rows)[1])


def encoders(model, im_q, im_k):
    """(grid map, global, dense) as float64 of the query and the key network."""
    out = []
    for encoder, image in ((model.encoder_q, im_q), (model.encoder_k, im_k)):
        feature = encoder[0](image)
        whole, dense = encoder[1](feature)[:2]
        pool = model.neck.pool
        grid = (feature if pool is None else pool(feature)).flatten(2)
        out.append([t.numpy().astype('float64') for t in (grid, whole, dense)])
    return out


def by_hand(model, im_q, im_k):
    """Every figure of a training step, location by location."""
    (map_q, q, dense_q), (map_k, k, dense_k) = encoders(model, im_q, im_k)
    queue, queue2 = (model.state_dict()[n].numpy().astype('float64') for n in ('queue', 'queue2'))
    rows, keys = [], []
    for n in range(len(q)):
        for i in range(map_q.shape[2]):
            cosines = [unit(map_q[n, :, i], 0) @ unit(map_k[n, :, j], 0) for j in range(map_k.shape[2])]
            rows.append(unit(dense_q[n, :, i], 0))
            keys.append(unit(dense_k[n, :, int(np.argmax(cosines))], 0))
    t = model.head.temperature
    whole = cross_entropy(unit(q, 1), unit(k, 1), queue, t)
    dense = cross_entropy(rows, keys, queue2, t)
    lam = model.loss_lambda
    return {'loss': (1 - lam) * whole[0] + lam * dense[0], 'loss_global': whole[0], 'loss_dense': dense[0],
            'acc1': whole[1], 'acc5': whole[2], 'acc1_dense': dense[1], 'acc5_dense': dense[2],
            'std': spread(unit(q, 1)), 'std_dense': spread(rows)}


@pytest.mark.parametrize('num_grid, size', [(None, (16, 16)), (None, (8, 16)), (1, (16, 16)), (3, (16, 8)),
                                            (7, (16, 8)), ([2, 3], (8, 16))])
def test_every_figure_by_hand(num_grid, size):
    model = small(neck={'num_grid': num_grid}, loss_lambda=0.3)
    im_q, im_k = views(3, *size)
    model.eval()                                  # outputs that do not depend on the batch: exact comparison
    for p in model.encoder_k.parameters():        # keys of their own
        p.set_value(p * (1 + 0.1 * paddle.randn(p.shape)).abs())
    want = by_hand(model, im_q, im_k)
    got = model(im_q, im_k)
    # test_match_metrics.py, test_spread.py
    assert set(got) == set(want) | {'match_mutual', 'match_keys', 'acc1_place', 'rank', 'rank_dense'}
    for name in want:
        assert got[name].ndim == 0
        assert float(got[name]) == pytest.approx(want[name], rel=1e-4, abs=1e-4), name


def test_train_mode_by_hand():
    model = small()
    im_q, im_k = views(4)
    want = by_hand(model, im_q, im_k)
    got = model(im_q, im_k)
    for name in want:
        assert float(got[name]) == pytest.approx(want[name], rel=2e-3), name


@pytest.mark.parametrize('lam, part', [(0, 'loss_global'), (1, 'loss_dense'), (0.0, 'loss_global'),
                                       (1.0, 'loss_dense')])
def test_extreme_lambda_is_one_of_the_losses(lam, part):
    model = small(loss_lambda=lam)
    out = model(*views())
    assert float(out['loss']) == pytest.approx(float(out[part]), rel=1e-6)
    out['loss'].backward()
    silent = model.neck.mlp2 if lam == 0 else model.neck.mlp
    assert all(p.grad is None or np.abs(p.grad.numpy()).max() == 0 for p in silent.parameters())
    assert out['loss_global'].stop_gradient and out['loss_dense'].stop_gradient


def test_lambda_mixes_the_gradients():
    grads = {}
    for lam in (0.0, 0.25, 1.0):
        model = small(loss_lambda=lam)
        model(*views(4, 8, 16))['loss'].backward()
        grads[lam] = model.backbone.conv2.weight.grad.numpy()
    np.testing.assert_allclose(grads[0.25], 0.75 * grads[0.0] + 0.25 * grads[1.0], atol=1e-4 * np.abs(grads[1.0]).max())


def test_metrics_only_when_asked():
    model = small()
    model.with_metrics = False
    assert set(model(*views())) == {'loss', 'loss_global', 'loss_dense'}


def test_queue2_gets_one_vector_per_image_pooled_before_it_is_normalised():
    model = small()
    model.eval()
    im_q, im_k = views(3)
    model(im_q, im_k)
    model.flush_queues()
    _, (_, k, dense_k) = encoders(model, im_q, im_k)
    np.testing.assert_allclose(model.queue.numpy()[:, :3].T, unit(k, 1), atol=1e-5)
    np.testing.assert_allclose(model.queue2.numpy()[:, :3].T, unit(dense_k.mean(2), 1), atol=1e-5)
    assert model.queue2_ptr.numpy().tolist() == [3]


def test_shuffling_key_locations_changes_nothing():
    """Permuting where the key network's vectors stand moves the matches with them."""
    model = small()
    model.eval()
    im_q, im_k = views(3)
    before = float(model(im_q, im_k)['loss_dense'])
    mirror, original = [3, 1, 0, 2], model.key

    def permuted(*args):
        (m, k, d, pooled), everything = original(*args)
        at = paddle.to_tensor(mirror)
        return [paddle.index_select(m, at, 2), k, paddle.index_select(d, at, 2), pooled], everything

    model.key = permuted
    assert float(model(im_q, im_k)['loss_dense']) == pytest.approx(before, rel=1e-5)


def test_a_wrong_order_of_keys_is_seen():
    """Guards the tests above: keys that were not unshuffled give another loss."""
    model = small()
    model.eval()
    im_q, im_k = views(3)
    want = by_hand(model, im_q, im_k)['loss_dense']
    turned = by_hand(model, im_q, paddle.flip(im_k, [0]))['loss_dense']
    assert abs(want - turned) > 1e-3


def test_moco_by_hand():
    model = small('MoCo')
    model.eval()
    im_q, im_k = views(4)
    q, k = (e[1](e[0](x)).numpy().astype('float64') for e, x in ((model.encoder_q, im_q), (model.encoder_k, im_k)))
    loss, acc1, acc5 = cross_entropy(unit(q, 1), unit(k, 1), model.queue.numpy(), 0.2)
    got = model(im_q, im_k)
    assert set(got) == {'loss', 'loss_global', 'acc1', 'acc5', 'std', 'rank'}
    for name, want in (('loss', loss), ('loss_global', loss), ('acc1', acc1), ('acc5', acc5),
                       ('std', spread(unit(q, 1)))):
        assert float(got[name]) == pytest.approx(want, rel=1e-4), name
    model.flush_queues()
    np.testing.assert_allclose(values(model)['queue'][:, :4].T, unit(k, 1), atol=1e-5)


def test_equal_seeds_give_equal_steps_and_other_seeds_other_groups():
    losses = []
    for seed in (0, 0, 1):
        model = small(bn_splits=2)
        model.seed = seed
        losses.append(float(model(*views(8))['loss']))
    assert losses[0] == losses[1] != losses[2]
