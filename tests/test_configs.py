"""Every shipped YAML, and the shapes of PASSL v1.1.1's four files: they load, fit together and build."""

import glob
import json
import math
import os
import re

import numpy as np
import pytest

from passl.utils.config import dump_config, load_config
from passl.utils.options import build_train_parser

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def find(*pattern):
    """Paths relative to the clone of the files that match."""
    return sorted(os.path.relpath(f, ROOT) for f in glob.glob(os.path.join(ROOT, *pattern), recursive=True))


SHIPPED = find('configs', '[!_]*', '*.yaml')
FIXTURES = find('tests', 'fixtures', 'passl_v1', '*.yaml')
BASES = find('configs', '_base_', '**', '*.yaml')
CHANNELS = {18: 512, 34: 512, 50: 2048, 101: 2048, 152: 2048}
HEADER = ('# Paper:', '# Batch:', '# Time:', '# Expected:', '# Command:')
ITERS = 10


def load(path, *overrides):
    return load_config(os.path.join(ROOT, path), overrides)


def text_of(path):
    with open(os.path.join(ROOT, path), encoding='utf-8') as f:
        return f.read()


def without_model(cfg):
    """`cfg` without its model; for comparing two configs."""
    return {k: v for k, v in cfg.items() if k != 'model'}


def test_all_are_there():
    names = {os.path.basename(f)[:-5] for f in SHIPPED}
    assert names == {'densecl_r50', 'densecl_r50_coco', 'densecl_r101', 'densecl_r50_vd', 'densecl_r18_demo',
                     'densecl_r18_small', 'densecl_r50_small', 'moco_v1_r50', 'moco_v2_r50', 'moco_clas_r50',
                     'moco_clas_r101', 'moco_v2_r18_small', 'moco_clas_r18_small', 'moco_clas_r18_demo', 'simclr_r50'}
    assert len(FIXTURES) == 4


@pytest.mark.parametrize('path', SHIPPED)
def test_header_says_what_it_is(path):
    text = text_of(path)
    assert 10 <= len(text.splitlines()) <= 40
    head = text[:text.index('_base_:')]
    for word in HEADER:
        assert word in head, f'{path}: no line {word}'
    assert path in head or 'quickstart.sh' in head
    # the command in the header is one that the tool takes
    command = head[head.index('# Command:'):].replace('# Command:', '').replace('\n#', ' ')
    if 'tools/train.py' in command:
        words = command[command.index('tools/train.py'):].split(')')[0].split()[1:]
        args = build_train_parser().parse_args(words)
        assert args.config_file == path
        load(path, *args.override)


@pytest.mark.parametrize('path', SHIPPED + FIXTURES)
def test_loads_and_survives_a_round_trip(path, tmp_path):
    cfg = load(path)
    copy = tmp_path / 'copy.yaml'
    copy.write_text(dump_config(cfg), encoding='utf-8')
    assert load_config(str(copy)) == cfg


@pytest.mark.parametrize('path', BASES)
def test_bases_load_on_their_own(path):
    assert load(path)


@pytest.mark.parametrize('path', SHIPPED + FIXTURES)
def test_parts_fit_each_other(path):
    cfg = load(path)
    model, schedule = cfg['model'], cfg['lr_scheduler']
    channels = CHANNELS[model['backbone']['depth']]
    if 'neck' in model:
        assert model['neck']['in_channels'] == channels
        assert model.get('dim', 128) == model['neck']['out_channels']
        assert cfg['dataloader']['train']['dataset']['return_two_sample'] is True
    else:
        assert model['head']['in_channels'] == channels
        assert 'val' in cfg['dataloader']
    if path in SHIPPED:
        assert 'T_max' not in schedule          # it follows `epochs`, also those of `-o epochs=N`
    assert schedule.get('T_max', cfg['epochs']) == cfg['epochs']
    if 'milestones' in schedule:
        assert schedule['milestones'] == sorted(schedule['milestones'])
        assert schedule['milestones'][-1] < cfg['epochs']


def test_numbers_mean_what_their_writer_meant():
    cfg = load('tests/fixtures/passl_v1/densecl_r50.yaml')
    assert cfg['model']['neck']['num_grid'] is None
    scale = cfg['dataloader']['train']['dataset']['view_trans1'][-1]['scale']
    assert scale == pytest.approx(1 / 255, rel=1e-12)
    assert cfg['optimizer']['weight_decay'] == 0.0001 and cfg['device'] == 'gpu'


def test_recipes():
    """The numbers of the papers' recipes; a total of 8 x 32 = 256 images per step."""
    rates = {'densecl/densecl_r50': 0.03, 'densecl/densecl_r50_coco': 0.3, 'moco/moco_v1_r50': 0.03,
             'moco/moco_v2_r50': 0.03, 'moco/moco_clas_r50': 30.0, 'simclr/simclr_r50': 0.3}
    for name, rate in rates.items():
        cfg = load(f'configs/{name}.yaml')
        assert cfg['lr_scheduler']['learning_rate'] == rate
        assert cfg['dataloader']['train']['sampler']['batch_size'] == 32
    dense = load('configs/densecl/densecl_r50.yaml')['model']
    assert (dense['K'], dense['m'], dense['loss_lambda']) == (65536, 0.999, 0.5)
    assert dense['head']['temperature'] == 0.2
    linear = load('configs/moco/moco_clas_r50.yaml')
    assert linear['lr_scheduler']['milestones'] == [60, 80] and linear['optimizer']['weight_decay'] == 0.0


@pytest.mark.parametrize('size', ['r50', 'r18_small'])
def test_moco_v2_and_densecl_differ_in_the_model_only(size):
    moco, dense = load(f'configs/moco/moco_v2_{size}.yaml'), load(f'configs/densecl/densecl_{size}.yaml')
    dense.pop('expected', None)             # what is known of the recipe's run
    assert without_model(moco) == without_model(dense)
    assert moco['model']['name'] == 'MoCo' and dense['model']['name'] == 'DenseCL'


def test_our_densecl_equals_passl_v1s():
    """Only what PASSL leaves to defaults, the loader and the run's settings may differ."""
    ours, theirs = load('configs/densecl/densecl_r50.yaml'), load('tests/fixtures/passl_v1/densecl_r50.yaml')
    for key in ('transforms', 'view_trans1', 'view_trans2'):
        assert ours['dataloader']['train']['dataset'][key] == theirs['dataloader']['train']['dataset'][key]
    assert {**ours['lr_scheduler'], 'T_max': ours['epochs']} == theirs['lr_scheduler']
    assert ours['model']['neck'] == theirs['model']['neck']


def with_the_same_model():
    """[(paths, model node)], one for every distinct model: of depth 18 and with short queues. How wide a backbone of
    each depth is: tests/modeling/test_resnet.py; that the next part fits: test_parts_fit_each_other."""
    found = {}
    for path in SHIPPED + FIXTURES:
        node = load(path)['model']
        node['backbone']['depth'], node['neck' if 'neck' in node else 'head']['in_channels'] = 18, 512
        node = dict(node, K=512) if node['name'] in ('MoCo', 'DenseCL') else node
        found.setdefault(json.dumps(node, sort_keys=True), ([], node))[0].append(path)
    return list(found.values())


@pytest.mark.parametrize('paths, node', with_the_same_model(), ids=lambda x: x[0] if isinstance(x, list) else x['name'])
def test_model_optimizer_and_schedule_build(paths, node):
    from passl import modeling
    model = modeling.build_model(node)
    for path in paths:
        check_optimizer_and_schedule(load(path), model)


def check_optimizer_and_schedule(cfg, model):
    from passl import solver
    schedule = solver.build_lr_scheduler(cfg['lr_scheduler'], ITERS, length=cfg['epochs'] * ITERS)
    optimizer = solver.build_optimizer(cfg['optimizer'], schedule, model)
    trained = sorted(n for n, p in model.named_parameters() if not p.stop_gradient)
    if cfg['model']['name'] == 'Classification':
        assert trained == ['head.fc_cls.bias', 'head.fc_cls.weight']
    else:
        assert not [n for n in trained if n.startswith('encoder_k')] and len(trained) > 60
    # the rate: at the start, and near the end of the training
    peak, name = cfg['lr_scheduler']['learning_rate'], cfg['lr_scheduler']['name']
    assert schedule() == pytest.approx(0.0 if name == 'CosineWarmup' else peak)
    assert optimizer.get_lr() == schedule()
    last = cfg['epochs'] * ITERS
    schedule.step(last // 2)
    if name == 'CosineAnnealingDecay':
        assert schedule() == pytest.approx(peak / 2, rel=1e-6 if last % 2 == 0 else 1e-1)
    schedule.step(last)
    if name in ('CosineAnnealingDecay', 'CosineWarmup'):
        assert schedule() == pytest.approx(0.0, abs=1e-9)
    else:
        assert schedule() == pytest.approx(peak * 0.1 ** len(cfg['lr_scheduler']['milestones']))


def write_images(root):
    import cv2
    rng = np.random.RandomState(0)
    for name in ('a', 'b'):
        os.makedirs(os.path.join(root, name))
        for i in range(2):
            image = rng.randint(0, 255, (120, 150, 3), dtype=np.uint8)
            cv2.imwrite(os.path.join(root, name, f'{i}.png'), image)


@pytest.mark.parametrize('path, part', [(path, part) for path in SHIPPED + FIXTURES
                                        for part in sorted(load(path)['dataloader'])])
def test_data_set_and_transforms_build(path, part, tmp_path):
    cfg = load(path)
    from passl.datasets.builder import build_dataset
    write_images(str(tmp_path / 'images'))
    node = dict(cfg['dataloader'][part]['dataset'], dataroot=str(tmp_path / 'images'))
    dataset = build_dataset(node)
    assert len(dataset) == 4
    sample = dataset[1]
    images = [x for x in sample if np.ndim(x) == 3]
    assert len(images) == (2 if node.get('return_two_sample') else 1)
    assert len(sample) == len(images) + bool(node.get('return_label'))
    size = expected_size(node['transforms'])
    for image in images:
        assert image.shape == (3, size, size) and image.dtype == np.float32
        assert np.isfinite(image).all() and np.abs(image).max() < 4 and image.std() > 0.05
    if len(images) == 2:
        assert not np.array_equal(*images)


def expected_size(transforms):
    size = [t['size'] for t in transforms if t['name'] in ('RandomResizedCrop', 'CenterCrop', 'Resize')][-1]
    return size if isinstance(size, int) else size[0]


def test_documented_formulas():
    """docs/LOSS_CURVE gives ln(K + 1): the loss of a guess."""
    for page in ('docs/LOSS_CURVE.md', 'docs/LOSS_CURVE_ch.md'):
        rows = re.findall(r'^\| (\d+) \| ([\d.]+) \|$', text_of(page), re.M)
        assert len(rows) == 4
        for k, value in rows:
            assert math.log(int(k) + 1) == pytest.approx(float(value), abs=0.005)


def resnet50_multiply_adds(side=224):
    """Multiply-adds of a forward pass of the backbone for one image, from the shapes of its convolutions."""
    seen = []
    import paddle
    from passl.modeling import build_backbone
    net = build_backbone({'name': 'ResNet', 'depth': 50})
    for layer in net.sublayers():
        if isinstance(layer, paddle.nn.Conv2D):
            layer.register_forward_post_hook(lambda conv, _, out: seen.append(
                out.shape[2] * out.shape[3] * conv.weight.size))
    net.eval()
    with paddle.no_grad():
        net(paddle.zeros([1, 3, side, side]))
    assert len(seen) == 53
    return sum(seen)


def test_the_arithmetic_of_densecl_and_moco_on_the_pages():
    """The table of multiply-adds: every figure in it from the shapes."""
    backbone, neck, cells, dim, keys = resnet50_multiply_adds(), 2048 * 2048 + 2048 * 128, 49, 128, 65536
    moco = [4 * backbone, 4 * neck + 2 * dim * keys]
    dense = [4 * cells * neck, cells * cells * 2048, 2 * cells * keys * dim]
    for page in ('docs/PERFORMANCE.md', 'docs/PERFORMANCE_ch.md'):
        rows = re.findall(r'^\| (?:MoCo v2|DenseCL)[^|]*\| ([^|]*) \| ([\d.]+) \| ([\d.]+) % \|$', text_of(page),
                          re.M)
        assert len(rows) == 6 and f'{backbone / 1e9:.3f} G' in rows[0][0]
        for value, (_, giga, percent) in zip(moco + dense + [sum(dense)], rows):
            digits = [len(x.partition('.')[2]) for x in (giga, percent)]
            assert (giga, percent) == (f'{value / 1e9:.{digits[0]}f}', f'{100 * value / sum(moco):.{digits[1]}f}')
