"""What holds where PaddleSeg is not installed. The other files of this folder are left out there."""

import sys

import pytest

from passl.cli import main
from passl.transfer.paddleseg.data import read_parts
from passl.transfer.paddleseg.options import build_seg_parser
from passl.utils.errors import DataError
from tests.datasets.labelled.render import render_folder


def test_the_other_files_need_paddleseg():
    pytest.importorskip('paddleseg', reason="PaddleSeg is not installed: PASSL_TEST_EXTRAS=seg bash tools/run_tests.sh")


def test_it_is_said_how_to_install_it(project_root, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, 'paddleseg', None)
    assert main(['transfer-seg', '-c', f'{project_root}/configs/transfer/seg/custom.yml', '--pretrained', 'none']) == 2
    assert "pip install -e '.[cpu,seg]'" in capsys.readouterr().err


def test_flags(capsys):
    args = build_seg_parser().parse_args(['-c', 'x.yml', '--pretrained', 'w', '-o', 'a.b=1', '--save_interval', '5'])
    assert (args.config_file, args.pretrained, args.override, args.save_interval) == ('x.yml', 'w', ['a.b=1'], 5)
    assert (args.seed, args.num_workers, args.log_iters, args.evaluate_only, args.predict) == (0, 2, 10, False, None)
    with pytest.raises(SystemExit) as e:
        main(['transfer-seg', '-c', 'x.yml', '--pretraned', 'w'])
    assert e.value.code == 2 and "Did you mean '--pretrained'?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main(['transfer-seg', '-c', 'x.yml', '--evaluate-only', '--predict', 'y'])


def test_other_classes_are_told_of_several_roots_too(tmp_path):
    for name in 'abc':
        render_folder(tmp_path / name)
    (tmp_path / 'c/labels.txt').write_text('ground\nsquare\nbrick\n')
    a, b, c = (str(tmp_path / name) for name in 'abc')
    cfg = {'model': {}, 'train_dataset': {'type': 'folder', 'dataset_root': [a, b], 'mode': 'train'},
           'val_dataset': {'type': 'folder', 'dataset_root': c, 'mode': 'train'}}
    with pytest.raises(DataError, match=f"'{a}, {b}' and '{c}' have different classes"):
        read_parts(cfg, ['train_dataset', 'val_dataset'])
