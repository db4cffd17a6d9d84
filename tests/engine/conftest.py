"""Fixtures of the engine's tests."""

import pytest

from .small import write_data


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_images):
    """Images for every test of this file; nothing is written there."""
    return write_data(tmp_path_factory.mktemp('data'), make_images)


@pytest.fixture
def out(tmp_path):
    """The `output_dir` of a test, as a change of a config."""
    return {'output_dir': str(tmp_path / 'out')}
