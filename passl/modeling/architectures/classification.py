"""Supervised classification on a (frozen) backbone: linear evaluation and fine-tuning."""

from paddle import nn
import paddle

from ...utils.errors import ConfigError
from .base import Architecture
from .builder import MODELS


@MODELS.register()
class Classification(Architecture):
    """backbone -> head.

    Args:
        backbone: built backbone; `frozen_stages: 4` makes it a linear evaluation.
        head: ClasHead.
    """

    supervised = True

    def __init__(self, backbone: nn.Layer, head: nn.Layer) -> None:
        super().__init__()
        self.backbone = backbone
        self.head = head

    def train_iter(self, *inputs: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """image [N, 3, H, W], label int64 [N] -> {'loss', 'acc1', 'acc5'}."""
        if len(inputs) != 2 or inputs[1].ndim > 2:
            raise ConfigError(f'Classification needs (image, label) batches but got {len(inputs)} item(s). Set '
                              "'return_label: true' and 'return_two_sample: false' in the dataset.")
        image, label = inputs
        return self.head.loss(self.head(self.extract(image)), label, with_accuracy=self.with_metrics)

    def test_iter(self, *inputs: paddle.Tensor) -> paddle.Tensor:
        """image [N, 3, H, W] -> logits [N, num_classes]."""
        return self.head(self.extract(*inputs))
