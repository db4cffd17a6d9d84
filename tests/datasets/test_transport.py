"""uint8 and float32 transport: the same batches to the last bit; reasons where uint8 is not possible."""

import numpy as np
import paddle
import pytest

from passl.datasets import SampleKey, build_dataloader, build_dataset
from passl.datasets.preprocess import build_transforms
from passl.datasets.preprocess.tensor import split_normalisation
from passl.datasets.transport import Collate
from passl.modules.input_normalize import InputNormalize
from passl.utils.errors import ConfigError, DataError

CROP = {'name': 'RandomResizedCrop', 'size': [12, 10]}
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
IMAGE_NET = {'name': 'NormalizeImage', 'scale': 1 / 255, 'mean': MEAN, 'std': STD}
LEVELS = {'name': 'Normalize', 'mean': [123.7, 116.3, 103.5], 'std': [58.4, 57.1, 57.4]}
TAILS = {'passl': [{'name': 'Transpose'}, IMAGE_NET], 'levels': [{'name': 'Transpose'}, LEVELS],
         'hwc': [dict(IMAGE_NET, data_format='HWC'), {'name': 'Transpose'}], 'tensor': [{'name': 'ToTensor'}],
         'both': [{'name': 'ToTensor'}, {'name': 'Normalize', 'mean': MEAN, 'std': STD}]}


def config(tail, transport, workers=0, two=True, **loader):
    flip = {'name': 'RandomHorizontalFlip'}
    dataset = {'name': 'Synthetic', 'num_images': 10, 'size': 24, 'return_label': True, 'return_two_sample': two}
    if two:
        dataset.update(transforms=[CROP], view_trans1=[flip] + tail, view_trans2=[{'name': 'RandomGrayscale', 'p': 0.5}]
                       + tail)
    else:
        dataset.update(transforms=[CROP, flip] + tail)
    return {'loader': dict(num_workers=workers, transport=transport, **loader), 'dataset': dataset,
            'sampler': {'batch_size': 4, 'shuffle': True}}


def batches(loader):
    return [[x.numpy() for x in batch] for batch in loader]


def assert_equal(a, b):
    assert len(a) == len(b) > 0
    for x, y in zip(a, b):
        assert len(x) == len(y)
        for p, q in zip(x, y):
            assert p.dtype == q.dtype and np.array_equal(p, q)


@pytest.mark.parametrize('tail', TAILS)
def test_both_transports_give_the_samples_of_the_recipe(tail):
    cfg = config(TAILS[tail], 'float32')
    floats, bytes_ = build_dataloader(cfg), build_dataloader(config(TAILS[tail], 'uint8'))
    assert floats.input_transform is None and bytes_.input_transform is not None
    expected = []
    untouched = build_dataset(cfg['dataset'])
    for keys in floats.batch_sampler:
        samples = [untouched[k] for k in keys]
        assert samples[0][0].dtype == np.float32 and samples[0][0].shape == (3, 12, 10)
        expected.append([np.stack(field) for field in zip(*samples)])
    assert_equal(batches(floats), expected)
    assert_equal(batches(bytes_), expected)


@pytest.mark.parametrize('two, training', [(True, True), (False, False)])
def test_workers_and_evaluation(two, training):
    expected = batches(build_dataloader(config(TAILS['passl'], 'float32', two=two), training=training))
    for transport in ('float32', 'uint8'):
        loader = build_dataloader(config(TAILS['passl'], transport, 2, two), training=training)
        assert_equal(batches(loader), expected)
    if not training:                # every image once, with its own label
        labels = np.concatenate([b[-1] for b in expected])
        dataset = build_dataset(config(TAILS['passl'], 'float32', two=two)['dataset'])
        assert sorted(labels) == sorted(dataset.label(i) for i in range(10))


def test_what_travels_is_uint8_until_a_model_takes_it_over():
    class Model:
        input_transform = None

    expected = batches(build_dataloader(config(TAILS['passl'], 'float32')))
    loader, model = build_dataloader(config(TAILS['passl'], 'uint8')), Model()
    loader.hand_over(object())                  # takes no uint8: the loader goes on normalising
    assert_equal(batches(loader), expected)
    loader.hand_over(model)
    raw = list(loader)
    assert raw[0][0].dtype == raw[0][1].dtype == paddle.uint8 and raw[0][0].shape == [4, 12, 10, 3]
    assert_equal([[model.input_transform(x).numpy() for x in b[:2]] + [b[2].numpy()] for b in raw], expected)
    floats, other = build_dataloader(config(TAILS['passl'], 'float32')), Model()
    floats.hand_over(other)
    assert other.input_transform is None
    assert_equal(batches(floats), expected)


def test_a_plain_index_still_gives_the_finished_sample():
    loader = build_dataloader(config(TAILS['passl'], 'uint8', two=False), training=False)
    img = loader.dataset[3][0]
    assert img.dtype == np.float32 and img.shape == (3, 12, 10)
    raw = loader.dataset[SampleKey(3, 0)][0]
    assert raw.dtype == np.uint8 and raw.shape == (12, 10, 3)


def test_auto_is_uint8_on_accelerators_only():
    assert build_dataloader(config(TAILS['passl'], 'auto')).input_transform is None
    assert build_dataloader(config(TAILS['passl'], 'auto'), device='gpu').input_transform is not None
    cfg = config(TAILS['passl'] + [{'name': 'Transpose', 'order': [0, 1, 2]}], 'auto')
    assert build_dataloader(cfg, device='gpu').input_transform is None      # not possible: float32
    assert batches(build_dataloader(cfg, device='gpu'))[0][0].dtype == np.float32


def other_views(cfg):
    cfg['dataset']['view_trans2'] = TAILS['levels']


def normalised_twice(cfg):
    for view in ('view_trans1', 'view_trans2'):
        cfg['dataset'][view] = [dict(IMAGE_NET, data_format='HWC')] + TAILS['passl']


def no_tail(cfg):
    for view in ('view_trans1', 'view_trans2'):
        cfg['dataset'][view] = TAILS['passl'] + [{'name': 'Transpose', 'order': [0, 1, 2]}]


@pytest.mark.parametrize('change, match', [(other_views, 'normalised differently'), (no_tail, r'ends in \[Normalize'),
                                           (normalised_twice, r'normalises float32 \[12, 10, 3\], not uint8')])
def test_uint8_is_refused_with_the_reason(change, match):
    cfg = config(TAILS['passl'], 'uint8')
    change(cfg)
    with pytest.raises(ConfigError, match=r'dataloader\.train\.loader\.transport.*' + match):
        build_dataloader(cfg)
    cfg['loader']['transport'] = 'auto'
    assert build_dataloader(cfg, device='gpu').input_transform is None


def test_unknown_transport():
    with pytest.raises(ConfigError, match="transport' must be one of auto, uint8, float32, not 'int8'"):
        build_dataloader(config(TAILS['passl'], 'int8'))


def test_derived_transforms_are_not_taken_off():
    steps = build_transforms(TAILS['passl']).transforms
    assert split_normalisation(steps)[0] == []

    class Own(type(steps[1])):
        pass
    with pytest.raises(ConfigError, match='Own'):
        split_normalisation([steps[0], Own(scale=1.0)])


def test_an_own_transform_that_returns_floats_now_and_then():
    dataset = build_dataset(config(TAILS['both'], 'auto', two=False)['dataset'])
    last = dataset.leave_normalisation()
    img = np.random.RandomState(0).randint(0, 256, (12, 10, 3)).astype(np.uint8)
    mixed = [(img, np.int64(1)), (img.astype(np.float32), np.int64(2))]
    out, labels = Collate(dataset, last)(mixed)
    expected = build_transforms(TAILS['both'])(img)
    assert np.array_equal(out[0], expected) and np.array_equal(out[1], expected) and labels.tolist() == [1, 2]
    with pytest.raises(DataError, match='not uint8.*float32'):
        Collate(dataset, last, keep=True)(mixed)


def test_input_normalize_by_its_formula():
    x = np.random.RandomState(0).randint(0, 256, (2, 5, 4, 3)).astype(np.uint8)
    factor, offset = np.float32([0.1, 0.2, 0.3]), np.float32([1, 2, 3])
    y = InputNormalize(factor, offset)(paddle.to_tensor(x))
    assert np.array_equal(y.numpy(), (x.astype(np.float32) * factor - offset).transpose(0, 3, 1, 2))
    y = InputNormalize(divisor=255)(paddle.to_tensor(x))
    assert np.array_equal(y.numpy(), x.transpose(0, 3, 1, 2) / np.float32(255))
    ready = paddle.rand([2, 3, 4, 4])
    assert InputNormalize(factor, offset)(ready) is ready
