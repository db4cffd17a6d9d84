"""The study of small crops: its classes and matches against loops, its order, and two steps of it for real."""

import json
import os
import sys

import cv2
import numpy as np
import pytest
import yaml

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
HERE = os.path.join(ROOT, 'tools', 'studies', 'small_crops')
sys.path.insert(0, os.path.join(ROOT, 'tools'))

from studies.small_crops import matches, prepare, study, table  # noqa: E402

from passl.utils.errors import DataError  # noqa: E402

with open(os.path.join(HERE, 'study.yaml'), encoding='utf-8') as _f:
    SHIPPED = yaml.safe_load(_f)
NAMES = ['hat', *(n for members in SHIPPED['classes'].values() for n in members)]


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    """A folder of the shape of --data, with a handful of random images."""
    top, rng = tmp_path_factory.mktemp('data'), np.random.RandomState(0)

    def images(*folder, count, size=48, end='.jpg'):
        place = top.joinpath(*folder)
        place.mkdir(parents=True)
        for k in range(count):
            cv2.imwrite(str(place / f'{k}{end}'), rng.randint(0, 256, (size, size, 3)).astype(np.uint8))
    for split in ('train', 'val'):
        for name in ('pants', 'shirt'):
            images('clothing10', split, name, count=3)
        images('ccp59', 'images', split, count=4)
        masks = top / 'ccp59' / 'masks' / split
        masks.mkdir(parents=True)
        for k in range(4):
            cv2.imwrite(str(masks / f'{k}.png'), rng.randint(0, len(NAMES), (48, 48)).astype(np.uint8))
        images('nuclei', 'images', split, count=2, end='.png')
        one = {'category_id': 1, 'bbox': [0, 10, 48, 20], 'area': 960, 'iscrowd': 0,
               'segmentation': {'size': [48, 48], 'counts': [10, 20] + [28, 20] * 47 + [18]}}
        content = {'images': [{'id': k, 'file_name': f'{k}.png', 'height': 48, 'width': 48} for k in range(2)],
                   'annotations': [{'id': k + 1, 'image_id': k, **one} for k in range(2)],
                   'categories': [{'id': 1, 'name': 'nucleus'}]}
        (top / 'nuclei' / 'annotations').mkdir(exist_ok=True)
        (top / 'nuclei' / 'annotations' / f'instances_{split}.json').write_text(json.dumps(content))
    (top / 'ccp59' / 'labels.txt').write_text(''.join(f'{k} {n}\n' for k, n in enumerate(NAMES)))
    return str(top)


# --- prepare.py

def test_every_class_is_in_one_merged_class_and_small_things_in_none():
    mapped = prepare.value_table(NAMES, SHIPPED['classes'])
    assert len(NAMES) == len(set(NAMES)) and list(SHIPPED['classes']) == [
        'background', 'hair', 'skin', 'upper', 'lower', 'dress', 'shoes', 'bag']
    assert {n: mapped[NAMES.index(n)] for n in ('hat', 'null', 'hair', 'jeans', 'wedges', 'purse')} == {
        'hat': 255, 'null': 0, 'hair': 1, 'jeans': 4, 'wedges': 6, 'purse': 7}
    assert (mapped[len(NAMES):] == 255).all()


@pytest.mark.parametrize('classes, words', [({'a': ['hat'], 'b': ['hat']}, 'in another one'),
                                            ({'a': ['hut']}, "'hut' of 'a' is not in labels.txt")])
def test_a_wrong_mapping_is_told(classes, words):
    with pytest.raises(DataError, match=words):
        prepare.value_table(NAMES, classes)


def test_what_is_prepared(data, tmp_path):
    made = str(tmp_path / 'made')
    assert prepare.prepare(data, made, SHIPPED['classes']) == 2 * 3 + 4
    with open(os.path.join(made, 'pool.txt'), encoding='utf-8') as f:
        names = f.read().split()
    assert names[0] == 'clothing10/train/pants/0.jpg' and names[-1] == 'ccp59/images/train/3.jpg' and len(names) == 10
    before = cv2.imread(os.path.join(data, 'ccp59', 'masks', 'val', '1.png'), cv2.IMREAD_UNCHANGED)
    after = cv2.imread(os.path.join(made, 'ccp8', 'masks', 'val', '1.png'), cv2.IMREAD_UNCHANGED)
    merged = [255] + [k for k, members in enumerate(SHIPPED['classes'].values()) for _ in members]
    assert (after == np.array(merged)[before]).all()
    assert os.path.isfile(os.path.join(made, 'ccp8', 'images', 'val', '1.jpg'))
    with pytest.raises(DataError, match='--data names the folder'):
        prepare.prepare(made, made, SHIPPED['classes'])


# --- matches.py

def share_by_loops(index, places, rows, columns, radius):
    """The definition, a pair of cells at a time."""
    hits = []
    for pairs, (query, key) in zip(index, places):
        for cell, chosen in enumerate(pairs):
            at = []
            for axis, cells, n in ((0, rows, cell // columns), (1, columns, cell % columns)):
                x = (n + 0.5) / cells
                x = 1 - x if query[5 - axis] else x
                x = (query[axis] + x * query[2 + axis] - key[axis]) / key[2 + axis]
                at.append((1 - x if key[5 - axis] else x) * cells)
            if not (0 <= at[0] <= rows and 0 <= at[1] <= columns):
                continue
            close = [np.hypot(at[0] - k // columns - 0.5, at[1] - k % columns - 0.5) <= radius
                     for k in range(rows * columns)]
            hits.append((close[chosen], np.mean(close), chosen == cell))
    return 100 * np.mean(hits, 0)


def test_true_match_share_is_that_of_loops():
    rng = np.random.RandomState(1)
    places = np.concatenate([rng.uniform(0, 0.4, (20, 2, 2)), rng.uniform(0.3, 0.6, (20, 2, 2)),
                             rng.randint(0, 2, (20, 2, 2))], 2).astype(np.float32)
    index = rng.randint(0, 12, (20, 12))
    np.testing.assert_allclose(matches.true_match_share(index, places, 3, 4),
                               share_by_loops(index, places.astype(np.float64), 3, 4, 1.5))


def test_true_match_share_of_equal_and_mirrored_views():
    places = np.array([[[0.2, 0.3, 0.5, 0.5, 0, 0], [0.2, 0.3, 0.5, 0.5, 1, 0]]], np.float32)
    mirrored = np.arange(16).reshape(4, 4)[:, ::-1].reshape(1, 16)
    # of 16 x 16 pairs 16 are equal, 48 neighbours along an axis and 36 along a diagonal
    assert matches.true_match_share(mirrored, places, 4, 4) == (100.0, 100 * (16 + 48 + 36) / 256, 0.0)
    assert matches.true_match_share((mirrored + 8) % 16, places, 4, 4)[0] == 0.0


# --- study.py

class FakeTools:
    """Stands for Study.command: writes what the tools would have written. The higher `worth[name]`, the better."""

    def __init__(self, worth):
        self.worth, self.trained, self.probes = worth, [], 0

    def __call__(self, *words):
        options = [w for flag, w in zip(words, words[1:]) if flag == '-o']
        given = dict(w.split('=', 1) for w in options)
        if words[0] == 'tools/train.py':
            config = os.path.splitext(os.path.basename(words[words.index('-c') + 1]))[0]
            folder = os.path.join(given['output_dir'], config)
            os.makedirs(folder)
            self.trained.append(os.path.basename(given['output_dir']))
            with open(os.path.join(folder, 'log.jsonl'), 'w', encoding='utf-8') as f:
                f.write(json.dumps({'mode': 'train', 'iteration': 1000, 'acc1_dense': 50.0, 'time': 0.12}) + '\n')
        elif words[0] == 'tools/evaluate.py':
            out, names = words[words.index('--output') + 1], words[words.index('--names') + 1:words.index('--no-cuda')]
            assert len(set(names)) == len(names)
            self.probes += 1
            os.makedirs(out, exist_ok=True)
            rows = [{'task': 'linear-seg', 'setting': 100, 'figure': 'miou', 'cells': {
                n: {'mean': self.worth.get(n.rpartition('_s')[0], 20.0) + int(n[-1:] == '1'), 'half': 0.5, 'values': []}
                for n in names}}]
            with open(os.path.join(out, 'comparison.json'), 'w', encoding='utf-8') as f:
                json.dump({'rows': rows}, f)


@pytest.fixture
def tools(monkeypatch):
    fake = FakeTools({'regions': 28.0, 'paper': 24.0, 'geometric_cells': 27.0})
    monkeypatch.setattr(study.Study, 'command', staticmethod(fake))
    monkeypatch.setattr(study.Study, 'matched', lambda self, weights, settings: [60.0, 33.0, 50.0])
    return fake


def run(data, out, **changes):
    path = os.path.join(str(out), 'study.yaml')
    os.makedirs(str(out), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as f:
        yaml.safe_dump({**SHIPPED, **changes}, f, sort_keys=False)
    return study.main(['--data', data, '--output', str(out), '--study', path])


def test_order_best_arms_table_and_going_on(data, tmp_path, tools, capsys):
    changes = {'batch': 4, 'stages': [{'arms': ['regions', 'paper', 'geometric_cells'], 'seeds': [0]},
                                      {'arms': ['best1'], 'seeds': [1, 2]},
                                      {'arms': ['best2', 'regions'], 'seeds': [1]},
                                      {'arms': ['best1'], 'seeds': [0], 'vary': [{'model.loss_lambda': 0.7}]}]}
    assert run(data, tmp_path, **changes) == 0
    assert tools.trained == ['regions_s0', 'paper_s0', 'geometric_cells_s0', 'regions_s1', 'regions_s2',
                             'geometric_cells_s1', 'regions_loss_lambda0.7_s0']
    lines = (tmp_path / 'results.md').read_text().split('\n')
    assert lines[2].startswith('| random | 3 | 20.3 ± 1.4 | -')         # of 20, 21 and 20
    # 28, 29 and 28: t 4.303 x 0.5774 / root of 3
    assert lines[3].startswith('| regions | 3 | 28.3 ± 1.4 | -') and lines[3].endswith('| 50 | 2 |')
    assert lines[6].startswith('| geometric_cells_s1 | 1 | 28.0 ± 0.5 | -')
    runs = json.loads((tmp_path / 'results.json').read_text())['runs']
    assert runs['paper_s0']['figures']['clothes8 linear-seg 100 %']['mean'] == 24.0
    assert len((tmp_path / 'status.txt').read_text().split('\n')) == 8
    assert tools.probes == 7 * len(SHIPPED['probes'])
    assert run(data, tmp_path, **changes) == 0
    # before each stage with a best arm if there is something new, and at the end
    assert tools.probes == (7 + 4) * len(SHIPPED['probes'])
    assert len(tools.trained) == 7 and len((tmp_path / 'status.txt').read_text().split('\n')) == 8
    assert run(data, tmp_path, **changes, steps=700) == 2
    assert 'regions_s0 in' in capsys.readouterr().err


def test_settings_of_a_run_in_epochs():
    one = study.Run('regions', 1, {'model.m': 0.9}, SHIPPED)
    assert one.name == 'regions_m0.9_s1'
    given = one.overrides('DATA', 'MADE', 640)
    assert given['lr_scheduler.T_max'] == SHIPPED['steps'] / 10 and given['seed'] == 1
    assert given['lr_scheduler.warmup_steps'] == SHIPPED['warmup'] / 10 and given['model.negatives'] == 'batch'
    assert given['dataloader.train.dataset.regions.cache'] == 'MADE/regions.bin' and given['model.m'] == 0.9


def test_figures_of_log_steps_and_intervals():
    records = [{'iteration': n, 'acc1': float(n), 'time': n / 10} for n in (25, 50, 75)]
    assert table.minutes(records) == 25 * (2.5 + 5.0 + 7.5) / 60
    records.append({'iteration': 60})
    assert table.near(records, 75, 'acc1') == 75.0 and table.near(records, 60, 'acc1') == 50.0
    assert table.near(records, 25, 'acc5') is None and table.over_seeds([None]) is None
    assert table.cell({'mean': 1.25, 'half': None}) == '1.2' and table.cell(None) == '-'
    runs = {'a_s0': 1, 'b_s0': 2, 'a_s1': 3, 'c_d_s0': 4, 'c_d_s1': 5, 'c_d_s2': 6}
    assert table.grouped(runs) == {'a_s0': [1], 'a_s1': [3], 'b': [2], 'c_d': [4, 5, 6]}


@pytest.mark.slow
def test_two_steps_for_real(data, tmp_path):
    few = {'arms': {'regions': SHIPPED['arms']['regions']}, 'candidates': ['regions'], 'steps': 2, 'warmup': 1,
           'batch': 8, 'match_at': [2], 'stages': [{'arms': ['regions'], 'seeds': [0]}],
           'probes': {'nuclei': '--tasks linear-seg --data {data}/nuclei --data-format coco --train-split train '
                                '--val-split val --image-size 64 --labels-at 100 --seeds 1'},
           'columns': [['nuclei', 'linear-seg', 100]]}
    path = tmp_path / 'study.yaml'
    path.write_text(yaml.safe_dump({**SHIPPED, **few}, sort_keys=False))
    words = ['--data', data, '--output', str(tmp_path), '--study', str(path)]
    for setting in ('sampler.batch_size=8', 'loader.num_workers=0'):
        words += ['-o', f'dataloader.train.{setting}']
    assert study.main(words + ['-o', 'model.K=16', '-o', 'log_config.interval=1']) == 0
    result = json.loads((tmp_path / 'results.json').read_text())
    facts = result['runs']['regions_s0']
    assert [step for step, _ in facts['curve']['loss_dense']] == [1, 2] and set(facts['true_matches']) == {'2'}
    assert 0 < facts['figures']['nuclei linear-seg 100 %']['mean'] < 100
    share, chance, same = result['random']['true_matches']['0']
    assert 0 < chance < share <= 100 and 0 <= same <= 100
    assert os.listdir(tmp_path / 'weights') == ['regions_s0.pdparams']
