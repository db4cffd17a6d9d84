"""`passl replay-step`: a planted fault comes again bit for bit, and the report names its place."""

import os
import re

import numpy as np
import paddle
import pytest

from passl.cli import replay_main
from passl.engine.builder import build_trainer
from passl.hooks import HOOKS, Hook, step_record
from passl.utils.checkpoint import load_file, save_file
from passl.utils.config import with_defaults
from passl.utils.errors import PasslError
from tests.tiny import densecl_config, linear_config

from . import small
from .test_numerics import FakeScaler

NAN = float('nan')


@HOOKS.register()
class Plant(Hook):
    """Before the forward pass of step `at` something is broken, as `what` says."""

    priority = 15

    def __init__(self, what, at=2, priority=None):
        super().__init__(priority)
        self.what, self.at = what, at

    def train_iter_begin(self, trainer):
        if trainer.iteration != self.at - 1:
            return
        model = trainer.model
        if self.what == 'weight':
            p = dict(model.named_parameters())['encoder_q.0.layer3.0.conv2.weight']
            p.set_value(p.sign() * 3e38)
        elif self.what == 'last':
            p = [p for p in model.parameters() if not p.stop_gradient][-1]
            p.set_value(paddle.full(p.shape, float('inf')))
        elif self.what == 'queue':
            model.queue[0, 3] = NAN
        elif self.what == 'keys':
            bias = [p for n, p in model.encoder_k.named_parameters() if n.endswith('bias')][-1]
            bias.set_value(paddle.full(bias.shape, NAN))


class BreakPixel:
    """A loader one of whose images has a pixel that is nan."""

    def __init__(self, loader, at, row):
        self.loader, self.at, self.row = loader, at, row

    def __getattr__(self, name):
        return getattr(self.loader, name)

    def __len__(self):
        return len(self.loader)

    def __iter__(self):
        for i, batch in enumerate(self.loader):
            if i == self.at:
                images = batch[0].numpy()
                images[self.row, 1, 5, 7] = NAN
                batch = [paddle.to_tensor(images), *batch[1:]]
            yield batch


def broken(cfg, folder, what=None, pixel=None, scaler=None, **changes):
    """(message, path of the file, what the file holds) of a run whose second step breaks."""
    cfg = dict(cfg, checkpoint={'interval': 1000}, **changes)
    if what:
        cfg['custom_config'] = [{'name': 'Plant', 'what': what}]
    trainer = build_trainer(with_defaults(cfg), str(folder))
    if pixel:
        trainer.train_loader = BreakPixel(trainer.train_loader, *pixel)
    if scaler:
        trainer.scaler = scaler
    with pytest.raises(PasslError) as e:
        trainer.run()
    path, = [os.path.join(folder, n) for n in os.listdir(folder) if n.startswith('nonfinite')]
    return str(e.value), path, load_file(path)


def resnet(tmp_path, make_images, **changes):
    make_images(tmp_path / 'images', 12, size=40)
    return densecl_config(tmp_path / 'images', tmp_path / 'out', **changes)


def replayed(path, capsys, *flags, code=0):
    done = small.call(replay_main, [path, '--no-cuda', *flags], capsys)
    assert done.code == code, done.out + done.err
    return done.out


# -------------------------------------------------------------------------------------- one process: what comes again

def test_a_nan_pixel_is_found_with_its_image(tmp_path, make_images, capsys):
    message, path, record = broken(resnet(tmp_path, make_images), tmp_path / 'run', pixel=(1, 2))
    assert f'passl replay-step {path} --scan' in message
    names = record['images'][0]
    assert len(set(names)) == 4 and all(os.path.isfile(n) for n in names)
    said = replayed(path, capsys, '--scan')
    assert 'Reproduced: all losses and' in said
    assert '1 nan, 0 inf' in said and f'in image 2: {names[2]}' in said
    assert 'first that is not finite: encoder_q.0.conv1 (' in said and 'it is the first layer of all' in said
    scan = said[said.index('Each of 4 images alone'):]
    assert f'image 2: {names[2]}: ' in scan and scan.count('.png') == 1


def test_the_names_are_those_of_the_batch(tmp_path, make_images):
    """The same images, read again with the seed of the epoch, are the batch that was saved."""
    from passl.datasets.sampler import SampleKey
    from passl.utils.seed import derive_seed
    cfg = resnet(tmp_path, make_images, optimizer_config={'accumulate_steps': 2}, batch_size=2)
    _, _, record = broken(cfg, tmp_path / 'run', what='weight')
    trainer = build_trainer(with_defaults(cfg), None)
    dataset = trainer.train_loader.dataset
    number = {dataset.image_name(i): i for i in range(len(dataset))}
    assert [len(n) for n in record['images']] == [2, 2]
    for names, batch in zip(record['images'], record['batches']):
        for row, name in enumerate(names):
            sample = trainer.train_loader.collate_fn([dataset[SampleKey(number[name], derive_seed(3, 1))]])
            assert np.array_equal(sample[0][0], batch[0][row]) and np.array_equal(sample[1][0], batch[1][row])


def test_names_after_a_resume_in_the_middle_of_an_epoch(tmp_path, make_images):
    trainer = build_trainer(with_defaults(resnet(tmp_path, make_images)), None)
    trainer.iteration = 3
    sampler = trainer.train_loader.batch_sampler
    sampler.set_epoch(1)
    whole = step_record.image_names(trainer, 1)
    sampler.set_epoch(1, start_batch=1)
    assert step_record.image_names(trainer, 1) == whole
    sampler.set_epoch(1)
    last = [dataset_name(trainer, k) for k in list(sampler)[2]]
    assert whole == [last]


def dataset_name(trainer, key):
    return trainer.train_loader.dataset.image_name(key.index)


def test_an_exploding_weight_is_found_in_its_layer(tmp_path, make_images, capsys):
    _, path, _ = broken(resnet(tmp_path, make_images), tmp_path / 'run', what='weight')
    said = replayed(path, capsys, '--scan')
    assert 'Reproduced: all losses and' in said
    assert 'first that is not finite: encoder_q.0.layer3.0.conv2 (' in said
    assert 'the last of encoder_q.0.layer3.0.' in said
    assert 'every one breaks the step' in said
    assert 'Weights and queues before the step: all finite' in said


def test_a_rate_far_too_high(tmp_path, make_images, capsys):
    cfg = resnet(tmp_path, make_images, lr_scheduler={'name': 'ConstantLR', 'learning_rate': 1e30})
    _, path, record = broken(cfg, tmp_path / 'run')
    said = replayed(path, capsys, '--layers')
    assert 'lr 1.000e+30' in said and 'Reproduced: all losses and' in said and record['iteration'] == 2
    assert 'encoder_q.0.bn1' in said[said.index('every layer'):]


def test_a_queue_that_holds_nan(data, tmp_path, capsys):
    _, path, record = broken(small.densecl(data), tmp_path / 'run', what='queue')
    said = replayed(path, capsys, '--scan')
    assert 'Weights and queues before the step: 1: queue (1 nan, 0 inf)' in said
    assert 'first that is not finite: head (' in said
    assert re.search(r'loss_global: (nan|inf), \1   <- not finite', said)         # which, depends on Paddle's max
    finite = record['losses'][0]['loss_dense']
    assert np.isfinite(finite) and f'loss_dense: {finite!r}, {finite!r}\n' in said


def test_accumulation_and_groups_of_bn(data, tmp_path, capsys):
    cfg = small.densecl(data, optimizer_config={'accumulate_steps': 3}, model={'bn_splits': 2}, total_iters=2,
                        epochs=None, dataloader={'train': {'sampler': {'batch_size': 4}}})
    _, path, record = broken(cfg, tmp_path / 'run', what='queue', **{'log_config': {'interval': 1000}})
    assert len(record['batches']) == 3
    said = replayed(path, capsys, '--scan')
    assert 'Reproduced: all losses and' in said and 'micro-batch 2, loss_dense' in said


def test_a_classifier_on_a_frozen_backbone(tmp_path, make_images, capsys):
    make_images(tmp_path / 'train', 8, classes=2)
    cfg = linear_config(tmp_path / 'train', tmp_path / 'train', tmp_path / 'out', custom_config=[],
                        lr_scheduler={'name': 'ConstantLR', 'learning_rate': 1.0})
    del cfg['custom_config']
    _, path, _ = broken(cfg, tmp_path / 'run', what='last')
    said = replayed(path, capsys, '--scan')
    assert 'field 1 [4]: 0 to 1' in said and 'first that is not finite: head' in said
    assert 'Weights and queues before the step: 1: head.' in said and 'every one breaks' in said


def test_a_step_of_the_loss_scaler(data, tmp_path, capsys):
    _, path, record = broken(small.densecl(data), tmp_path / 'run', what='keys', scaler=FakeScaler())
    assert record['scaled'] and record['scale'] == 65536.0
    said = replayed(path, capsys)
    assert 'loss scale 65536' in said and 'Reproduced: all losses and' in said


@pytest.mark.parametrize('accumulate', [1, 2])
def test_all_gradients_but_the_one_that_a_hook_broke(data, tmp_path, capsys, accumulate):
    """Finite losses: loss scale and accumulation are done and undone as in the run."""
    cfg = small.densecl(data, health_config={'max_skipped': 1}, custom_config=[{'name': 'BreakSome', 'steps': [2]}],
                        optimizer_config={'accumulate_steps': accumulate},
                        dataloader={'train': {'sampler': {'batch_size': 4 // accumulate}}})
    _, path, record = broken(cfg, tmp_path / 'run', scaler=FakeScaler())
    said = replayed(path, capsys, code=1)
    assert 'NOT reproduced as recorded: the losses are equal, but 1 of ' in said
    assert 'The repeated step is finite throughout' in said and 'hook of your own' in said
    assert record['bad_gradients']


def test_random_numbers_of_the_step(data, tmp_path, capsys, monkeypatch):
    """A model that draws random numbers: with another iteration it is another step."""
    from passl.modeling.architectures import MoCo
    plain = MoCo.query

    def noisy(self, x):
        return plain(self, x + paddle.rand(x.shape))
    monkeypatch.setattr(MoCo, 'query', noisy)
    cfg = small.moco(data, health_config={'max_skipped': 1}, custom_config=[{'name': 'BreakSome', 'steps': [2]}])
    _, path, record = broken(cfg, tmp_path / 'run', scaler=FakeScaler())
    assert 'the losses are equal, but 1 of' in replayed(path, capsys, code=1)
    save_file({**record, 'iteration': 3}, path)
    assert 'NOT reproduced as recorded: the losses differ' in replayed(path, capsys, code=1)


# ------------------------------------------------------------------------------------------------ what is refused

@pytest.mark.parametrize('change', [
    {'format': 'other'}, {'version': 99}, {'iteration': 0}, {'seed': 'x'}, {'batches': []}, {'batches': [None]},
    {'batches': [[np.zeros((0, 3))]]}, {'losses': [{'loss': 'nan'}]}, {'images': [[1]]}, {'rank': 1}, {'scale': 'x'},
    {'bad_gradients': {'a': 3}}, {'config': {'modle': 1}}, {'config': {}}, {'state_dict': {}}, {'lr': None}])
def test_files_that_are_refused(data, tmp_path, capsys, change, one_file):
    path = str(tmp_path / 'x.pdparams')
    save_file({**one_file, **change}, path)
    small.refused(small.call(replay_main, [path, '--no-cuda'], capsys), 'x.pdparams')


@pytest.fixture(scope='module')
def one_file(data, tmp_path_factory):
    return broken(small.moco(data), tmp_path_factory.mktemp('one') / 'run', what='queue')[2]


def test_a_checkpoint_is_no_step(tmp_path, capsys):
    save_file({'format': 'passl-densecl'}, tmp_path / 'epoch_1.pdparams')
    small.refused(small.call(replay_main, [str(tmp_path / 'epoch_1.pdparams')], capsys), 'is not the file of a step')
    small.refused(small.call(replay_main, [str(tmp_path / 'none')], capsys), 'There is no file')


def test_code_that_the_files_config_names_does_not_run(one_file, tmp_path, capsys):
    mark, code = tmp_path / 'mark', tmp_path / 'evil.py'
    code.write_text(f'open({str(mark)!r}, "w")')
    path = str(tmp_path / 'x.pdparams')
    save_file({**one_file, 'config': {**one_file['config'], 'custom_imports': [str(code)]}}, path)
    said = replayed(path, capsys)
    assert not mark.exists() and 'not run from this file' in said
    config = small.write_config({**one_file['config'], 'custom_imports': [str(code)]}, folder=str(tmp_path))
    small.refused(small.call(replay_main, [path, '-c', config, '--no-cuda'], capsys), '--allow-imports')
    assert not mark.exists()
    replayed(path, capsys, '-c', config, '--allow-imports')
    assert mark.exists()


def test_pretrained_weights_are_not_needed(one_file, tmp_path, capsys):
    config = {**one_file['config']}
    config['model'] = {**config['model'], 'backbone': {'name': 'SmallNet', 'pretrained': 'gone.pdparams'}}
    save_file({**one_file, 'config': config}, tmp_path / 'x.pdparams')
    replayed(str(tmp_path / 'x.pdparams'), capsys)


def test_names_cannot_forge_lines(one_file, tmp_path, capsys):
    batch = [np.full_like(x, NAN) if x.ndim == 4 else x for x in one_file['batches'][0]]
    save_file({**one_file, 'batches': [batch], 'images': [['a\nReproduced: all'] * 4]}, tmp_path / 'x.pdparams')
    assert '\nReproduced: all' not in replayed(str(tmp_path / 'x.pdparams'), capsys).split('\n\n', 2)[1]


# --------------------------------------------------------------------------------------------- bounds of the file

def test_the_file_is_bounded(data, tmp_path, capsys, monkeypatch):
    """Beyond the limit micro-batches are left out, the last ones first, those with finite losses before others."""
    monkeypatch.setattr(step_record, '_MOST_BYTES', 2 * 2 * 2 * 3 * 32 * 32 * 4)       # two of three
    cfg = small.moco(data, optimizer_config={'accumulate_steps': 3}, total_iters=2, epochs=None,
                     dataloader={'train': {'sampler': {'batch_size': 2}}})
    _, path, record = broken(cfg, tmp_path / 'run', what='queue')
    assert [b is not None for b in record['batches']] == [True, True, False]
    said = replayed(path, capsys, code=1)
    assert 'micro-batch 2, left out of the file' in said and 'does not hold all micro-batches' in said
    batches = [[paddle.full([2, 3], i)] for i in range(3)]
    monkeypatch.setattr(step_record, '_MOST_BYTES', 24)
    kept = step_record._bounded(None, batches, [{'loss': 1.0}, {'loss': NAN}, {'loss': NAN}])
    assert [b is not None for b in kept] == [False, True, False] and (kept[1][0] == 1).all()
    monkeypatch.setattr(step_record, '_MOST_BYTES', 1)
    assert step_record._bounded(None, batches[:1], [{'loss': 1.0}])[0] is not None


def test_a_folder_is_not_filled(data, tmp_path):
    os.makedirs(tmp_path / 'run')
    for i in range(step_record.MOST_FILES):
        (tmp_path / 'run' / f'nonfinite_iter_{i}0.pdparams').write_bytes(b'')
    cfg = small.moco(data, checkpoint={'interval': 1000}, custom_config=[{'name': 'Plant', 'what': 'queue'}])
    with pytest.raises(PasslError) as e:
        build_trainer(with_defaults(cfg), str(tmp_path / 'run')).run()
    assert 'already holds 8 files' in str(e.value) and not (tmp_path / 'run' / 'nonfinite_iter_2.pdparams').exists()
