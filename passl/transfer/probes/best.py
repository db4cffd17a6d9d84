"""`best.pdparams` by labels: each checkpoint of a pre-training is measured by a probe of its frozen features."""

import functools
import os
import tempfile
from typing import TYPE_CHECKING, Any, Literal, Optional

from ...hooks import HOOKS
from ...hooks.best_hook import BestHook
from ...hooks.hook import Order
from ...modules.freeze import quiet
from ...utils.config.kinds import Text
from ...utils.errors import ConfigError
from .command import load_data
from .features import Cache
from .jobs import Bench, Run
from .options import build_evaluate_parser
from .sources import Source

if TYPE_CHECKING:
    from ...engine.trainer import Trainer

_NEIGHBOURS = 20


class _Running(Source):
    """The backbone of a training as it is now."""

    def __init__(self, backbone: Any, iteration: int) -> None:
        super().__init__('now', f'iteration {iteration}', 0)
        self.backbone, self.digest = backbone, f'iteration-{iteration}'

    def build(self, seed: int = 0) -> Any:
        return self.backbone


@HOOKS.register()
class ProbeHook(BestHook):
    """As BestHook, by labels: k-NN top-1 of images in class folders, or the mIoU of a linear probe on masks.

    Both as `passl evaluate` computes them (`knn` with k = 20, `linear-seg` with all labels and seed 0), at 128 px. On
    masks `knn-seg` would be simpler, but in this project's study it put the random start first: see docs/BENCHMARKS.md.

    Args:
        data: folder with train/<class>/ and val/<class>/, or with images/{train,val} and masks/{train,val}.
        check, priority: as in BestHook.
    """

    counts_from = 0.0

    def __init__(self, data: Text, check: Literal['auto', 'off', False] = 'auto',
                 priority: Optional[Order] = None) -> None:
        super().__init__(check, priority=priority)
        self.data = data
        self.task = task_of(data)
        self.figure = 'miou' if self.task == 'linear-seg' else 'knn_top1'

    @functools.cached_property
    def _loaded(self):
        """(flags, splits of whole images, splits with masks), read once."""
        words = ['--tasks', self.task, '--weights', 'random', '--data', self.data]
        args = build_evaluate_parser('passl evaluate').parse_args(words)
        return (args, *load_data(args))

    def measure(self, trainer: 'Trainer') -> dict[str, float]:
        args, whole, dense = self._loaded
        model = trainer.model
        if not hasattr(model.backbone, 'stages'):
            raise ConfigError(f'--val probes a ResNet, not {type(model.backbone).__name__}.')
        with quiet(model), tempfile.TemporaryDirectory() as folder:
            bench = Bench(_Running(model.backbone, trainer.iteration), args, whole, dense,
                          dense[0].labels if dense else None, Cache(folder))
            found = bench.measure(Run(self.task, 100 if dense else None, 0))
        if dense:
            return {'miou': found['miou']}
        usual = f'top1_k{_NEIGHBOURS}'          # with fewer images than that: of all of them
        return {'knn_top1': found[usual] if usual in found else max(found.items())[1]}


def task_of(data: str) -> str:
    """'linear-seg' for a folder of images and masks, 'knn' for class folders. Raises ConfigError for neither."""
    if all(os.path.isdir(os.path.join(data, kind, part)) for kind in ('images', 'masks') for part in ('train', 'val')):
        return 'linear-seg'
    if all(os.path.isdir(os.path.join(data, part)) for part in ('train', 'val')):
        return 'knn'
    raise ConfigError(f"'{data}' (--val) has neither train/<class>/ and val/<class>/ nor images/{{train,val}} and "
                      'masks/{train,val}. docs/LABELLED_DATA.md says how to lay out labelled data.')
