"""The file of regions: what is computed when, and what happens to broken and half-finished ones."""

import glob
import json
import multiprocessing
import os
import pickle
import shutil
import signal
import time

import cv2
import numpy as np
import pytest

from passl.datasets import SampleKey, build_dataset, region_cache
from passl.datasets.base import ImageDataset
from passl.datasets.image import ImageReadError
from passl.datasets.packed import write_packed
from passl.datasets.regions import packed_map, superpixels
from passl.utils.errors import ConfigError, DataError

from .test_places import Files, encoded
from .test_regions import CROP, photo

RECIPE = [CROP, {'name': 'RandomHorizontalFlip'}, {'name': 'ToTensor'}]


@pytest.fixture
def computed(monkeypatch, tmp_path):
    """A function: how many images the regions were computed of since it was last called, in all processes."""
    record = str(tmp_path / 'computed')
    open(record, 'w').close()

    def noting(img, settings):
        if img.shape != (8, 8, 3):          # what imports
            with open(record, 'ab', buffering=0) as f:
                f.write(b'.')
        return superpixels(img, settings)
    monkeypatch.setattr(region_cache, 'superpixels', noting)

    def count():
        n = os.path.getsize(record)
        os.truncate(record, 0)
        return n
    return count


@pytest.fixture
def images(tmp_path):
    """Six files of different photographs."""
    folder = tmp_path / 'images'
    folder.mkdir()
    for i in range(6):
        cv2.imwrite(str(folder / f'{i}.png'), photo(24, 30, seed=i))
    return folder


def carrying(images, cache=None, name='UnlabelledFolder', **settings):
    node = {'name': name, 'dataroot': str(images), 'return_two_sample': True, 'transforms': RECIPE}
    on_error = settings.pop('on_error', 'replace')
    regions = dict(settings, cache=cache and str(cache))
    dataset = build_dataset(dict(node, on_error=on_error, max_bad=0.5, regions=regions))
    dataset.carry(('regions',), str(images) + '.regions')
    return dataset


def maps(dataset):
    return [dataset._region_cache.packed(i) for i in range(len(dataset))]


def assert_right(dataset):
    for i, packed in enumerate(maps(dataset)):
        assert np.array_equal(packed, packed_map(superpixels(dataset.load(i), dataset.regions)))


def test_the_second_start_computes_none(images, computed, caplog):
    caplog.set_level('INFO')
    assert_right(carrying(images))
    assert computed() == 6
    text = caplog.text
    assert '2056 bytes for each of 6 images' in text and 'GiB are free' in text and '.bin' in text
    assert_right(carrying(images))
    assert computed() == 0
    found = sorted(os.listdir(str(images) + '.regions'))
    assert [os.path.splitext(f)[1] for f in found] == ['.bin', '.lock']
    assert os.path.getsize(os.path.join(str(images) + '.regions', found[0])) == 4096 + 6 * 2056
    assert sorted(os.listdir(images)) == [f'{i}.png' for i in range(6)]         # nothing beside the images


def test_a_changed_file_alone_is_computed_again(images, computed):
    before = maps(carrying(images))
    computed()
    cv2.imwrite(str(images / '4.png'), photo(24, 30, seed=77))
    os.utime(images / '2.png', (1, 1))
    dataset = carrying(images)
    assert computed() == 2
    assert_right(dataset)
    assert [np.array_equal(a, b) for a, b in zip(before, maps(dataset))] == [i != 4 for i in range(6)]


def test_files_that_come_go_and_change_places(images, computed):
    carrying(images)
    computed()
    (images / '0.png').unlink()
    cv2.imwrite(str(images / '35.png'), photo(24, 30, seed=5))
    assert_right(carrying(images))
    assert computed() == 1
    (images / '5.png').unlink()
    assert_right(carrying(images))
    assert computed() == 0


def test_other_settings_are_another_file(images, computed):
    carrying(images)
    assert computed() == 6
    assert_right(carrying(images, segments=5))
    assert computed() == 6
    carrying(images)
    assert computed() == 0 and len(glob.glob(str(images) + '.regions/*.bin')) == 2


def test_other_settings_in_a_file_that_is_named(images, tmp_path, computed, caplog):
    cache = tmp_path / 'a' / 'b' / 'mine.bin'
    assert_right(carrying(images, cache))
    assert computed() == 6 and cache.is_file()
    assert_right(carrying(images, cache, sigma=0))
    assert computed() == 6 and f"'{cache}' cannot be used: it was computed with other settings" in caplog.text


def damaged(kind, data):
    head, rest = data[:4096], data[4096:]
    if kind == 'count':
        return head.replace(b'"count": 6', b'"count": 9') + rest
    return {'empty': b'', 'cut': data[:5000], 'longer': data + b'x', 'foreign': b'GIF89a' + data,
            'zeros': bytes(len(data)), 'json': head[:16] + b'{' * 4080 + rest,
            'list': head[:16] + b'[1]\n'.ljust(4080) + rest}[kind]


@pytest.mark.parametrize('kind, end', [(kind, '') for kind in (
    'empty', 'cut', 'longer', 'foreign', 'zeros', 'json', 'list', 'count', 'folder')] + [
    ('cut', '.part'), ('foreign', '.part'), ('folder', '.part')])
def test_a_broken_file_is_computed_anew_with_a_message(images, tmp_path, computed, caplog, kind, end):
    cache = tmp_path / 'mine.bin'
    carrying(images, cache)
    computed()
    if end:
        os.rename(cache, str(cache) + end)
    place = str(cache) + end
    if kind == 'folder':
        os.unlink(place)
        os.mkdir(place)
        with pytest.raises(ConfigError, match='Is a directory'):
            carrying(images, cache)
        return
    with open(place, 'rb') as f:
        data = f.read()
    with open(place, 'wb') as f:
        f.write(damaged(kind, data))
    assert_right(carrying(images, cache))
    assert computed() == 6 and f"'{place}' cannot be used" in caplog.text
    assert not os.path.exists(str(cache) + '.part')


def test_damaged_keys_cost_their_images_only(images, tmp_path, computed):
    cache = tmp_path / 'mine.bin'
    carrying(images, cache)
    computed()
    with open(cache, 'r+b') as f:
        f.seek(4096 + 8 * 3)
        f.write(b'\1\2\3\4\5\6\7\0\0\0')
    assert_right(carrying(images, cache))
    assert computed() == 2


def _killed(images, cache, pause):
    def slow(img, settings):
        time.sleep(pause)
        return superpixels(img, settings)
    region_cache.superpixels = slow         # in this process alone
    carrying(images, cache)


@pytest.mark.parametrize('changed', [False, True])
def test_a_killed_run_goes_on_where_it_stood(images, tmp_path, computed, changed):
    for i in range(6, 30):
        cv2.imwrite(str(images / f'{i}.png'), photo(24, 30, seed=i))
    cache = tmp_path / 'mine.bin'
    part = str(cache) + '.part'
    process = multiprocessing.get_context('fork').Process(target=_killed, args=(images, cache, 0.05))
    process.start()
    end = time.monotonic() + 60
    while time.monotonic() < end and not (os.path.exists(part) and np.fromfile(part, '<u8', 30, offset=4096).any()):
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    end = time.monotonic() + 60             # its workers end with the four images that they have
    kept = -1
    while time.monotonic() < end:
        before, kept = kept, int((np.fromfile(part, '<u8', 30, offset=4096) != 0).sum())
        if before == kept:
            break
        time.sleep(0.5)
    computed()
    assert 0 < kept < 30 and not cache.exists()
    if changed:                             # a file comes: all have another place
        cv2.imwrite(str(images / '00.png'), photo(24, 30, seed=99))
    assert_right(carrying(images, cache))
    assert computed() == 30 - kept + changed
    assert cache.is_file() and not os.path.exists(part)


def _at_once(images, cache, code):
    assert_right(carrying(images, cache))
    os._exit(code)


def test_two_runs_at_once_compute_once(images, tmp_path, computed):
    processes = [multiprocessing.get_context('fork').Process(target=_at_once, args=(images, tmp_path / 'mine.bin', 7))
                 for _ in range(3)]
    for p in processes:
        p.start()
    for p in processes:
        p.join(120)
    assert [p.exitcode for p in processes] == [7] * 3 and computed() == 6


# ------------------------------------------------------------------------------------------------- bad input

def test_an_unreadable_image_is_marked_and_replaced(images, computed, caplog):
    (images / '3.png').write_bytes(b'no image')
    dataset = carrying(images)
    assert computed() == 5 and dataset.num_bad == 1 and 'Unreadable image replaced' in caplog.text
    assert [m is None for m in maps(dataset)] == [i == 3 for i in range(6)]
    *views, shown = dataset[SampleKey(3, 1)]
    other = dataset._load_or_replace(3)[2]
    assert other != 3 and set(np.unique(shown)) <= set(np.unique(superpixels(dataset.load(other), dataset.regions)))
    dataset.carry(('places', 'regions'), str(images) + '.regions')
    where, again = dataset[SampleKey(3, 1)][2:]
    assert np.array_equal(again, region_cache_of(dataset, other, where)) and np.array_equal(again, shown)
    carrying(images)
    assert computed() == 0                  # it is not tried at every start
    cv2.imwrite(str(images / '3.png'), photo(24, 30, seed=3))
    assert_right(carrying(images))
    assert computed() == 1


def region_cache_of(dataset, index, where):
    from passl.datasets.regions import regions_of_views
    return regions_of_views(dataset._region_cache.packed(index), where)


def test_an_image_that_is_readable_later_is_computed_on_the_way(images, monkeypatch):
    dataset = carrying(images)
    expected = dataset[SampleKey(2, 5)][-1]
    monkeypatch.setattr(dataset._region_cache, 'packed', lambda index: None)
    assert np.array_equal(dataset[SampleKey(2, 5)][-1], expected)


def test_unreadable_images_stop_the_run_where_the_data_set_says_so(images):
    for i in range(4):
        (images / f'{i}.png').write_bytes(b'no image')
    with pytest.raises(ImageReadError, match='0.png'):
        carrying(images, on_error='raise')
    shutil.rmtree(str(images) + '.regions')
    with pytest.raises(DataError, match='4 of 6 images are unreadable'):
        carrying(images)


def test_no_place_to_keep_them(images, tmp_path, monkeypatch):
    (tmp_path / 'file').write_text('')
    with pytest.raises(ConfigError, match='cannot be kept in .*Choose another.*dataset.regions.cache'):
        carrying(images, tmp_path / 'file' / 'below')
    monkeypatch.setattr(shutil, 'disk_usage', lambda path: shutil._ntuple_diskusage(2**30, 2**30, 10000))
    with pytest.raises(ConfigError, match=r'take 0\.0 MiB, and .* has 0\.0 MiB left.*regions.cache'):
        carrying(images, tmp_path / 'mine.bin')
    assert not (tmp_path / 'mine.bin').exists()


def test_a_folder_that_may_only_be_read_is_enough_when_all_is_there(images, tmp_path, computed, monkeypatch):
    carrying(images, tmp_path / 'mine.bin')
    monkeypatch.setattr(region_cache.FileLock, 'acquire', lambda *_, **__: pytest.fail('writes'))
    assert_right(carrying(images, tmp_path / 'mine.bin'))


def test_an_error_of_an_own_data_set_is_told(tmp_path):
    class Own(Files):
        def load(self, index):
            raise ValueError('planted')
    with pytest.raises(DataError, match="regions of '.*' cannot be computed: ValueError: planted"):
        Own([b'1', b'2'], [CROP]).carry(('regions',), tmp_path)


# ------------------------------------------------------------------------------------------------- kinds of data sets

def test_bytes_in_memory_are_told_by_their_content(tmp_path, computed):
    files = [encoded(photo(24, 30, seed), '.png') for seed in range(4)]
    for expected in (4, 0):
        dataset = Files(files, [CROP])
        dataset.carry(('regions',), tmp_path)
        assert computed() == expected
        assert_right(dataset)
    dataset = Files([*files[:3], encoded(photo(24, 30, 9), '.png')], [CROP])
    dataset.carry(('regions',), tmp_path)
    assert computed() == 1


class Loading(ImageDataset):
    """Only `load`."""

    def __init__(self, pictures):
        super().__init__(return_two_sample=True, transforms=RECIPE)
        self.samples = range(len(pictures))
        self.pictures = pictures
        self._filled()

    def load(self, index):
        return self.pictures[index]


def test_pixels_of_load_are_told_by_their_content(tmp_path, computed):
    pictures = [photo(24, 30, seed) for seed in range(4)]
    for expected in (4, 0, 1):
        if expected == 1:
            pictures[2] = photo(24, 30, 9)
        dataset = Loading(pictures)
        dataset.carry(('regions',), tmp_path)
        assert computed() == expected
        assert_right(dataset)


@pytest.mark.parametrize('name', ['ImageFolder', 'ImageNet', 'ImageList'])
def test_other_sets_of_files(tmp_path, make_images, computed, name):
    make_images(tmp_path / 'set', 3, classes=2)
    node = {'name': name, 'dataroot': str(tmp_path / 'set'), 'return_two_sample': True, 'transforms': RECIPE,
            'return_label': True}
    if name == 'ImageList':
        (tmp_path / 'list.txt').write_text('class0/0000.png 0\nclass1/0001.png 1\n')
        node['list_file'] = str(tmp_path / 'list.txt')
    for expected in (2 if name == 'ImageList' else 6, 0):
        dataset = build_dataset(node)
        dataset.carry(('regions',), tmp_path / 'kept')
        assert computed() == expected
        assert_right(dataset)


def test_a_packed_set(images, tmp_path, computed):
    names = [f'{i}.png' for i in range(6)]

    def pack():
        write_packed(str(tmp_path / 'set.pack'), [[(images / n).read_bytes() for n in names]], names)
    pack()
    cache = tmp_path / 'set.bin'
    for expected in (6, 0):
        assert_right(carrying(tmp_path / 'set.pack', cache, 'PackedImages'))
        assert computed() == expected
    shutil.copy2(tmp_path / 'set.pack', tmp_path / 'copy.pack')           # keeps the time
    assert_right(carrying(tmp_path / 'copy.pack', cache, 'PackedImages'))
    assert computed() == 0
    (tmp_path / 'set.pack').unlink()
    cv2.imwrite(str(images / '4.png'), photo(24, 30, seed=77))
    pack()
    assert_right(carrying(tmp_path / 'set.pack', cache, 'PackedImages'))
    assert computed() == 6


def test_a_rendered_set_renders_nothing_to_know_its_regions(tmp_path, computed, monkeypatch):
    node = {'name': 'Synthetic', 'num_images': 5, 'size': 32, 'transforms': RECIPE}
    dataset = build_dataset(node)
    dataset.carry(('regions',), tmp_path)
    assert computed() == 5
    assert_right(dataset)
    dataset = build_dataset(node)
    monkeypatch.setattr(type(dataset), 'load', lambda self, index: pytest.fail('rendered'))
    dataset.carry(('regions',), tmp_path)
    dataset = build_dataset(dict(node, seed=1))
    assert dataset.image_key(0) != build_dataset(node).image_key(0)


def test_the_data_set_can_be_pickled(images):
    dataset = carrying(images)
    other = pickle.loads(pickle.dumps(dataset))
    for a, b in zip(dataset[SampleKey(1, 2)], other[SampleKey(1, 2)]):
        assert np.array_equal(a, b)


def test_the_file_is_what_its_description_says(images, tmp_path):
    dataset = carrying(images, tmp_path / 'mine.bin')
    data = (tmp_path / 'mine.bin').read_bytes()
    assert data.startswith(b'PASSL regions 1\n')
    assert json.loads(data[16:4096].rstrip(b'\0')) == {'count': 6, 'segments': 16, 'compactness': 10.0, 'sigma': 1.0,
                                                      'side': 128, 'cells': 64}
    for i in range(6):
        assert data[4096 + 48 + 2048 * i:][:2048] == packed_map(superpixels(dataset.load(i), dataset.regions)).tobytes()
