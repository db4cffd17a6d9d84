"""A loss or gradient that is no number: who sees it, what is said, what is kept, and what it must not reach."""

import os

import numpy as np
import paddle
import pytest

from passl.engine.builder import build_trainer
from passl.hooks import HOOKS, Hook
from passl.datasets.sampler import SampleKey
from passl.hooks.broken_state import broken_names
from passl.hooks.step_record import MOST_FILES, image_names
from passl.utils.weights.checkpoint import load_file
from passl.utils.config import with_defaults
from passl.utils.errors import PasslError
from passl.utils.numerics import any_nonfinite, bad_count, bad_tensors, describe_bad, sum_of_squares
from passl.utils.seed import derive_seed
from tests.sync_counter import SyncCounter

from . import small


@HOOKS.register()
class Break(Hook):
    """At step `at` a gradient gets `value` after backward; or the keys do, from the key encoder's last bias."""

    priority = 4

    def __init__(self, at=2, what='gradient', value=float('nan'), priority=None):
        super().__init__(priority)
        self.at, self.what, self.value = at, what, value

    def train_iter_begin(self, trainer):
        if self.what == 'keys' and trainer.iteration == self.at - 1:
            bias = [p for n, p in trainer.model.encoder_k.named_parameters() if n.endswith('bias')][-1]
            bias.set_value(paddle.full(bias.shape, self.value))

    def train_iter_end(self, trainer):
        if self.what == 'gradient' and trainer.iteration == self.at:
            p = dict(trainer.model.named_parameters())['encoder_q.0.conv1.weight']
            with paddle.no_grad():
                values = p.grad.numpy()
                values[0, 0, 0, :2] = self.value
                p.grad.set_value(values)


def trainer_of(data, folder, broken=None, build=small.densecl, **changes):
    cfg = build(data, checkpoint={'interval': 1000}, **changes)
    if broken is not None:
        cfg['custom_config'] = [{'name': 'Break', **broken}]
    return build_trainer(with_defaults(cfg), str(folder))


def stopped(trainer):
    with pytest.raises(PasslError) as e:
        trainer.run()
    return str(e.value)


def state_of(trainer):
    return {k: v.numpy() for k, v in trainer.model.state_dict().items()}


# ------------------------------------------------------------------------------------------------ the pieces

def test_counts_against_numpy():
    x = np.ones((3, 4), 'float32')
    x[0, 0], x[1, 1], x[2, :2] = np.nan, np.inf, -np.inf
    assert bad_count(x) == (1, 3) and bad_count(np.ones(3)) == (0, 0) and bad_count(np.array([1])) == (0, 0)
    found = bad_tensors([('a', paddle.to_tensor(x)), ('b', paddle.ones([2]))])
    assert found == {'a': [1, 3]} and describe_bad(found) == '1: a (1 nan, 3 inf)'
    many = describe_bad({str(i): [1, 0] for i in range(9)}, limit=2)
    assert many == '9: 0 (1 nan, 0 inf), 1 (1 nan, 0 inf) and 7 more'


def test_sum_of_squares_against_numpy():
    rng = np.random.RandomState(0)
    arrays = [rng.randn(3, 4).astype('float32'), rng.randn(7).astype('float32')]
    total = float(sum_of_squares([paddle.to_tensor(a) for a in arrays]))
    assert total == pytest.approx(sum((a.astype('float64') ** 2).sum() for a in arrays), rel=1e-6)
    for value in (np.nan, np.inf):
        arrays[1][3] = value
        assert not np.isfinite(float(sum_of_squares([paddle.to_tensor(a) for a in arrays])))


@pytest.mark.parametrize('values, want', [([1.0, -3e38], False), ([1.0, np.nan], True), ([np.inf, 2.0], True)])
def test_one_operator_finds_what_is_no_number(values, want):
    gradients = [paddle.ones([2, 3]), paddle.to_tensor(values, dtype='float32'), paddle.zeros([2])]
    found = any_nonfinite(gradients)
    assert found.shape == [1] and bool(found) is want
    if not want:
        np.testing.assert_array_equal(gradients[1].numpy(), np.array(values, 'float32'))
        assert (gradients[0].numpy() == 1).all() and (gradients[2].numpy() == 0).all()


# -------------------------------------------------------------------------------------------------- every step

@pytest.mark.parametrize('value, words', [
    (float('nan'), '(2 nan, 0 inf)'),
    pytest.param(float('-inf'), '(0 nan, 2 inf)', marks=pytest.mark.cpu_only(
        "with check 'log' the CPU's operator, which the fake device uses, turns what follows an inf into nan"))])
def test_a_broken_gradient_is_named_before_the_optimizer_step(data, tmp_path, value, words):
    trainer = trainer_of(data, tmp_path, {'value': value})
    before = {}
    watch = Hook(priority=4)
    watch.train_iter_end = lambda t: before.update(state_of(t)) if t.iteration == 2 else None
    trainer.hooks.insert(0, watch)
    message = stopped(trainer)
    for part in ('Iteration 2 (epoch 1, lr 9.330e-02)', 'losses: all finite', f'1: encoder_q.0.conv1.weight {words}',
                 'weights and queues before the step: all finite', 'Lower lr_scheduler.learning_rate', '--resume auto',
                 f"saved in '{tmp_path}/nonfinite_iter_2.pdparams'"):
        assert part in message, part
    after = state_of(trainer)
    assert sorted(before) == sorted(after) and all(np.array_equal(before[k], after[k]) for k in before)
    assert int(after['queue_ptr'][0]) == 4          # one step's keys, not two


def test_gradients_that_are_large_are_no_failure(data, tmp_path):
    """1e25 squared is inf in float32, but the value is a number: clipping may still make a step of it."""
    trainer = trainer_of(data, tmp_path, {'value': 1e25}, total_iters=2, epochs=None,
                         optimizer={'grad_clip': {'name': 'ClipGradByValue', 'max': 1.0}})
    trainer.run()
    assert trainer.iteration == 2 and os.listdir(tmp_path).count('nonfinite_iter_2.pdparams') == 0


@pytest.mark.parametrize('build', [small.densecl, small.moco])
def test_broken_keys_do_not_enter_the_queue(data, tmp_path, build):
    trainer = trainer_of(data, tmp_path, {'what': 'keys'}, build)
    message = stopped(trainer)
    assert 'losses: loss, loss_' in message and 'loss nan' in message
    assert np.isfinite(trainer.model.queue.numpy()).all() and int(trainer.model.queue_ptr[0]) == 4
    assert all(np.isfinite(p.numpy()).all() for p in trainer.model.parameters() if not p.stop_gradient)


def test_a_queue_that_was_broken_before_is_named(data, tmp_path):
    trainer = trainer_of(data, tmp_path)
    trainer.model.queue2[2, 3] = float('nan')
    message = stopped(trainer)
    assert 'weights and queues before the step: 1: queue2 (1 nan, 0 inf)' in message
    assert 'losses: loss, loss_dense (' in message


def test_the_file_holds_the_images_and_what_broke(data, tmp_path):
    trainer = trainer_of(data, tmp_path, optimizer_config={'accumulate_steps': 2}, broken={'at': 1},
                         dataloader={'train': {'sampler': {'batch_size': 2}, 'loader': {'transport': 'float32'}}})
    stopped(trainer)
    saved = load_file(tmp_path / 'nonfinite_iter_1.pdparams')
    assert (saved['iteration'], saved['epoch'], saved['rank'], saved['state']) == (1, 1, 0, {})
    assert [[x.shape for x in batch] for batch in saved['batches']] == 2 * [2 * [(2, 3, 32, 32)] + [(2, 2, 6)]]
    assert not np.array_equal(saved['batches'][0][0], saved['batches'][1][0])
    assert len(saved['losses']) == 2 and saved['gradients'] == {'encoder_q.0.conv1.weight': [2, 0]}
    # the same images, read again with the seed of the epoch, are the batch that was saved
    dataset = trainer.train_loader.dataset
    number = {dataset.image_name(i): i for i in range(len(dataset))}
    assert [len(names) for names in saved['images']] == [2, 2]
    for names, batch in zip(saved['images'], saved['batches']):
        for row, name in enumerate(names):
            one, two, *_ = trainer.train_loader.collate_fn([dataset[SampleKey(number[name], derive_seed(3, 1))]])
            assert np.array_equal(one[0], batch[0][row]) and np.array_equal(two[0], batch[1][row])


def test_the_names_after_a_resume_in_the_middle_of_an_epoch(data, tmp_path):
    trainer = trainer_of(data, tmp_path)
    trainer.iteration = 3
    sampler = trainer.train_loader.batch_sampler
    sampler.set_epoch(1)
    whole = image_names(trainer, 1)
    assert whole == [[trainer.train_loader.dataset.image_name(key.index) for key in list(sampler)[2]]]
    sampler.set_epoch(1, start_batch=1)
    assert image_names(trainer, 1) == whole


def test_an_image_with_a_pixel_that_is_no_number_is_named(data, tmp_path):
    trainer = trainer_of(data, tmp_path, dataloader={'train': {'loader': {'transport': 'float32'}}})
    loader, batches = trainer.train_loader, []

    class BreakPixel:
        def __iter__(self):
            for one, *rest in loader:
                images = one.numpy()
                images[2, 1, 5, 7] = np.nan if batches else images[2, 1, 5, 7]
                batches.append(images)
                yield [paddle.to_tensor(images), *rest]

        def __len__(self):
            return len(loader)

        def __getattr__(self, name):
            return getattr(loader, name)

    trainer.train_loader = BreakPixel()
    message = stopped(trainer)
    name = load_file(tmp_path / 'nonfinite_iter_2.pdparams')['images'][0][2]
    assert f'images with pixels that are nan or inf: {name}\n' in message and os.path.isfile(name)


def test_a_folder_is_not_filled(data, tmp_path):
    for i in range(MOST_FILES):
        (tmp_path / f'nonfinite_iter_{i}0.pdparams').write_bytes(b'')
    assert f'already holds {MOST_FILES} files' in stopped(trainer_of(data, tmp_path, {}))
    assert not (tmp_path / 'nonfinite_iter_2.pdparams').exists()


def test_a_former_file_stays(data, tmp_path):
    for name in ('nonfinite_iter_2.pdparams', 'nonfinite_iter_2_3.pdparams', 'nonfinite_iter_2_2.pdparams'):
        (tmp_path / name).write_bytes(name.encode())
    assert 'nonfinite_iter_2_4.pdparams' in stopped(trainer_of(data, tmp_path, {}))
    assert (tmp_path / 'nonfinite_iter_2.pdparams').read_bytes() == b'nonfinite_iter_2.pdparams'


def test_a_full_disk_does_not_hide_the_failure(data, tmp_path, monkeypatch):
    def full(*_):
        raise OSError(28, 'No space left on device')
    monkeypatch.setattr(os, 'fsync', full)
    message = stopped(trainer_of(data, tmp_path, {}))
    assert 'encoder_q.0.conv1.weight (2 nan' in message and 'could not be saved' in message
    assert 'No space left on device' in message


def test_the_command_line_ends_with_2_and_keeps_the_checkpoints(data, out, capsys):
    cfg = small.moco(data, **out, checkpoint={'by_epoch': False, 'interval': 1},
                     custom_config=[{'name': 'Break', 'at': 3}])
    small.refused_training(cfg, capsys, ['Iteration 3 (epoch 1', 'nonfinite_iter_3.pdparams'])
    folder = os.path.join(out['output_dir'], 'small')
    assert sorted(n for n in os.listdir(folder) if n.startswith('iter')) == ['iter_1.pdparams', 'iter_2.pdparams']
    assert load_file(os.path.join(folder, 'latest.pdparams'))['iteration'] == 2


# --------------------------------------------------------------------------------------- as on an accelerator

def test_on_log_steps_the_first_bad_step_is_named(data, tmp_path):
    trainer = trainer_of(data, tmp_path, {'at': 2}, health_config={'check': 'log'},
                         log_config={'interval': 1000})
    message = stopped(trainer)
    for part in ('Since iteration 2', 'log step 3', '--resume auto -o health_config.check=step'):
        assert part in message, part


def test_a_log_step_that_breaks_is_reported_in_full(data, tmp_path):
    message = stopped(trainer_of(data, tmp_path, {'at': 3}, health_config={'check': 'log'},
                                 log_config={'interval': 1000}))
    assert 'Iteration 3' in message and 'nonfinite_iter_3.pdparams' in message


def test_off_looks_at_nothing(data, tmp_path):
    """The ReLU makes 0 of the nan that a broken filter gives, so the loss stays finite: only saving notices."""
    trainer = trainer_of(data, tmp_path, {'at': 2}, health_config={'check': 'off'}, log_config={'interval': 1000})
    message = stopped(trainer)
    assert 'not saved' in message and trainer.iteration == trainer.max_iters == 6


@pytest.mark.parametrize('name, row, parts', [
    ('queue2', 3, ["'queue2', one of the queues, is nan or inf", 'have entered the queue']),
    ('encoder_q.0.bn1._variance', 1, ["'encoder_q.0.bn1._variance', one of the BN statistics, is nan", 'bfloat16']),
    ('encoder_k.0.conv2.weight', 2, ["'encoder_k.0.conv2.weight', one of the weights, is nan", 'grad_clip'])])
def test_nothing_broken_is_saved(data, tmp_path, name, row, parts):
    """Whatever the hooks looked at: what reached the state in memory does not reach the disk."""
    trainer = trainer_of(data, tmp_path, health_config={'check': 'log'})
    hook = next(h for h in trainer.hooks if type(h).__name__ == 'CheckpointHook')
    trainer.lr = 0.1
    hook.save(trainer, 'epoch_1.pdparams')
    tensor = trainer.model.state_dict()[name]
    values = tensor.numpy()
    values[row] = np.nan if row == 3 else np.inf
    tensor.set_value(values)
    with pytest.raises(PasslError) as e:
        hook.save(trainer, 'epoch_2.pdparams')
    for part in [*parts, 'not saved, older checkpoints are kept']:
        assert part in str(e.value), str(e.value)
    assert sorted(n for n in os.listdir(tmp_path) if n.endswith('.pdparams')) == ['epoch_1.pdparams', 'latest.pdparams']
    assert all(np.isfinite(v).all() for v in load_file(tmp_path / 'epoch_1.pdparams')['state_dict'].values())


def test_saving_asks_the_device_once(data, tmp_path):
    model = trainer_of(data, tmp_path).model
    with SyncCounter() as counter:
        assert broken_names(model) == [] and len(counter.take()) == 1
    model.queue[1, 1] = float('inf')
    assert broken_names(model) == ['queue']


def test_the_step_comes_again_after_a_resume(data, tmp_path, out, capsys):
    """What the message of an accelerator advises: the same failure, now with its file."""
    cfg = small.moco(data, **out, checkpoint={'by_epoch': False, 'interval': 1}, log_config={'interval': 1000},
                     health_config={'check': 'log'}, custom_config=[{'name': 'Break', 'what': 'keys', 'at': 5}])
    small.refused_training(cfg, capsys, ['weights are nan'])
    done = small.call(small.train_main, ['-c', small.write_config(cfg), '--resume', 'auto', '-o',
                                         'health_config.check=step'], capsys)
    small.refused(done, 'Iteration 5 (epoch 2', 'nonfinite_iter_5.pdparams')


# ------------------------------------------------------------------------------------------------- the scaler

class FakeScaler:
    """As GradScaler on a GPU (Paddle switches it off on the CPU): finds bad gradients and skips their step."""

    def __init__(self):
        self._scale, self._found_inf = 65536.0, False

    def is_enable(self):
        return True

    def scale(self, loss):
        return loss

    def unscale_(self, optimizer):
        self._found_inf = any(not np.isfinite(p.grad.numpy()).all() for p in optimizer._parameter_list
                              if p.grad is not None)

    def step(self, optimizer):
        if not self._found_inf:
            optimizer.step()

    def update(self):
        self._scale *= 0.5 if self._found_inf else 1

    def state_dict(self):
        return {'scale': np.float32(self._scale)}


@HOOKS.register()
class BreakSome(Hook):
    """Gradients of the steps in `steps` are inf."""

    priority = 4

    def __init__(self, steps, priority=None):
        super().__init__(priority)
        self.steps = steps

    def train_iter_end(self, trainer):
        if trainer.iteration in self.steps:
            grad = next(p for p in trainer.model.parameters() if p.grad is not None).grad
            grad.set_value(np.full(grad.shape, np.inf, 'float32'))


def scaled(data, folder, steps, **changes):
    trainer = trainer_of(data, folder, custom_config=[{'name': 'BreakSome', 'steps': steps}], **changes)
    trainer.scaler = FakeScaler()
    return trainer


def test_skipped_steps_are_counted_and_logged(data, out, tmp_path):
    os.makedirs(tmp_path / 'run')
    trainer = scaled(data, tmp_path / 'run', [2, 3, 5])
    trainer.run()
    assert trainer.hooks[1].skipped == 3 and trainer.iteration == 6
    assert [r.get('skipped_steps') for r in small.records(str(tmp_path / 'run'))] == [None, 1, 2, 2, 3, 3]
    assert np.isfinite(trainer.model.queue.numpy()).all()


def test_too_many_skipped_in_a_row_end_the_run(data, tmp_path):
    trainer = scaled(data, tmp_path, [1, 3, 4, 5], health_config={'max_skipped': 3})
    message = stopped(trainer)
    for part in ('Iteration 5', '3 in a row', 'health_config.max_skipped', 'scale 8192', 'nonfinite_iter_5.pdparams'):
        assert part in message, part


def test_a_skipped_step_with_a_broken_loss_ends_the_run_at_once(data, tmp_path):
    trainer = trainer_of(data, tmp_path, {'what': 'keys', 'at': 2})
    trainer.scaler = FakeScaler()
    message = stopped(trainer)
    assert 'Iteration 2' in message and 'before scaling' in message
    assert np.isfinite(trainer.model.queue.numpy()).all() and int(trainer.model.queue_ptr[0]) == 4
