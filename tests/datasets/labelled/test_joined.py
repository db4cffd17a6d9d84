"""Several data sets as one, and reading them in worker processes."""

import pickle

import numpy as np
import pytest
from paddle.io import DataLoader

from passl.datasets.labelled import build_detection, build_multilabel, build_segmentation
from passl.utils.errors import ConfigError, DataError
from tests.datasets.labelled.render import render_coco, render_folder, render_voc


def test_two_years_of_voc(tmp_path):
    for year, train in (('VOC2007', 3), ('VOC2012', 4)):
        render_voc(tmp_path / year, train=train)
    roots = [tmp_path / 'VOC2007', tmp_path / 'VOC2012']
    ds = build_detection('voc', roots, 'trainval')
    parts = [build_detection('voc', r, 'trainval') for r in roots]
    assert ds.root == f'{roots[0]}, {roots[1]}'
    assert len(ds) == 5 + 6 and ds.classes == parts[0].classes and ds.num_classes == 20
    for i, (part, inner) in {0: (0, 0), 4: (0, 4), 5: (1, 0), 10: (1, 5), -1: (1, 5)}.items():
        np.testing.assert_array_equal(ds[i][0], parts[part][inner][0])
        np.testing.assert_array_equal(ds.target(i)['boxes'], parts[part].target(inner)['boxes'])
        assert ds[i][2] == ds.ids[i] == f'{("VOC2007", "VOC2012")[part]}/{parts[part].ids[inner]}'
    with pytest.raises(IndexError):
        ds[11]
    masks = build_segmentation('voc', roots, ['train', 'trainaug'])
    assert len(masks) == 3 + 6 and masks.ignore_index == 255
    np.testing.assert_array_equal(masks[3][1], masks.load_mask(3))
    assert len(build_multilabel('voc', roots, 'val')[3]) == 2


def test_what_cannot_be_joined(tmp_path):
    render_folder(tmp_path / 'a')
    render_folder(tmp_path / 'b')
    (tmp_path / 'b/labels.txt').write_text('ground\nsquare\nbrick\n')
    with pytest.raises(DataError, match='different classes .3 and 3; ground.*classes='):
        build_segmentation('folder', [tmp_path / 'a', tmp_path / 'b'], 'train')
    with pytest.raises(DataError, match='two of the joined'):
        build_segmentation('folder', [tmp_path / 'a', tmp_path / 'a'], 'train')
    with pytest.raises(ConfigError, match='2 roots need as many splits'):
        build_segmentation('folder', [tmp_path / 'a', tmp_path / 'b'], ['train'])
    with pytest.raises(ConfigError, match='at least one'):
        build_segmentation('folder', [], 'train')


def test_copies_and_worker_processes_read_the_same(tmp_path):
    render_coco(tmp_path / 'coco')
    for ds in (build_detection('coco', tmp_path / 'coco', masks=True), build_segmentation('coco', tmp_path / 'coco')):
        copy = pickle.loads(pickle.dumps(ds))
        read = [b[0] for b in DataLoader(ds, batch_size=1, num_workers=2, collate_fn=list, use_shared_memory=False)]
        for i in range(len(ds)):
            image, labels, name = ds[i]
            for other in (copy[i], read[i]):
                np.testing.assert_array_equal(np.asarray(other[0]), image)
                pairs = [(labels[k], other[1][k]) for k in labels] if isinstance(labels, dict) else [(labels, other[1])]
                for a, b in pairs:
                    np.testing.assert_array_equal(np.asarray(b), a)
                assert other[2] == name
