"""Detection configs are data; the shipped ones say what the protocols say."""

import os

import pytest

from passl.transfer.paddledet.config import TAG, read_config
from passl.transfer.paddledet.schedule import Budget, move_schedule
from passl.transfer.paddledet.shim import available, import_ppdet
from passl.utils.errors import ConfigError
from tests.transfer.det.test_weights import C4, CONFIGS, FPN

needs_ppdet = pytest.mark.skipif(not available(), reason='PaddleDetection is not installed')
COCO = C4.replace('faster_rcnn_r50_c4_voc07+12', 'mask_rcnn_r50_fpn_1x_coco')
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def schedule(cfg):
    steps, warmup = cfg['LearningRate']['schedulers']
    return cfg['LearningRate']['base_lr'], steps['milestones'], steps['gamma'], warmup['steps']


def test_the_protocols():
    voc, coco = read_config(C4), read_config(COCO)
    assert (voc['iterations'], voc['total_batch'], *schedule(voc)) == (24000, 16, 0.02, [18000, 22000], 0.1, 100)
    assert (coco['iterations'], coco['total_batch'], *schedule(coco)[:3]) == (90000, 16, 0.02, [60000, 80000], 0.1)
    assert voc['voc'] == {'train': ['VOC2007/trainval', 'VOC2012/trainval'], 'eval': ['VOC2007/test']}
    assert voc['metric'] == 'VOC' and voc['map_type'] == '11point' and voc['BBoxHead']['head'] == 'Res5NormHead'
    assert {coco[k]['norm_type'] for k in ('FPN', 'XConvNormHead', 'NormMaskFeat')} == {'sync_bn'}
    for path in CONFIGS:
        cfg = read_config(path)
        assert cfg['norm_type'] == 'sync_bn' and cfg['PlainResNet']['freeze_at'] == -1
        assert cfg['PlainResNet']['freeze_norm'] is False
        for reader in ('TrainReader', 'EvalReader', 'TestReader'):
            normalise, = [t['NormalizeImage'] for t in cfg[reader]['sample_transforms'] if 'NormalizeImage' in t]
            assert normalise == {'is_scale': True, 'mean': MEAN, 'std': STD}
    sizes = voc['TrainReader']['sample_transforms'][1]['RandomResize']['target_size']
    assert sizes == coco['TrainReader']['sample_transforms'][1]['RandomResize']['target_size']
    assert [short for short, _ in sizes] == list(range(480, 801, 32))


@needs_ppdet
@pytest.mark.parametrize('path', CONFIGS, ids=os.path.basename)
def test_shipped_configs_pass(path):
    import_ppdet()
    from passl.transfer.paddledet.config import check_config
    check_config(read_config(path))


@needs_ppdet
def test_one_config_after_another():
    """PaddleDetection keeps its config in the process; the former one must leave nothing behind."""
    import_ppdet()
    from passl.transfer.paddledet.config import activate, check_config
    for path in (C4, FPN, C4):
        cfg = read_config(path, ['num_classes=3'])
        check_config(cfg)
        active = activate(cfg)
        assert ('FPN' in active and active['FPN'].get('out_channel') == 128) == (path == FPN)
        assert ('voc' in active) == (path == C4) and active.num_classes == 3


def config(tmp_path, text):
    path = tmp_path / 'own.yml'
    path.write_text(f'_BASE_: [{os.path.relpath(FPN, tmp_path)}]\n' + text)
    return str(path)


@pytest.mark.parametrize('text', [
    'a: !!python/object/apply:os.system [touch {0}]', 'a: !!python/name:os.system',
    'a: !!python/object/new:os.system [x]', 'a: !Callable [os.system]', '? [1]\n: 2'])
def test_hostile_yaml_is_refused_while_reading(tmp_path, text):
    with pytest.raises(ConfigError):
        read_config(config(tmp_path, text.format(tmp_path / 'made')))
    assert not (tmp_path / 'made').exists()


@needs_ppdet
@pytest.mark.parametrize('text, message', [
    ('LearningRate: {schedulers: [!Callable {full_type: os.system, args: [touch FILE]}]}',
     'tag .!Callable. is not allowed'),
    ('TrainDataset: !os.system {command: touch FILE}', 'is not allowed'),
    ('Res5Head: {depth: !Callable {full_type: os.getpid}}', 'is not allowed'),
    ('TrainDataset: !COCODataSet {image_folder: x}', "no argument 'image_folder'"),
    ('TrainReader: {sample_transforms: [{os: {}}]}', "unknown transform 'os'"),
    ('TrainReader: {sample_transforms: [{DecodeCache: {cache_root: x}}]}', 'unknown transform'),
    ('TrainReader: {sample_transforms: [{Resize: {size: 3}}]}', "no argument 'size'"),
    ('pretrain_weights: https://example.org/w.pdparams', 'Give the weights with --pretrained'),
    ('use_wandb: true', 'sends nothing'), ('epoch: 12', 'in iterations'),
    ('FPNN: {out_channel: 3}', "unknown key 'FPNN'. Did you mean 'FPN'"),
    ('FPN: {out_chanel: 3}', "no argument 'out_chanel'"),
    ('iterations: 0', 'whole number of 1 or more'), ('metric: WIDER', 'COCO or VOC'),
    ('architecture: os', "'architecture' is 'os'")])
def test_what_a_config_may_not_say(tmp_path, text, message):
    import_ppdet()
    from passl.transfer.paddledet.config import activate, check_config
    cfg = read_config(config(tmp_path, text.replace('FILE', str(tmp_path / 'made'))))
    with pytest.raises(ConfigError, match=message):
        check_config(cfg)
        activate(cfg)
    assert not (tmp_path / 'made').exists()


def test_inheritance_and_overrides(tmp_path):
    cfg = read_config(config(tmp_path, 'EvalDataset: !VOCDataSet {anno_path: x}\nTrainDataset: {image_dir: y}'),
                      ['FPN.out_channel=64', 'TrainReader.sample_transforms.0={Decode: {}}', 'RPNHead.in_channel=3'])
    assert cfg['EvalDataset'] == {TAG: 'VOCDataSet', 'anno_path': 'x'}
    assert cfg['TrainDataset'][TAG] == 'COCODataSet' and cfg['TrainDataset']['image_dir'] == 'y'
    assert cfg['FPN'] == {'out_channel': 64, 'norm_type': 'sync_bn'} and cfg['RPNHead']['in_channel'] == 3
    for wrong in ('TrainReader.sample_transforms.9=1', 'iterations.x=1', 'a=!!python/name:os',
                  'TrainDataset.!=COCODataSet', '!=x'):
        with pytest.raises(ConfigError):
            read_config(FPN, [wrong])
    with pytest.raises(ConfigError, match='No config file'):
        read_config(str(tmp_path / 'none.yml'))
    loop = tmp_path / 'loop.yml'
    loop.write_text('_BASE_: [loop.yml]')
    with pytest.raises(ConfigError, match='goes in a circle'):
        read_config(str(loop))


def test_another_length_moves_the_schedule():
    cfg = read_config(C4)
    move_schedule(cfg, None)
    assert schedule(cfg)[1:] == ([18000, 22000], 0.1, 100) and cfg['iterations'] == 24000
    move_schedule(cfg, 240)
    assert schedule(cfg)[1:] == ([180, 220], 0.1, 90) and cfg['iterations'] == 240


@needs_ppdet
def test_learning_rate_of_every_iteration():
    """Linear from a hundredth over 4 iterations, then divided by 10 at 6 and 8."""
    import_ppdet()
    from ppdet.core.workspace import create

    from passl.transfer.paddledet.config import activate
    steps = {TAG: 'IterationSteps', 'milestones': [6, 8], 'gamma': 0.1}
    warmup = {TAG: 'LinearWarmup', 'steps': 4, 'start_factor': 0.01}
    activate({'LearningRate': {'base_lr': 1.0, 'schedulers': [steps, warmup]}})
    rate, seen = create('LearningRate')(1000), []
    for _ in range(10):
        seen.append(rate.get_lr())
        rate.step()
    assert seen == pytest.approx([0.01, 0.2575, 0.505, 0.7525, 1, 1, 0.1, 0.1, 0.01, 0.01])


def test_budget_ends_a_loader_in_mid_epoch():
    class Loader(list):
        dataset = 'the data'
    budget = Budget(Loader('abc'), 5)
    assert [list(budget) for _ in range(3)] == [['a', 'b', 'c'], ['a', 'b'], []] and len(budget) == 3
    assert budget.dataset == 'the data'
