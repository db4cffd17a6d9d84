"""Files that vanish in the middle of a run, and images to predict on."""

import multiprocessing
import os
import signal

import numpy as np
import pytest

from passl.datasets.image import ImageReadError
from passl.transfer.lost import Lost
from passl.transfer.paddledet import shim
from passl.transfer.predictions import readable
from passl.utils.errors import DataError
from passl.utils.logger import get_logger
from tests.datasets.labelled.render import write_file, write_image


def test_a_fault_in_a_worker_is_told_to_the_process_that_trains():
    lost = Lost()
    lost.check()
    for text in ("'a.jpg' is empty (0 bytes).", 'another'):
        worker = multiprocessing.get_context('fork').Process(target=lost.note, args=(ImageReadError(text),))
        worker.start()
        worker.join()
    with pytest.raises(DataError, match=r"^'a.jpg' is empty .0 bytes.. It could be read when the run started"):
        lost.check()
    long = Lost()
    long.note(ImageReadError('狗' * 2000))
    with pytest.raises(DataError, match='^狗{600,}. It'):
        long.check()


def test_what_paddledetection_decodes_with(tmp_path, monkeypatch):
    monkeypatch.setattr(shim, 'lost', Lost())
    picture = np.random.RandomState(0).randint(0, 255, (20, 30, 3)).astype(np.uint8)
    write_image(f'{tmp_path}/a.png', picture)
    given = {'im_file': f'{tmp_path}/a.png', 'h': 20., 'w': 30., 'keep_ori_im': True}
    with open(tmp_path / 'a.png', 'rb') as f:
        for sample in (given, {'image': f.read()}):
            found = shim.decode(None, sample)
            np.testing.assert_array_equal(found['image'], picture)
            assert (found['h'], found['w']) == (20, 30) and 'im_file' not in found
            assert found['im_shape'].tolist() == [20, 30] and found['scale_factor'].tolist() == [1, 1]
            assert found['im_shape'].dtype == found['scale_factor'].dtype == np.float32
    np.testing.assert_array_equal(given['ori_image'], picture[..., ::-1])
    shim.lost.check()
    assert shim.decode(None, {'im_file': f'{tmp_path}/none.png', 'h': 20., 'w': 30.})['image'].shape == (20, 30, 3)
    with pytest.raises(DataError, match="none.png' cannot be read"):
        shim.lost.check()


def test_images_to_predict_on(tmp_path, monkeypatch):
    paths = [f'{tmp_path}/{name}' for name in ('a.png', 'b/a.png', 'c.png', 'd.png')]
    for path in paths[:2]:
        write_image(path, np.zeros((8, 8, 3), np.uint8))
    write_file(paths[2], b'none')

    def deadly(path):
        return path != paths[0] or os.kill(os.getpid(), signal.SIGKILL)
    said = []
    monkeypatch.setattr(get_logger(), 'warning', lambda text, *args: said.append(text % args))
    assert readable(paths, str(tmp_path)) == paths[:2]
    assert readable(paths[:2], str(tmp_path), deadly) == paths[1:2]
    assert said == [
        f"2 of 4 images cannot be read: '{paths[2]}' is not an image of a known kind (4 bytes); '{paths[3]}' cannot be "
        'read: No such file or directory. They are left out.',
        f"1 of 2 images cannot be read: '{paths[0]}': the process that read it was killed by SIGKILL. They "
        'are left out.']
    assert readable(paths[:2], str(tmp_path), lambda path: path != paths[0]) == paths[1:2]
    for bad, also in ((paths[2:], lambda path: True), (paths[:1], lambda path: False)):
        with pytest.raises(DataError, match='cannot be read'):
            readable(bad, str(tmp_path), also)
    with pytest.raises(DataError, match=r"a.png' and '.*a.jpg' differ in their ending only"):
        readable([paths[0], paths[0][:-4] + '.jpg'], os.path.dirname(paths[0]))
