"""Files of more than 8 bits: `--value-range` of evaluate and embed is the `value_range` of a config."""

import logging
import os

import cv2
import numpy as np
import pytest

from passl.cli import evaluate_main
from passl.transfer.embedding.work import embed
from passl.transfer.probes.clas_data import build_classification
from passl.transfer.reading import Reader
from tests.engine.small import call, refused

from .sets import write_classes, write_masks


def deepened(source, target, ending, change):
    """A copy of a set whose images went through `change`, as files with that ending; masks stay."""
    for folder, _, names in os.walk(source):
        for name in names:
            inside = os.path.relpath(folder, source)
            os.makedirs(os.path.join(target, inside), exist_ok=True)
            path = os.path.join(folder, name)
            to = os.path.join(target, inside, name)
            if name.endswith('.png') and 'masks' not in inside:
                assert cv2.imwrite(to[:-4] + ending, change(cv2.imread(path)))
            else:
                with open(path, 'rb') as f, open(to, 'wb') as g:
                    g.write(f.read())
    return str(target)


def twelve_bits(image):
    return image.astype(np.uint16) * 16             # 0 to 4080 of 4095


def floats(image):
    return image.astype(np.float32) / np.float32(255) * 3 - 1


DEEP = [('.png', twelve_bits, [0, 4095]), ('.tif', twelve_bits, [0, 4095]), ('.tif', floats, [-1, 2])]


@pytest.mark.parametrize('ending, change, value_range', DEEP)
def test_features_are_those_of_data_scaled_by_hand(ending, change, value_range, classes, backbone_file, tmp_path):
    deep = deepened(classes, tmp_path / 'deep', ending, change)
    plain = embed(backbone_file, os.path.join(classes, 'val'), image_size=32)
    found = embed(backbone_file, os.path.join(deep, 'val'), image_size=32, value_range=value_range)
    assert [os.path.splitext(n)[0] for n in found['names']] == [os.path.splitext(n)[0] for n in plain['names']]
    np.testing.assert_array_equal(found['features'], plain['features'])


@pytest.mark.slow
def test_the_figures_are_those_of_data_scaled_by_hand(backbone_file, tmp_path, capsys):
    sets = {}
    for kind, write in (('classes', write_classes), ('masks', write_masks)):
        plain = write(tmp_path / kind, train=4, val=3)
        sets[kind] = plain, deepened(plain, tmp_path / f'{kind}_deep', '.png', twelve_bits)

    def figures(number, *more):
        out = tmp_path / f'out{number}{len(more)}'
        done = call(evaluate_main, [
            '--tasks', 'knn,finetune,knn-seg', '--weights', backbone_file, '--data', sets['classes'][number],
            '--seg-data', sets['masks'][number], '--image-size', '32', '--seeds', '1', '--labels-at', '100',
            '--finetune-at', '50', '--finetune-steps', '2', '--no-cuda', '--output', out, *more], capsys)
        assert done.code == 0, done.err
        return (out / 'comparison.csv').read_text()
    assert figures(0) == figures(1, '--value-range', '0', '4095') != figures(1)


def test_features_are_remembered_by_the_range(classes, tmp_path):
    deep = deepened(classes, tmp_path / 'deep', '.png', twelve_bits)
    digests = [build_classification('folder', deep, 'val', 32, Reader(r)).digest for r in (None, [0, 4095], [0, 4096])]
    assert len(set(digests)) == 3
    assert build_classification('folder', deep, 'val', 32, Reader((0.0, 4095.0))).digest == digests[1]


def test_what_needs_a_range_says_the_flag(classes, backbone_file, tmp_path, capsys, caplog, monkeypatch):
    deep = deepened(classes, tmp_path / 'deep', '.tif', floats)
    words = ['--tasks', 'knn', '--weights', backbone_file, '--data', deep, '--image-size', '32', '--no-cuda',
             '--output', str(tmp_path / 'out')]
    refused(call(evaluate_main, words, capsys), '32-bit floats', '--value-range LOW HIGH')
    refused(call(evaluate_main, [*words, '--value-range', '3', '1'], capsys), '--value-range', 'the lower first')
    dark = deepened(classes, tmp_path / 'dark', '.png', twelve_bits)
    monkeypatch.setattr(logging.getLogger('passl'), 'propagate', True)
    with caplog.at_level('WARNING', logger='passl'):
        embed(backbone_file, os.path.join(dark, 'val'), image_size=32)
    told = [r.getMessage() for r in caplog.records if '--value-range LOW HIGH' in r.getMessage()]
    assert told and len(told) <= 2                  # once for each kind of doubt, not for each image
