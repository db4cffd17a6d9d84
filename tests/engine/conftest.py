"""Fixtures of the engine's tests."""

import logging

import pytest

from passl.utils.logger import get_logger


@pytest.fixture(scope='module')
def data(tmp_path_factory, make_images):
    """Images for every test of this file; nothing is written there."""
    from .small import write_data       # not above: a device is chosen before Paddle is imported (tests/conftest.py)
    return write_data(tmp_path_factory.mktemp('data'), make_images)


@pytest.fixture
def out(tmp_path):
    """The `output_dir` of a test, as a change of a config."""
    return {'output_dir': str(tmp_path / 'out')}


@pytest.fixture
def said(request):
    """The lines (level, text) of the log; of one module alone, if the test's file names it as SAID_BY."""
    lines, by = [], getattr(request.module, 'SAID_BY', None)

    class Keep(logging.Handler):
        def emit(self, record):
            if by in (None, record.module):
                lines.append((record.levelname, record.getMessage()))
    handler, logger = Keep(), get_logger()
    level = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    yield lines
    logger.removeHandler(handler)
    logger.setLevel(level)
