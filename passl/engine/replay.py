"""Doing one saved step again (`passl replay-step`): the rebuilt model, the step, each image alone."""

from typing import NamedTuple

import numpy as np
import paddle

from ..hooks.step_record import losses_of
from ..modeling import build_model
from ..solver import build_optimizer
from ..utils import dist
from ..utils.numerics import as_array, bad_count, bad_tensors, digest, gradients_of
from ..utils.seed import derive_seed, seed_everything
from ..utils.weights import load_into
from .builder import build_amp
from .replay_file import without_pretrained


class Outcome(NamedTuple):
    """What a repeated step gave.

    Attributes:
        losses: [{name: float}] per micro-batch.
        bad_gradients: {name: [nan, inf]}.
        gradients: {name: digest}.
    """
    losses: list
    bad_gradients: dict
    gradients: dict


class Seen(NamedTuple):
    """One layer's output in one forward pass: the largest finite |value|, and counts of nan and inf."""
    layer: str
    largest: float
    nan: int
    inf: int


class Step:
    """The model of a record in the state of the step, ready to do it again.

    Args:
        record: of `passl.engine.replay_file.read_record`.
        cfg: config to build the model from; None: the one in the record.
        path: the file, for messages.

    Attributes:
        exact: as many processes as in the run, so that every number can be the same.
    """

    def __init__(self, record, cfg=None, path='the file'):
        self.record, self.path = record, path
        self.exact = dist.world_size() == record['world_size']
        cfg = without_pretrained(record['config'] if cfg is None else cfg, path)
        self.auto_cast, _, decorate = build_amp(cfg)
        self.model = build_model(cfg['model'])
        settings = dict(cfg.get('optimizer') or {'name': 'Momentum'})
        settings.pop('learning_rate', None)
        decorate(self.model, build_optimizer(settings, record['lr'], self.model))
        self.parallel = dist.wrap(self.model)
        load_into(self.model, record['state_dict'], 'model', source=f"'{path}'")
        self.model.seed, self.model.with_metrics = record['seed'], bool(record.get('with_metrics'))
        if record['loss_lambda'] is not None and hasattr(self.model, 'loss_lambda'):
            self.model.loss_lambda = record['loss_lambda']
        self.model.train()
        self.batches = [b and [paddle.to_tensor(x) for x in b] for b in record['batches']]

    @property
    def whole(self):
        """True if the file holds every micro-batch of the step."""
        return all(b is not None for b in self.batches)

    def run(self):
        """The step's forward and backward passes, as the run made them -> Outcome."""
        losses = self._forward(self.parallel, self._backward)
        scale = self.record['scale'] or 1.0
        if scale != 1.0:
            with paddle.no_grad():
                for _, gradient in gradients_of(self.model):
                    gradient.scale_(1.0 / scale)
        found = gradients_of(self.model)
        outcome = Outcome(losses, bad_tensors(found), {n: digest(g) for n, g in found})
        for p in self.model.parameters():
            p.clear_gradient(False)
        return outcome

    def watch(self):
        """[Seen] of every layer's output, in the order of the forward pass, without gradients.

        Hooks on layers make convolutions on a CPU take Paddle's kernels, so last digits may differ from `run`.
        """
        seen, handles = [], []
        for name, layer in self.model.named_sublayers():
            handles.append(layer.register_forward_post_hook(
                lambda _layer, _inputs, out, name=name: seen.extend(_look(name, out))))
        try:
            with paddle.no_grad():
                self._forward(self.model)
        finally:
            for handle in handles:
                handle.remove()
        return seen

    def scan(self):
        """[(micro-batch, image, {name: [nan, inf]} of losses and gradients)] of the images that break the step alone.

        Each is a batch of its own: BN's statistics are its own, so that a fault of the batch as a whole shows nowhere.
        """
        splits, found = getattr(self.model, 'bn_splits', None), []
        if splits is not None:
            self.model.bn_splits = 1
        try:
            for micro, batch in enumerate(self.batches):
                for i in range(len(batch[0]) if batch else 0):
                    bad = self._alone(micro, [x[i:i + 1] for x in batch])
                    if bad:
                        found.append((micro, i, bad))
        finally:
            if splits is not None:
                self.model.bn_splits = splits
        return found

    def _alone(self, micro, batch):
        self._seed()
        self._count(micro)
        with self.auto_cast():
            out = self.model(*batch, mode='train')
        bad = {k: [int(np.isnan(v)), int(np.isinf(v))] for k, v in losses_of(out).items() if not np.isfinite(v)}
        out['loss'].backward()
        bad.update(bad_tensors(gradients_of(self.model)))
        for p in self.model.parameters():
            p.clear_gradient(False)
        self._drop_keys()
        return bad

    def _seed(self):
        """As `Trainer.train_step` does it, once in a step."""
        seed_everything(derive_seed(self.record['seed'], self.record['iteration'] - 1, self.record['rank']))

    def _count(self, micro):
        """The number of a forward pass, which the model's own random numbers follow from."""
        self.model.step = (self.record['iteration'] - 1) * self.record['accumulate_steps'] + micro

    def _forward(self, model, then=None):
        """Every micro-batch through `model`; `then(loss)` after each. Their losses, None where one is missing."""
        self._seed()
        losses, last = [], len(self.batches) - 1
        for micro, batch in enumerate(self.batches):
            if batch is None:
                losses.append(None)
                continue
            self._count(micro)
            with dist.no_sync(model, then is not None and micro < last):
                with self.auto_cast():
                    out = model(*batch, mode='train')
                losses.append(losses_of(out))
                if then is not None:
                    then(out['loss'])
        self._drop_keys()
        return losses

    def _backward(self, loss):
        """As OptimizerHook and the loss scaler do it."""
        if self.record['accumulate_steps'] > 1:
            loss = loss / float(self.record['accumulate_steps'])
        (loss * self.record['scale'] if self.record['scale'] else loss).backward()

    def _drop_keys(self):
        if hasattr(self.model, 'drop_keys'):
            self.model.drop_keys()


def _look(name, out):
    """Seen of each floating tensor in a layer's output."""
    if isinstance(out, dict):
        out = {k: v for k, v in out.items() if not k.startswith('acc')}
    parts = list(out.items()) if isinstance(out, dict) else list(enumerate(out)) if isinstance(out, (list, tuple)) \
        else [(None, out)]
    for part, value in parts:
        if not hasattr(value, 'is_floating_point') or not value.is_floating_point() or not value.size:
            continue
        array = as_array(value)
        finite = np.abs(array[np.isfinite(array)])
        yield Seen(name if len(parts) == 1 else f'{name}, output {part}', float(finite.max()) if finite.size else 0.0,
                   *bad_count(array))
