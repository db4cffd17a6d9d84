"""What is drawn of a data set: the views of the training, true places, and nothing of a network changes."""

import random

import numpy as np
import paddle
import pytest
from paddle import nn

from passl.datasets import build_dataset
from passl.datasets.sampler import SampleKey
from passl.modules.freeze import quiet
from passl.pictures import look
from passl.utils.errors import DataError
from passl.utils.seed import derive_seed

RECIPE = [{'name': 'RandomResizedCrop', 'size': 32}, {'name': 'ColorJitter', 'brightness': 0.4},
          {'name': 'RandomHorizontalFlip'}, {'name': 'ToTensor'}]


@pytest.fixture
def dataset(tmp_path, make_images):
    make_images(tmp_path / 'flat', 5, size=(50, 70))
    return build_dataset({'name': 'UnlabelledFolder', 'dataroot': str(tmp_path / 'flat'), 'return_two_sample': True,
                          'transforms': RECIPE})


def test_the_views_are_those_of_the_training_and_no_random_number_is_drawn(dataset):
    recipe, normalise = dataset.recipe.split()
    state = random.getstate(), np.random.get_state()[1].tolist()
    for index, image in look.some_images(dataset, 3):
        views, _, where = look.views_of(recipe, image, derive_seed(11, index))
        for view, trained in zip(views, dataset[SampleKey(index, 11)]):
            np.testing.assert_array_equal(normalise(view), trained)
        assert where.shape == (2, 6)
    assert (random.getstate(), np.random.get_state()[1].tolist()) == state


def test_a_larger_input_shows_the_same_crops(dataset):
    recipe, _ = dataset.recipe.split()
    _, image = look.some_images(dataset, 1)[0]
    small, boxes, where = look.views_of(recipe, image, 5)
    large, same_boxes, same_where = look.views_of(look.enlarged(recipe, 128), image, 5)
    assert boxes == same_boxes and np.array_equal(where, same_where)
    assert small[0].shape == (32, 32, 3) and large[0].shape == (128, 128, 3)
    assert abs(small[0].mean() - large[0].mean()) < 3
    assert look.side_of(recipe) == (64, 32)
    assert recipe.crops[0].size == (32, 32)             # the training's recipe is what it was


def test_boxes_on_the_original_are_where_the_crops_are(dataset):
    recipe, _ = dataset.recipe.split()
    images = look.some_images(dataset, 2)
    sheet = look.view_sheet(images, recipe, 11, side=140)        # 50 x 70 pixels: twice as large, 20 rows above
    for (index, image), drawn in zip(images, sheet['boxes']):
        _, boxes, _ = look.views_of(recipe, image, derive_seed(11, index))
        np.testing.assert_allclose(drawn, [(2 * x, 2 * y + 20, 2 * w, 2 * h) for y, x, h, w in boxes])
    assert (sheet['originals'][:, :20] == 255).all() and sheet['originals'].shape == (2, 140, 140, 3)


def test_true_cells_by_hand_with_a_flip():
    """The second crop is the right half of the first, mirrored: its column c shows columns 2 + (3 - c) / 2 of 4."""
    where = np.array([[[0, 0, 1, 1, 0, 0], [0, 0.5, 1, 0.5, 1, 0]]], np.float32)
    true, valid = look.true_cells(where, 2, 4)
    assert valid.reshape(2, 4).tolist() == [[0, 0, 1, 1]] * 2
    # centres of columns 2 and 3 lie at 0.625 and 0.875: a quarter and three quarters of the half, mirrored 0.75, 0.25
    assert true.reshape(2, 4)[:, 2:].tolist() == [[3, 1], [7, 5]]


def test_shared_area_by_hand():
    assert look.shared([[0, 0, 0.5, 0.5, 0, 0], [0.25, 0.25, 0.5, 1, 0, 0]]) == pytest.approx(0.0625 / 0.5)
    assert look.shared([[0, 0, 0.2, 0.2, 0, 0], [0.5, 0.5, 0.2, 0.2, 1, 0]]) == 0


def test_unreadable_images_are_passed_over(dataset):
    with open(dataset.samples[0], 'wb') as f:
        f.write(b'no image')
    assert [i for i, _ in look.some_images(dataset, 2)] == [1, 4]
    assert dataset.num_bad == 0             # the training finds it by itself
    for path in dataset.samples:
        with open(path, 'wb') as f:
            f.write(b'no image')
    with pytest.raises(DataError, match='could be read'):
        look.some_images(dataset, 2)


def test_quiet_gives_every_layer_its_mode_back():
    net = nn.Sequential(nn.Conv2D(3, 4, 3), nn.BatchNorm2D(4), nn.BatchNorm2D(4))
    net.train()
    net[1].eval()
    before = {k: v.numpy() for k, v in net.state_dict().items()}
    with quiet(net):
        assert not any(layer.training for layer in net.sublayers(True))
        assert net(paddle.ones([2, 3, 8, 8])).stop_gradient
    assert [layer.training for layer in (net, net[0], net[1], net[2])] == [True, True, False, True]
    for key, value in net.state_dict().items():
        np.testing.assert_array_equal(value.numpy(), before[key])


def test_features_are_the_nets_in_their_directions():
    net = nn.Conv2D(3, 4, 32, stride=32)
    images = np.random.RandomState(0).randint(0, 256, (2, 64, 96, 3)).astype(np.uint8)
    found, = look.maps_of(net, images, lambda x: x.transpose(2, 0, 1).astype(np.float32) / 255)
    assert found.shape == (2, 2, 3, 4) and found.dtype == np.float16
    x = paddle.to_tensor(images.transpose(0, 3, 1, 2).astype(np.float32) / 255)
    expected = net(x).transpose([0, 2, 3, 1]).numpy()
    lengths = np.linalg.norm(found.astype(float), axis=-1) * np.linalg.norm(expected, axis=-1)
    np.testing.assert_allclose((found * expected).sum(-1) / lengths, 1, atol=1e-3)
