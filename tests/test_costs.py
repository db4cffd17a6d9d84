"""What a sample, a step and an update may cost, in counts: time depends on the machine, these do not."""

import paddle

from passl.datasets import image
from passl.engine.builder import build_trainer
from passl.modules import contrastive_loss, ema
from passl.utils.distributed import dist
from passl.utils.config import with_defaults
from tests.engine.small import densecl, write_data
from tests.sync_counter import reads_of_steps


def trainer_of(tmp_path, make_images, **changes):
    cfg = densecl(write_data(tmp_path, make_images), checkpoint={'interval': 1000},
                  log_config={'name': 'LogHook', 'interval': 1000}, health_config={'check': 'log'}, **changes)
    return build_trainer(with_defaults(cfg), str(tmp_path / 'run'))


def test_an_image_is_decoded_once_for_both_views(tmp_path, make_images, monkeypatch):
    trainer, decoded = trainer_of(tmp_path, make_images), []
    decode = image.decode_image
    for module in ('passl.datasets.image', 'passl.datasets.base'):
        monkeypatch.setattr(f'{module}.decode_image', lambda *a, **k: decoded.append(1) or decode(*a, **k))
    samples = sum(batch[0].shape[0] for batch in trainer.train_loader)
    assert samples == 12 == len(decoded)


def test_the_matrix_of_logits_is_never_made(monkeypatch):
    """1568 x 65536 at the paper's size; a block of 1/16 of it is the most that may exist."""
    largest, multiply = [], paddle.matmul
    monkeypatch.setattr(paddle, 'matmul', lambda *a, **k: largest.append(multiply(*a, **k)) or largest[-1])
    rows, columns = 392, 65536
    query = paddle.nn.functional.normalize(paddle.randn([rows, 16]))
    query.stop_gradient = False
    queue = paddle.nn.functional.normalize(paddle.randn([16, columns]), axis=0)
    loss, _ = contrastive_loss.info_nce(query, query.detach(), queue, 0.2, with_rank=True)
    loss.backward()
    assert largest and max(x.size for x in largest) <= 2 ** 21 < rows * columns / 10
    for on_cpu in (True, False):
        assert rows * contrastive_loss.blocks(1568, columns, on_cpu)[0][1] < 1568 * columns / 8


def test_a_step_without_a_log_line_reads_nothing_and_sends_nothing(tmp_path, make_images):
    trainer = trainer_of(tmp_path, make_images, model={'head': {'temperature': 0.01}})     # the loss as on a GPU
    with dist.traffic() as sent:
        steps = reads_of_steps(trainer)
    quiet = [i for i in steps if i % trainer.iters_per_epoch]
    assert len(quiet) == 4 and not any(steps[i] for i in quiet)
    assert not sent


def test_a_step_copies_the_shuffle_to_the_device_once(tmp_path, make_images):
    """Where it goes, from where it comes back, and the order of the queue's keys; the images come with the loader."""
    trainer = trainer_of(tmp_path, make_images, model={'bn_splits': 2, 'head': {'temperature': 0.01}})
    steps = reads_of_steps(trainer)
    quiet = [i for i in steps if i % trainer.iters_per_epoch]
    assert [[read.split()[0] for read in steps[i]] for i in quiet] == [['to_tensor']] * 4
    assert all('exchange.py' in steps[i][0] for i in quiet)


def test_what_the_figures_of_a_log_step_add(tmp_path, make_images, monkeypatch):
    """Two decompositions of [D, D] and one read per figure; the queue's figures and the judge read nothing."""
    cfg = densecl(write_data(tmp_path, make_images), checkpoint={'interval': 1000}, health_config={'check': 'log'},
                  log_config={'name': 'LogHook', 'interval': 2, 'by_epoch': False}, best_config={'check': 'off'},
                  model={'K': 64, 'head': {'temperature': 0.01}})
    trainer, sides, plain = build_trainer(with_defaults(cfg), str(tmp_path / 'run')), [], paddle.linalg.eigvalsh

    def counted(x):
        sides.append((trainer.iteration + 1, x.shape))
        return plain(x)
    monkeypatch.setattr(paddle.linalg, 'eigvalsh', counted)
    steps = reads_of_steps(trainer)
    logged = [i for i in steps if i % 2 == 0]
    assert sides == [(i, [8, 8]) for i in logged for _ in range(2)] and len(logged) == 3
    assert {'rank', 'rank_dense', 'queue_fill', 'queue_age'} <= set(trainer.record)
    assert trainer.record['health'] == 'filling'
    by_file = [[read.split(' at ')[1].split(':')[0] for read in steps[i]] for i in logged]
    figures = [name for name in trainer.outputs if name != 'loss_mean']
    assert all(files.count('log_hook.py') == len(figures) + 1 for files in by_file)
    assert not any({'collapse_hook.py', 'health.py', 'momentum_update_hook.py', 'spread.py'} & set(f) for f in by_file)


def test_the_momentum_update_is_a_handful_of_calls(tmp_path, make_images, monkeypatch):
    trainer, calls = trainer_of(tmp_path, make_images), []
    average = trainer.model.key_average
    average.update(0.9)
    for owner, name in [(paddle.Tensor, n) for n in ('scale_', 'add_', '__mul__')] + [(ema, '_fused_update_')]:
        method = getattr(owner, name)
        monkeypatch.setattr(owner, name, lambda *a, _m=method, **k: calls.append(1) or _m(*a, **k))
    average.update(0.9)
    assert len(calls) == 1 < len(ema.trainable_pairs(trainer.model.encoder_q, trainer.model.encoder_k))
