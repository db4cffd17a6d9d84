"""What the tests with two processes share."""

import pytest


@pytest.fixture(scope='session')
def images(tmp_path_factory, make_images):
    """A folder of 26 images: with 2 x 4 of them in a step, 3 steps in an epoch. Not to be changed."""
    root = tmp_path_factory.mktemp('images')
    make_images(root, 26, size=40)
    return root


@pytest.fixture(scope='session')
def whole(images, tmp_path_factory):
    """Run folder of the run of `test_stop_and_kill.config` that nobody disturbs."""
    from .test_stop_and_kill import config, train
    tmp = tmp_path_factory.mktemp('whole')
    return train(tmp, 'whole', config(images, tmp))
