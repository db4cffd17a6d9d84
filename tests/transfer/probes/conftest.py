"""Fixtures of the probes' tests: files of a random backbone, and small labelled sets."""

import pytest

from ..nets import narrow
from .sets import write_classes, write_masks


@pytest.fixture(scope='module', autouse=True)
def narrow_networks():
    """The labels are seen in the pixels: an eighth of the channels finds them, too."""
    with narrow():
        yield


@pytest.fixture(scope='session')
def backbone_file(tmp_path_factory):
    """A checkpoint-like file of a random, narrow ResNet-18."""
    from passl.modeling.backbones import build_backbone
    from passl.utils.weights.checkpoint import save_file
    from passl.utils.seed import seed_everything
    seed_everything(5)
    with narrow():
        state = build_backbone({'name': 'ResNet', 'depth': 18}).state_dict()
    path = tmp_path_factory.mktemp('weights') / 'some.pdparams'
    save_file({'state_dict': {f'encoder_q.0.{k}': v.numpy() for k, v in state.items()}}, str(path))
    return str(path)


@pytest.fixture(scope='session')
def classes(tmp_path_factory):
    """Class folders of three colours."""
    return write_classes(tmp_path_factory.mktemp('classes'))


@pytest.fixture(scope='session')
def masks(tmp_path_factory):
    """Images of three colours with masks."""
    return write_masks(tmp_path_factory.mktemp('masks'))
