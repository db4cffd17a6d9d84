"""What MoCo and DenseCL share: two encoders, shuffled keys, queues."""

import numpy as np
import paddle
import pytest

from passl.utils.errors import ConfigError

from .tiny import DIM, K, small, unit, values, views


def keys_of(model, x):
    return model.key(x, model.shuffle_of(x))


def statistics(model, encoder):
    return {n: v for n, v in values(model).items() if n.startswith(encoder) and n.endswith(('_mean', '_variance'))}


@pytest.mark.parametrize('name, mlps, queues', [('MoCo', ['mlp'], ['queue']),
                                                ('DenseCL', ['mlp', 'mlp2'], ['queue', 'queue2'])])
def test_names_in_the_state_dict(name, mlps, queues):
    model = small(name)
    backbone = set(model.backbone.state_dict())
    assert len(backbone) == 7
    want = {f'encoder_{e}.0.{n}' for e in 'qk' for n in backbone}
    want |= {f'encoder_{e}.1.{m}.{i}.{s}' for e in 'qk' for m in mlps for i in (0, 2) for s in ('weight', 'bias')}
    want |= {q + s for q in queues for s in ('', '_ptr')}
    state = model.state_dict()
    assert set(state) == want
    for q in queues:
        assert state[q].shape == [DIM, K] and state[q + '_ptr'].shape == [1]
        np.testing.assert_allclose(np.linalg.norm(state[q].numpy(), axis=0), 1, atol=1e-5)


def test_encoders_start_equal_and_apart():
    model = small()
    for name, q in model.encoder_q.state_dict().items():
        k = model.encoder_k.state_dict()[name]
        np.testing.assert_array_equal(q.numpy(), k.numpy())
        assert q is not k and k.stop_gradient
    model.encoder_q[0].conv1.weight.set_value(paddle.zeros([8, 3, 3, 3]))
    assert np.abs(model.encoder_k[0].conv1.weight.numpy()).max() > 0


def test_only_the_query_encoder_has_a_gradient():
    model = small()
    model(*views())['loss'].backward()
    for name, p in model.named_parameters():
        if name.startswith('encoder_k') or name.endswith(('_mean', '_variance')):
            assert p.stop_gradient and p.grad is None, name
        else:
            assert np.abs(p.grad.numpy()).max() > 0, name
    assert model.queue.grad is None and model.queue2.grad is None


def test_key_bn_uses_and_keeps_the_statistics_of_the_batch():
    model = small()
    x, other = views(4)
    before = statistics(model, 'encoder_k')
    (_, k, _, _), _ = keys_of(model, x)
    for name, now in statistics(model, 'encoder_k').items():
        assert np.abs(now - before[name]).max() > 0, name
    mixed = paddle.concat([x[:2], other[2:]])
    (_, k_mixed, _, _), _ = keys_of(model, mixed)
    assert np.abs(k.numpy()[:2] - k_mixed.numpy()[:2]).max() > 1e-3        # the other samples matter
    for name, now in statistics(model, 'encoder_q').items():
        assert np.array_equal(now, before[name.replace('encoder_q', 'encoder_k')])


def test_key_statistics_do_not_follow_the_query():
    model = small()
    model.query(views()[0])
    before = statistics(model, 'encoder_k')
    model.update_key_encoder()
    for name, now in statistics(model, 'encoder_k').items():
        np.testing.assert_array_equal(now, before[name])


def test_update_key_encoder():
    model = small(m=0.75)
    model.update_key_encoder()                                            # equal encoders: nothing moves
    before = values(model)
    for p in model.encoder_q.parameters():
        if not p.stop_gradient:
            p.set_value(p + 1.0)
    model.update_key_encoder()
    after = values(model)
    for name, p in model.encoder_q.named_parameters():
        shift = 0.0 if p.stop_gradient else 0.25
        np.testing.assert_allclose(after['encoder_k.' + name], before['encoder_k.' + name] + shift, atol=1e-5)


@pytest.mark.parametrize('training', [False, True])
def test_keys_come_back_in_order(training):
    """In eval mode shuffling changes nothing; in train mode one process shuffles within one BN group."""
    model = small()
    model.train() if training else model.eval()
    x = views(8)[0]
    feature = model.encoder_k[0](x)
    whole, dense, pooled = model.encoder_k[1](feature)
    want = [feature.flatten(2).numpy(), unit(whole.numpy(), 1), unit(dense.numpy(), 1), unit(pooled.numpy(), 1)]
    for step in range(3):
        model.step = step
        local, everything = keys_of(model, x)
        for got, everybodys, w in zip(local, everything, want):
            np.testing.assert_allclose(got.numpy(), w, atol=1e-3 if training else 1e-6, rtol=0 if training else 1e-6)
            assert got.stop_gradient
            if got.ndim == 2:
                np.testing.assert_array_equal(everybodys.numpy(), got.numpy())
            else:
                assert everybodys is None                                 # needed by its owner only


@pytest.mark.parametrize('name, splits', [('MoCo', 1), ('DenseCL', 1), ('DenseCL', 2)])
def test_raw_images_give_what_normalised_ones_give(name, splits):
    """uint8 [N, H, W, 3] of the loader, moved as they are and normalised on the device."""
    def normalise(x):
        seen.append(x.dtype)
        return (x.astype('float32').transpose([0, 3, 1, 2]) - 120.0) / 60.0

    seen, results = [], []
    raw = [paddle.to_tensor(np.random.RandomState(i).randint(0, 256, (4, 32, 48, 3)).astype('uint8')) for i in (0, 1)]
    for images in (raw, [normalise(x) for x in raw]):
        model = small(name, bn_splits=splits)
        model.input_transform = normalise
        loss = float(model(*images)['loss'])
        model.flush_queues()
        model.eval()
        results.append((loss, values(model)['queue'], model(images[0], mode='extract').numpy()))
    assert [str(d).split('.')[-1].lower() for d in seen] == ['uint8'] * 5     # floating point images pass
    for a, b in zip(*results):
        np.testing.assert_array_equal(a, b)


def test_raw_images_reach_the_key_encoder_shuffled_and_raw(monkeypatch):
    model = small(bn_splits=2)
    model.input_transform = lambda x: x.astype('float32').transpose([0, 3, 1, 2])
    moved = []
    monkeypatch.setattr('passl.modules.batch_shuffle.BatchShuffle.shuffle', lambda self, x: moved.append(x) or x)
    x = paddle.zeros([4, 32, 32, 3]).astype('uint8')
    keys_of(model, x)
    assert len(moved) == 1 and moved[0] is x


def test_bn_splits():
    x = views(8)[0]
    one, two = small(bn_splits=1), small(bn_splits=2)
    halves = [np.concatenate([v.numpy() for v in pair]) for pair in zip(one.query(x[:4]), one.query(x[4:]))]
    for got, want in zip(two.query(x), halves):
        np.testing.assert_allclose(got.numpy(), want, rtol=1e-4, atol=1e-4)
    whole, split = (keys_of(m, x)[0][1].numpy() for m in (one, two))
    assert np.abs(whole - split).max() > 1e-3
    two.step = 1                                                          # another grouping
    assert np.abs(keys_of(two, x)[0][1].numpy() - split).max() > 1e-3
    two.set_state_dict(one.state_dict())
    one.eval(), two.eval()
    for a, b in zip(keys_of(one, x)[0] + list(one.query(x)), keys_of(two, x)[0] + list(two.query(x))):
        np.testing.assert_allclose(a.numpy(), b.numpy(), atol=1e-6)


def test_keys_of_one_bn_group_depend_on_nobody_outside():
    model = small(bn_splits=2)
    from passl.modules.batch_shuffle import shared_permutation
    groups = shared_permutation(8, model.seed, model.step).reshape(2, 4)
    x, other = views(8)
    changed = x.numpy().copy()
    changed[groups[1]] = other.numpy()[groups[1]]
    before = keys_of(model, x)[0][1].numpy()
    after = keys_of(model, paddle.to_tensor(changed))[0][1].numpy()
    np.testing.assert_allclose(after[groups[0]], before[groups[0]], atol=1e-5)
    assert np.abs(after[groups[1]] - before[groups[1]]).max() > 1e-2


def test_queues_are_written_at_the_flush():
    model = small()
    start = values(model)
    keys = []
    for step in range(2):                                                 # two micro-batches
        model.step = step
        v1, v2 = views(4, seed=step)
        model(v1, v2)
    for name in ('queue', 'queue2', 'queue_ptr'):
        np.testing.assert_array_equal(values(model)[name], start[name])
    waiting = [{k: v.numpy() for k, v in w.items()} for w in model._waiting]
    model.flush_queues()
    model.flush_queues()                                                  # nothing is written twice
    assert model.queue_ptr.numpy().tolist() == model.queue2_ptr.numpy().tolist() == [8]
    for name in ('queue', 'queue2'):
        keys = np.concatenate([w[name] for w in waiting])
        np.testing.assert_array_equal(getattr(model, name).numpy()[:, :8], keys.T)
        np.testing.assert_array_equal(getattr(model, name).numpy()[:, 8:], start[name][:, 8:])
        np.testing.assert_allclose(np.linalg.norm(keys, axis=1), 1, atol=1e-5)


def test_temperature_given_to_the_model():
    assert small(T=0.07, head={'name': 'ContrastiveHead'}).head.temperature == 0.07
    assert small(T=0.2).head.temperature == 0.2
    with pytest.raises(ConfigError, match="'model.T' is 0.07.*'model.head.temperature' is 0.2"):
        small(T=0.07)


@pytest.mark.parametrize('settings, words', [
    ({'m': 1.1}, ["'model.m'", '1.1']),
    ({'K': 0}, ["'model.K'", '0']),
    ({'K': 2.5}, ["'model.K'", '2.5']),
    ({'bn_splits': 0}, ["'model.bn_splits'", '0']),
    ({'T': 0, 'head': {'name': 'ContrastiveHead'}}, ["'model.T'", '0']),
    ({'loss_lambda': 1.5}, ["'model.loss_lambda'", '1.5']),
    ({'loss_lamda': 0.5}, ["'model.loss_lamda'", "'loss_lambda'"]),
    ({'dim': 16}, ["'model.dim' is 16", "'model.neck.out_channels' is 8"]),
    ({'backbone': {'name': 'Narrow', 'depth': 18}}, ["'model.neck.in_channels' is 16", 'Narrow gives 128']),
    ({'head': None}, ['head']),
])
def test_wrong_settings(settings, words):
    with pytest.raises(ConfigError) as e:
        small(**settings)
    for word in words:
        assert word in str(e.value)


def test_batch_that_does_not_divide_into_bn_splits():
    with pytest.raises(ConfigError, match="'model.bn_splits' is 2.*batch of 3"):
        small(bn_splits=2)(*views(3))


@pytest.mark.parametrize('name', ['MoCo', 'DenseCL'])
def test_wrong_batches(name):
    model = small(name)
    v1, v2 = views(2, 32, 32)
    with pytest.raises(ConfigError, match=f'{name} needs two views.*return_two_sample'):
        model(v1)
    with pytest.raises(ConfigError, match=f'{name} needs two views'):
        model(v1, paddle.zeros([2], dtype='int64'))
    with pytest.raises(ConfigError, match=r'differ in size, \[32, 32\] and \[16, 16\]'):
        model(v1, views(2)[0])
    with pytest.raises(ConfigError, match=r'differ in size, \[32, 48\] and \[64, 48\]'):
        model(*[paddle.zeros([2, h, 48, 3]).astype('uint8') for h in (32, 64)])
    with pytest.raises(ConfigError, match='differ in type'):
        model(v1, paddle.zeros(v1.shape).astype('uint8'))
    with pytest.raises(ConfigError, match='without labels'):
        model(v1, mode='test')
    with pytest.raises(ConfigError, match="Unknown mode 'tset'"):
        model(v1, mode='tset')
    model.eval()
    np.testing.assert_array_equal(model(v1, mode='extract').numpy(), model.encoder_q[0](v1).numpy())
