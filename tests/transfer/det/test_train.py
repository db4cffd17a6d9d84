"""Runs of a few iterations through the command: VOC with C4, COCO with masks; evaluation again, pictures, refusals."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from passl.cli import transfer_det_main
from passl.transfer.paddledet.command import build_transfer_det_parser
from passl.transfer.paddledet.shim import available
from passl.transfer.paddledet.weights import to_paddledet
from passl.utils.weights.checkpoint import load_file, save_file
from passl.utils.weights import find_state_dict
from tests.transfer.det.fixtures import tiny, write_coco, write_voc
from tests.transfer.det.test_weights import C4, FPN, ROOT

MASK = FPN.replace('faster', 'mask')
needs_ppdet = pytest.mark.skipif(not available(), reason='PaddleDetection is not installed')
SMALL_C4 = ('PlainResNet.depth=18', 'Res5NormHead.depth=18', 'num_classes=from_data', 'LearningRate.base_lr=0.01',
            'RPNHead.anchor_generator.anchor_sizes=[16, 32, 48]')


@pytest.fixture(scope='module')
def pretrained(tmp_path_factory):
    """File with the backbone of a ResNet-18 of ours."""
    import paddle
    from passl.modeling import build_backbone
    paddle.seed(7)
    path = str(tmp_path_factory.mktemp('weights') / 'backbone.pdparams')
    save_file({k: v.numpy() for k, v in build_backbone({'name': 'ResNet', 'depth': 18}).state_dict().items()}, path)
    return path


def read(*path):
    with open(os.path.join(*map(str, path))) as f:
        return json.load(f)


def changed(output, pretrained):
    """Names of the backbone's tensors in which a trained detector equals what it started from."""
    state = find_state_dict(load_file(os.path.join(output, 'model_final.pdparams')))
    start = to_paddledet(load_file(pretrained))[0]
    same = []
    for name, value in state.items():
        key = name.split('backbone.')[-1].split('bbox_head.head.')[-1]
        if name.startswith(('backbone.', 'bbox_head.head.res5')):
            same += [key] if np.array_equal(value, start[key]) else []
    return same


@needs_ppdet
def test_c4_on_voc(tmp_path, pretrained):
    root, output = write_voc(tmp_path / 'VOCdevkit'), str(tmp_path / 'out')
    words = ['-c', C4, '--data', root, '--output', output, '--no-cuda', *tiny(*SMALL_C4)]
    assert transfer_det_main([*words, '--pretrained', pretrained, '--iters', '4']) == 0
    metrics = read(output, 'metrics.json')
    assert metrics['iterations'] == 4 and set(metrics['bbox']) == {'AP', 'AP50', 'AP75'}
    assert all(0 <= v <= 100 for v in metrics['bbox'].values())
    with open(os.path.join(output, 'log.jsonl')) as f:
        lines = [json.loads(line) for line in f]
    assert [line['iteration'] for line in lines] == [1, 2, 3, 4]
    assert all(np.isfinite(list(v for k, v in line.items() if k != 'mode')).all() for line in lines)
    assert lines[0]['loss'] == pytest.approx(sum(v for k, v in lines[0].items() if k.startswith('loss_')), abs=1e-3)
    # stem, res2 and all scales, shifts and statistics of norms included
    assert changed(output, pretrained) == []
    # again, from the saved weights: the same figures
    weights = os.path.join(output, 'model_final.pdparams')
    assert transfer_det_main([*words, '--evaluate-only', '--weights', weights]) == 0
    assert read(output, 'evaluation.json')['bbox'] == metrics['bbox']


@needs_ppdet
def test_masks_on_coco(tmp_path, pretrained):
    root, output = write_coco(tmp_path / 'd'), str(tmp_path / 'out')
    words = ['-c', MASK, '--output', output, '--no-cuda', *tiny()]
    assert transfer_det_main([*words, '--data', root, '--pretrained', pretrained, '--iters', '3']) == 0
    metrics = read(output, 'metrics.json')
    assert {'AP', 'AP50', 'AP75'} <= set(metrics['bbox']) and {'AP', 'AP50', 'AP75'} <= set(metrics['mask'])
    assert metrics['loss_last']['loss_mask'] > 0 and changed(output, pretrained) == []
    weights = os.path.join(output, 'model_final.pdparams')
    picture = os.path.join(root, 'images', 'val0.png')
    assert transfer_det_main([*words, '--predict', picture, '--weights', weights, '--threshold', '0.0']) == 0
    assert os.path.getsize(os.path.join(output, 'predictions', 'val0.png')) > 0
    found, = read(output, 'predictions.json').values()
    assert all(p['class'] in ('red', 'blue') and 0 <= p['score'] <= 1 and len(p['box']) == 4 for p in found)


@needs_ppdet
def test_refusals(tmp_path, pretrained, capsys):
    root = write_coco(tmp_path / 'd')
    words = ['-c', FPN, '--no-cuda', *tiny()]

    def refused(*more):
        output = str(tmp_path / f'out{len(os.listdir(tmp_path))}')
        assert transfer_det_main([*words, '--output', output, *more]) == 2
        assert not os.path.exists(os.path.join(output, 'model_final.pdparams'))
        return capsys.readouterr().err
    wrong = str(tmp_path / 'wrong.pdparams')
    save_file({k: v for k, v in load_file(pretrained).items() if k != 'layer3.1.bn2.bias'}, wrong)
    assert 'matched 99 of 100' in refused('--data', root, '--pretrained', wrong)
    assert 'res4.res4b.branch2b.norm.bias' in refused('--data', root, '--pretrained', wrong)
    assert '--data: no folder' in refused('--data', str(tmp_path / 'none'), '--pretrained', pretrained)
    assert 'fewer than a batch' in refused('--data', root, '--pretrained', pretrained, '-o', 'total_batch=99')
    assert 'detector' in refused('--data', root, '--evaluate-only', '--weights', pretrained)
    if not __import__('paddle').is_compiled_with_cuda():
        words.remove('--no-cuda')
        assert '--no-cuda' in refused('--data', root, '--pretrained', pretrained)


def test_command_line():
    for wrong in (['-c', FPN], ['-c', FPN, '--weights', 'x', '--pretrained', 'y'], ['-c', FPN, '--evaluate-only'],
                  ['--pretrained', 'x'], ['-c', FPN, '--pretrained', 'x', '--iters', '0']):
        with pytest.raises(SystemExit) as stop:
            transfer_det_main(wrong)
        assert stop.value.code == 2
    args = build_transfer_det_parser().parse_args(['-c', FPN, '--pretrained', 'none', '--data', 'd'])
    assert args.pretrained == 'none' and args.data == 'd' and not args.no_cuda


@pytest.mark.skipif(available(), reason='PaddleDetection is installed')
def test_without_paddledetection(tmp_path, capsys):
    assert transfer_det_main(['-c', FPN, '--pretrained', 'none', '--no-cuda', '--output', str(tmp_path / 'o')]) == 2
    assert 'tools/detection_environment.sh' in capsys.readouterr().err


@needs_ppdet
@pytest.mark.slow
def test_two_processes(tmp_path, pretrained):
    """Each takes half of the batch; one evaluates and writes."""
    root, output = write_coco(tmp_path / 'd'), str(tmp_path / 'out')
    command = [sys.executable, '-m', 'paddle.distributed.launch', '--nproc_per_node', '2', '--log_dir',
               str(tmp_path / 'log'), os.path.join(ROOT, 'tools', 'transfer_det.py'), '-c', FPN, '--data', root,
               '--output', output, '--no-cuda', '--pretrained', pretrained, '--iters', '2', *tiny()]
    done = subprocess.run(command, cwd=tmp_path, env=dict(os.environ, PYTHONPATH=ROOT), text=True, capture_output=True,
                          timeout=500)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    assert '(2 processes)' in done.stdout
    assert read(output, 'metrics.json')['iterations'] == 2 and changed(output, pretrained) == []
