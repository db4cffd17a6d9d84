"""The embedded data set: deterministic, balanced, hard for raw pixels, its files as promised."""

import hashlib

import cv2
import numpy as np

from passl.datasets import build_dataset
from passl.datasets.synthetic import CLASSES, Synthetic, main, render_scene


def test_a_scene_depends_on_its_index_and_seed_only():
    a, label, mask = render_scene(7)
    np.random.rand(3)
    b, _, mask_b = render_scene(7)
    assert np.array_equal(a, b) and np.array_equal(mask, mask_b) and label == 7
    scenes = {hashlib.md5(render_scene(i, seed=s)[0].tobytes()).digest() for i in range(20) for s in range(3)}
    assert len(scenes) == 60


def test_forms_and_masks():
    for i in range(40):
        img, label, mask = render_scene(i, size=48)
        assert img.shape == (48, 48, 3) and img.dtype == np.uint8 and mask.shape == (48, 48)
        assert label == i % 10 and set(np.unique(mask)) == {0, label + 1}
        assert 0.04 < (mask > 0).mean() < 0.75
        assert img.std() > 10


def test_the_same_scene_at_another_size():
    for i in (0, 3, 8):
        small, _, mask = render_scene(i, size=64)
        large, _, large_mask = render_scene(i, size=128)
        down = cv2.resize(large_mask, (64, 64), interpolation=cv2.INTER_AREA)
        assert ((down > 0) == (mask > 0)).mean() > 0.93
        assert np.corrcoef(cv2.resize(large, (64, 64), interpolation=cv2.INTER_AREA).ravel(),
                           small.ravel())[0, 1] > 0.8


def test_nearest_raw_pixels_are_near_chance():
    images = [np.stack([d.load(i) for i in range(n)]).reshape(n, -1, 3).astype(np.float32)
              for d, n in ((Synthetic('train'), 300), (Synthetic('val'), 100))]
    assert not {x.tobytes() for x in images[0]} & {x.tobytes() for x in images[1]}      # they share no scene
    x, v = (part.reshape(len(part), -1) for part in images)
    distance = (x ** 2).sum(1)[None] - 2 * v @ x.T
    accuracy = (distance.argmin(1) % 10 == np.arange(100) % 10).mean()
    assert accuracy < 0.25
    for part in images:                                 # colours tell nothing either
        means = part[:100].mean(1)
        classes = np.stack([means[k::10].mean(0) for k in range(10)])
        assert classes.std(0).max() < means.std(0).max()


def test_numbers_of_scenes():
    assert len(Synthetic()) == 2000 and len(Synthetic('val')) == 500


def test_cached_image_is_the_rendered_one_and_safe_to_change():
    ds = Synthetic(num_images=3, size=32)
    first = ds.load(1)
    first[:] = 0
    assert np.array_equal(ds.load(1), render_scene(1, 32, ds.seed)[0])
    assert np.array_equal(ds.mask(1), render_scene(1, 32, ds.seed)[2])
    assert not np.array_equal(Synthetic(num_images=3, size=32, seed=1).load(1), ds.load(1))


def test_command_line_writes_what_the_data_set_yields(tmp_path, capsys):
    root = tmp_path / '合成 1'
    arguments = ['--output', str(root), '--train', '20', '--val', '10', '--size', '32']
    assert main(arguments) == 0
    assert sorted(p.name for p in (root / 'train').iterdir()) == sorted(CLASSES)
    folder = build_dataset(dict(name='ImageFolder', dataroot=str(root / 'train'), return_label=True))
    online = Synthetic('train', 20, 32)
    assert len(folder) == 20
    for i, (path, label) in enumerate(folder.samples):
        number = int(path[-9:-4])
        assert np.array_equal(folder.load(i), online.load(number))
        assert folder.classes[label] == CLASSES[online.label(number)]
        mask = root / 'masks' / 'train' / folder.classes[label] / path[-9:]
        found = cv2.imdecode(np.fromfile(str(mask), np.uint8), cv2.IMREAD_UNCHANGED)
        assert np.array_equal(found, online.mask(number))
    val = build_dataset(dict(name='ImageFolder', dataroot=str(root / 'val')))
    assert len(val) == 10 and val.classes == folder.classes
    (tmp_path / 'file').write_text('x')
    assert main(['--output', str(tmp_path / 'file')]) == 2
    assert 'cannot be created' in capsys.readouterr().err
