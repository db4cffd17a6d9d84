"""Linear classifier."""

import paddle

import paddle.nn.functional as F
from paddle import nn

from ...modules.init import constant_, normal_
from ...utils.config.kinds import Count, Flag
from ...utils.misc import accuracy
from .builder import HEADS


@HEADS.register()
class ClasHead(nn.Layer):
    """(pool ->) fc, weights N(0, 0.01), bias 0.

    Args:
        with_avg_pool: global average pooling first.
        in_channels: channels of the backbone's map.
        num_classes: number of classes.
    """

    def __init__(self, with_avg_pool: Flag = False, in_channels: Count = 2048, num_classes: Count = 1000) -> None:
        super().__init__()
        self.in_channels, self.num_classes = in_channels, num_classes
        self.avg_pool = nn.AdaptiveAvgPool2D((1, 1)) if with_avg_pool else None
        self.fc_cls = nn.Linear(in_channels, num_classes)
        normal_(self.fc_cls.weight, 0.01)
        constant_(self.fc_cls.bias, 0.0)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        """[N, C, H, W] or [N, C] -> logits [N, num_classes]."""
        if self.avg_pool is not None and x.ndim == 4:
            x = self.avg_pool(x)
        return self.fc_cls(x.flatten(1))

    def loss(self, logits: paddle.Tensor, label: paddle.Tensor, with_accuracy: bool = True) -> dict[str, paddle.Tensor]:
        """Cross-entropy of logits [N, num_classes] and label int64 [N] -> {'loss', 'acc1', 'acc5'}."""
        # not reduction='mean': Paddle 2.6 reads a flag from the device for it
        out = {'loss': F.cross_entropy(logits.astype('float32'), label.reshape([-1]), reduction='none').mean()}
        if with_accuracy:
            out['acc1'], out['acc5'] = accuracy(logits.detach(), label, topk=(1, 5))
        return out
