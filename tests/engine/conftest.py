"""Fixtures of the engine's tests."""

import pytest


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_images):
    """Images for every test of this file; nothing is written there."""
    from .small import write_data       # not above: a device is chosen before Paddle is imported (tests/conftest.py)
    return write_data(tmp_path_factory.mktemp('data'), make_images)


@pytest.fixture
def out(tmp_path):
    """The `output_dir` of a test, as a change of a config."""
    return {'output_dir': str(tmp_path / 'out')}
