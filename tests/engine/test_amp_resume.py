"""Mixed precision and `--resume`: the scaler's state goes on. On the CPU a stand-in scales: Paddle's does nothing."""

import os

import pytest

from passl.engine import builder
from passl.utils.weights.checkpoint import load_file

from .small import assert_same_state, moco, records, train


class Scaler:
    """A dynamic loss scale: doubled after 4 good steps. Powers of two, so that float32 results do not change."""

    _found_inf = False          # as Paddle's names it

    def __init__(self):
        self.scale_, self.good, self.seen, self.unscaled = 1024.0, 0, [], False

    def scale(self, loss):
        return loss * self.scale_

    def unscale_(self, optimizer):
        for p in optimizer._parameter_list:
            if p.grad is not None and not self.unscaled:
                p.grad.set_value(p.grad / self.scale_)
        self.unscaled = True

    def step(self, optimizer):
        self.unscale_(optimizer)
        optimizer.step()

    def update(self):
        self.seen.append(self.scale_)
        self.unscaled = False
        self.good += 1
        if self.good == 4:
            self.scale_, self.good = self.scale_ * 2, 0

    def state_dict(self):
        return {'scale': self.scale_, 'good': self.good}

    def load_state_dict(self, state):
        self.scale_, self.good = state['scale'], state['good']

    def is_enable(self):
        return True


@pytest.fixture
def scalers(monkeypatch):
    made, real = [], builder.build_amp

    def build_amp(cfg):
        made.append(Scaler())
        auto_cast, _, decorate = real(dict(cfg, use_amp=False))
        return auto_cast, made[-1], decorate
    monkeypatch.setattr(builder, 'build_amp', build_amp)
    return made


def test_the_scale_goes_on(data, out, capsys, scalers):
    cfg = moco(data, **out, epochs=4, optimizer_config={'name': 'OptimizerHook', 'accumulate_steps': 2},
               dataloader={'train': {'sampler': {'batch_size': 2}}})
    whole, _ = train(cfg, capsys, name='whole')
    parts, _ = train(cfg, capsys, '-o', 'epochs=null', '-o', 'total_iters=7', name='parts')
    assert load_file(os.path.join(parts, 'iter_7.pdparams'))['scaler'] == {'scale': 2048.0, 'good': 3}
    train(cfg, capsys, '--resume', 'auto', name='parts')
    assert scalers[0].seen == scalers[1].seen + scalers[2].seen == [1024.0] * 4 + [2048.0] * 4 + [4096.0] * 4
    assert_same_state(os.path.join(whole, 'epoch_4.pdparams'), os.path.join(parts, 'epoch_4.pdparams'))
    assert load_file(os.path.join(parts, 'epoch_4.pdparams'))['scaler'] == {'scale': 8192.0, 'good': 0}
    assert [r['loss'] for r in records(whole)] == [r['loss'] for r in records(parts)]
