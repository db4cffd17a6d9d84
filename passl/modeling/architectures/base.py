"""What every architecture offers to the engine."""

from typing import Any, Optional, Sequence, Union

import paddle
from paddle import nn

from ...modules.spread import effective_rank, spread
from ...utils.errors import ConfigError


class Architecture(nn.Layer):
    """A training method as one layer.

    `forward(*batch, mode)`:
      * 'train' -> dict of 0-D Tensors with at least 'loss' (what is differentiated);
      * 'extract' -> features of the backbone; 'test' -> what the method predicts.
    `with_metrics` is set by the trainer: accuracies are computed on log steps only.
    `step`, `seed`: set by the trainer, for what must be equal on all processes.
    `supervised`: True for a method that learns from labels and predicts classes.
    `negatives`: how many negatives a positive is told from; None for a method without (or not known before a step).
    `needs`: what a sample must bring beyond its views: of ('places', 'regions'), in this order.
    `welcomes`: what it may bring besides, for figures of the log; `carried`: what it does bring, set by the engine.
    `input_transform`: None, or what turns images as the loader hands them over (uint8 [N, H, W, 3]) into
        float32 [N, 3, H, W] on the device. Images that are floating point already are taken as they are.
    """

    supervised = False
    negatives: Optional[int] = None
    needs: tuple[str, ...] = ()
    welcomes: tuple[str, ...] = ()
    carried: tuple[str, ...] = ()

    def __init__(self) -> None:
        super().__init__()
        self.with_metrics = True
        self.step = 0
        self.seed = 0
        self.input_transform = None

    def forward(self, *inputs: paddle.Tensor, mode: str = 'train') -> Union[paddle.Tensor, dict[str, paddle.Tensor]]:
        if mode == 'train':
            return self.train_iter(*inputs)
        if mode == 'test':
            return self.test_iter(*inputs)
        if mode == 'extract':
            return self.extract(*inputs)
        raise ConfigError(f"Unknown mode '{mode}' of {type(self).__name__}; known: train, test, extract.")

    def train_iter(self, *inputs: paddle.Tensor) -> dict[str, paddle.Tensor]:
        raise NotImplementedError

    def test_iter(self, *inputs: paddle.Tensor) -> paddle.Tensor:
        raise ConfigError(f'{type(self).__name__} is trained without labels and has no predictions to evaluate. '
                          'Evaluate its backbone: extract the weights and train a classifier with '
                          'configs/moco/moco_clas_r50.yaml --pretrained FILE.')

    def extract(self, x: paddle.Tensor, *_: Any) -> paddle.Tensor:
        """Images [N, 3, H, W] (or uint8, see `to_input`) -> the backbone's map [N, C, h, w]."""
        return self.backbone(self.to_input(x))

    def spreads(self, **features: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """{'std' + ending: `spread`, 'rank' + ending: `effective_rank`} of features [n, D] given as `std` + ending, on
        log steps; of one row there is none."""
        out = {}
        for name, x in features.items():
            if self.with_metrics and x.shape[0] > 1:
                out[name], out[name.replace('std', 'rank', 1)] = spread(x), effective_rank(x)
        return out

    def to_input(self, x: paddle.Tensor) -> paddle.Tensor:
        """Images as the backbone takes them: float [N, 3, H, W] from that, or from what `input_transform` takes."""
        if self.input_transform is None or x.is_floating_point():
            return x
        with paddle.amp.auto_cast(enable=False):        # in half precision pixels would lose their last bits
            return self.input_transform(x)


def need_two_views(name: str, inputs: Sequence[paddle.Tensor]) -> tuple[paddle.Tensor, paddle.Tensor]:
    """The two views of a batch (float [N, 3, H, W] or uint8 [N, H, W, 3]), or a ConfigError that says what to set."""
    if len(inputs) < 2 or inputs[0].ndim != 4 or inputs[1].ndim != 4:
        raise ConfigError(f"{name} needs two views of every image. Set 'return_two_sample: true' in "
                          'dataloader.train.dataset.')
    if inputs[0].shape != inputs[1].shape:
        sides = [list(x.shape[2:] if x.is_floating_point() else x.shape[1:3]) for x in inputs[:2]]
        raise ConfigError(f'{name}: the two views differ in size, {sides[0]} and {sides[1]}. Let both recipes end at '
                          'the same crop size.')
    if inputs[0].dtype != inputs[1].dtype:
        raise ConfigError(f'{name}: the two views differ in type, {inputs[0].dtype} and {inputs[1].dtype}. Normalise '
                          'both in the recipe, or none.')
    return inputs[0], inputs[1]
