"""Finding, renaming and loading weights."""

import logging

import numpy as np
import pytest

from passl.utils.weights.checkpoint import save_file
from passl.utils.errors import CheckpointError
from passl.utils.weights import (backbone_weights, find_state_dict, load_into, load_weights, select_prefix,
                                 torch_to_paddle)

from .torch_writer import Tensor, write_zip


class FakeTensor:
    """What `load_into` needs of a Paddle tensor."""

    def __init__(self, array, dtype=None):
        self.array, self.dtype = np.asarray(array), dtype or f'paddle.{np.asarray(array).dtype}'
        self.sets = 0

    @property
    def shape(self):
        return list(self.array.shape)

    def set_value(self, value):
        assert value.shape == self.array.shape and value.dtype == self.array.dtype
        self.array, self.sets = value, self.sets + 1


class FakeLayer:
    def __init__(self, **arrays):
        self.state = {k.replace('__', '.'): v if isinstance(v, FakeTensor) else FakeTensor(v)
                      for k, v in arrays.items()}

    def state_dict(self):
        return self.state


def resnet_names(depth=18):
    """{name: tiny array} with torchvision's names of a ResNet, written down from the architecture."""
    blocks = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3)}[depth]
    bn = ('weight', 'bias', '_mean', '_variance')
    names = ['conv1.weight'] + [f'bn1.{k}' for k in bn]
    for s, n in enumerate(blocks, 1):
        for b in range(n):
            for i in range(1, 3 + (depth >= 50)):
                names += [f'layer{s}.{b}.conv{i}.weight'] + [f'layer{s}.{b}.bn{i}.{k}' for k in bn]
            if b == 0 and (s > 1 or depth >= 50):
                names += [f'layer{s}.0.downsample.0.weight'] + [f'layer{s}.0.downsample.1.{k}' for k in bn]
    return {n: np.full((2,), i, np.float32) for i, n in enumerate(names)}


def prefixed(state, prefix):
    return {prefix + k: v for k, v in state.items()}


class TestFindStateDict:
    W = {'a.weight': np.ones(2), 'b': np.float32(1)}

    @pytest.mark.parametrize('obj', [W, {'state_dict': W, 'epoch': 3, 'optimizer': {'v': np.ones(3)}},
                                     {'state_dict': W, 'author': 'x'}, {'model': {'state_dict': W}},
                                     dict(W, epoch=3, note='x')])
    def test_finds(self, obj):
        found = find_state_dict(obj)
        assert list(found) == ['a.weight', 'b'] and found['b'].shape == ()

    @pytest.mark.parametrize('obj', [{}, [1], None, {'epoch': 1}, {'state_dict': {}},
                                     {'state_dict': {'a': 'x'}}])
    def test_says_what_it_found_instead(self, obj):
        with pytest.raises(CheckpointError, match="'f.pdparams' holds no named weights"):
            find_state_dict(obj, "'f.pdparams'")


class TestTorchToPaddle:
    def test_names_and_layout(self):
        fc = np.arange(4, dtype=np.float32).reshape(2, 2)   # square: a missed transpose would load
        state = {'bn1.running_mean': np.ones(2), 'bn1.running_var': np.zeros(2), 'bn1.weight': np.ones(2),
                 'bn1.num_batches_tracked': np.int64(5), 'fc.weight': fc, 'fc.bias': np.ones(2),
                 'conv.weight': np.ones((2, 3, 1, 1)), 'queue': np.ones((2, 5)),
                 'num_batches_tracked': np.int64(1)}
        got = torch_to_paddle(state)
        assert list(got) == ['bn1._mean', 'bn1._variance', 'bn1.weight', 'fc.weight', 'fc.bias',
                             'conv.weight', 'queue']
        assert np.array_equal(got['fc.weight'], fc.T) and got['conv.weight'].shape == (2, 3, 1, 1)
        assert got['queue'].shape == (2, 5)

    def test_paddle_is_left_alone_unless_forced(self):
        state = {'fc.weight': np.ones((2, 3)), 'bn._mean': np.ones(2)}
        assert torch_to_paddle(state) is state
        assert torch_to_paddle(state, force=True)['fc.weight'].shape == (3, 2)

    def test_a_torch_file_is_converted_even_without_batch_norm(self, tmp_path):
        weight = Tensor.of(np.ones((2, 3), np.float32))
        write_zip(tmp_path / 'x.pth', {'state_dict': {'module.fc.weight': weight}})
        assert load_weights(tmp_path / 'x.pth')['fc.weight'].shape == (3, 2)
        save_file({'fc.weight': np.ones((2, 3))}, tmp_path / 'x.pdparams')
        assert load_weights(tmp_path / 'x.pdparams')['fc.weight'].shape == (2, 3)


class TestBackbone:
    @pytest.mark.parametrize('prefix', ['', 'backbone.', 'encoder_q.0.', 'module.encoder_q.0.',
                                        'module.encoder_q.', 'encoder_q.', 'encoder.0.', 'module.',
                                        'module.module.', 'encoder.', 'model.'])
    def test_prefixes(self, prefix):
        state = resnet_names()
        file = dict(prefixed(state, prefix), **{f'{prefix}fc.weight': np.ones(1)})
        got = backbone_weights(file)
        assert list(got) == list(state) and all(got[k] is v for k, v in state.items())

    def test_query_is_preferred_and_other_parts_are_left(self):
        state, other = resnet_names(), {k: v + 100 for k, v in resnet_names().items()}
        for wrapper in ('', 'module.'):
            for query, key in (('encoder_q.0.', 'encoder_k.0.'), ('encoder_q.', 'encoder_k.')):
                file = {wrapper + 'queue': np.ones(2), wrapper + 'queue_ptr': np.ones(1)}
                file.update(prefixed(other, wrapper + key))
                file.update(prefixed(state, wrapper + query))
                file[f'{wrapper}{query}fc.0.weight'] = np.ones(3)
                got = backbone_weights(file)
                assert list(got) == list(state) and all(got[k] is v for k, v in state.items())

    def test_passl_with_alias_and_mm(self):
        state = resnet_names()
        file = dict(prefixed(state, 'backbone.'), **prefixed(state, 'encoder_q.0.'))
        file.update(prefixed(state, 'encoder_k.0.'), **{'encoder_q.1.mlp.0.weight': np.ones(2)})
        assert list(backbone_weights(file)) == list(state)
        file = dict(prefixed(state, 'backbone.'), **prefixed(state, 'encoder_k.module.0.'))
        file['neck.mlp.0.weight'] = np.ones(1)
        assert list(backbone_weights(file)) == list(state)

    def test_lightly(self):
        state = resnet_names()
        back = {'conv1.': '0.', 'bn1.': '1.', **{f'layer{i}.': f'{i + 3}.' for i in range(1, 5)}}
        file = {}
        for name, value in state.items():
            first = name.split('.')[0] + '.'
            file['backbone.' + back[first] + name[len(first):]] = value
        assert list(backbone_weights(file)) == list(state)

    def test_none(self):
        with pytest.raises(CheckpointError, match=r'no ResNet backbone.*blocks, stem'):
            backbone_weights({'stem.0.conv.weight': np.ones(1), 'blocks.0': np.ones(1)})

    def test_the_key_encoder_alone(self):
        """As `passl import` takes it: it is the only backbone in the file."""
        assert list(backbone_weights(prefixed(resnet_names(), 'encoder_k.0.'))) == list(resnet_names())

    def test_select_prefix_takes_whole_parts(self):
        state = {'enc.a': 1, 'enc.b.c': 2, 'encoder.a': 3}
        assert select_prefix(state, 'enc') == select_prefix(state, 'enc.') == {'a': 1, 'b.c': 2}
        assert select_prefix(state, '') == state


class TestLoadInto:
    def test_everything_matches(self, caplog):
        layer = FakeLayer(a__w=np.zeros((2, 3), np.float32), b=np.zeros(3, np.int64))
        with caplog.at_level(logging.INFO, 'passl'):
            report = load_into(layer, {'a.w': np.ones((2, 3)), 'b': np.arange(3, dtype=np.int32)}, 'backbone')
        assert str(report) == 'backbone: matched 2 of 2' and report.complete
        assert 'backbone: matched 2 of 2' in caplog.text
        assert layer.state['a.w'].array.tolist() == [[1, 1, 1], [1, 1, 1]]
        assert layer.state['b'].array.tolist() == [0, 1, 2]

    def test_too_few_changes_nothing_and_lists_ten(self):
        layer = FakeLayer(**{f'm{i:02d}': np.zeros(1, np.float32) for i in range(12)},
                          ok=np.zeros(2, np.float32), shape=np.zeros((2, 3), np.float32))
        with pytest.raises(CheckpointError) as e:
            load_into(layer, {'ok': np.ones(2), 'shape': np.ones((3, 2)), 'extra': np.ones(1)}, 'backbone',
                      source="'f.pdparams'")
        text = str(e.value)
        assert "'f.pdparams' does not fit the backbone; 14 matching tensors are needed" in text
        assert 'matched 1 of 14' in text and 'm09, ... (12 in all)' in text and 'm10' not in text
        assert 'shape [3, 2] in the file, [2, 3] in the model' in text and 'not used: extra' in text
        assert all(t.sets == 0 for t in layer.state.values())

    def test_share(self):
        layer = FakeLayer(a=np.zeros(1), b=np.zeros(1), c=np.zeros(1), d=np.zeros(1))
        state = {k: np.ones(1) for k in 'abc'}
        assert load_into(layer, state, min_matched=0.75).missing == ['d']
        assert load_into(layer, {'a': np.ones(1)}, strict=False).matched == ['a']
        with pytest.raises(CheckpointError, match='4 matching'):
            load_into(layer, state, min_matched=0.76)
        for strict in (True, False):
            with pytest.raises(CheckpointError, match='matched 0 of 4'):
                load_into(layer, {'x': np.ones(1)}, strict=strict)

    def test_counters_with_and_without_an_axis(self):
        layer = FakeLayer(ptr=np.zeros(1, np.int64), zero=np.zeros((), np.float32))
        load_into(layer, {'ptr': np.asarray(7), 'zero': np.ones(1)})
        assert layer.state['ptr'].array.tolist() == [7] and layer.state['zero'].array.shape == ()

    def test_bfloat16_both_ways(self):
        layer = FakeLayer(f=np.zeros(2, np.float32), b=FakeTensor(np.zeros(3, np.uint16), 'paddle.bfloat16'))
        # 1 + 2^-8 lies halfway between two bfloat16 numbers: to even; 1 + 3 * 2^-8 up
        load_into(layer, {'f': np.array([0x3f80, 0xc000], np.uint16),
                          'b': np.array([1 + 2**-8, 1 + 3 * 2**-8, -2], np.float32)})
        assert layer.state['f'].array.tolist() == [1, -2]
        assert [hex(v) for v in layer.state['b'].array] == ['0x3f80', '0x3f82', '0xc000']

    def test_hints(self):
        r18, r50 = resnet_names(18), {k: np.ones(3, np.float32) for k in resnet_names(50)}
        layer = FakeLayer(**{k.replace('.', '__'): v for k, v in r18.items()})
        with pytest.raises(CheckpointError, match=r'holds ResNet-50 \(.*the model is a ResNet-18 \('):
            load_into(layer, r50, 'backbone')
        with pytest.raises(CheckpointError, match='only have a prefix'):
            load_into(layer, prefixed(r18, 'encoder_q.0.'), 'backbone')
        with pytest.raises(CheckpointError, match='names are those of torch'):
            load_into(layer, {'x.running_mean': np.ones(2)}, 'backbone')

    def test_on_a_paddle_layer(self):
        paddle = pytest.importorskip('paddle')
        a, b = (paddle.nn.Sequential(paddle.nn.Conv2D(3, 4, 3), paddle.nn.BatchNorm2D(4)) for _ in range(2))
        a[1]._mean.set_value(np.arange(4, dtype=np.float32))
        report = load_into(b, {k: v.numpy().astype(np.float64) for k, v in a.state_dict().items()}, 'net')
        assert len(report.matched) == 6
        for k, v in a.state_dict().items():
            assert np.array_equal(v.numpy(), b.state_dict()[k].numpy()), k
        b.to(dtype='bfloat16')
        load_into(b, {k: v.numpy() for k, v in a.state_dict().items()}, 'net')
        want = a.state_dict()['0.weight'].numpy()
        got = b.state_dict()['0.weight'].astype('float32').numpy()
        assert (np.abs(got - want) <= 2.0**-8 * np.abs(want)).all()     # rounded, not cut (half a unit)
