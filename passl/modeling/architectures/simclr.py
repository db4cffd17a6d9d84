"""SimCLR (Chen et al., ICML 2020)."""

from typing import Any

import paddle
import paddle.nn.functional as F
from paddle import nn

from ...utils.config.kinds import Flag
from ...utils.distributed import dist
from ...utils.logger import get_logger
from .base import Architecture, need_two_views
from .builder import MODELS


@MODELS.register()
class SimCLR(Architecture):
    """Contrast of two views within the global batch.

    Args:
        backbone, neck, head: built parts; the head is SimCLRContrastiveHead.
        sync_bn: BN statistics over all processes, as in the paper. On GPUs only: Paddle has no such
            kernel for the CPU, where several processes then keep statistics of their own (with a warning).

    State-dict keys: `encoder.0.*` backbone, `encoder.1.*` neck.
    """

    def __init__(self, backbone: nn.Layer, neck: nn.Layer, head: nn.Layer, sync_bn: Flag = True) -> None:
        super().__init__()
        encoder: Any = nn.Sequential(backbone, neck)        # Paddle's conversion says Layer of what stays a Sequential
        if sync_bn and dist.world_size() > 1:
            if paddle.get_device() == 'cpu':
                get_logger().warning('SimCLR on the CPU: BN statistics are those of each process, not of all.')
            else:
                encoder = nn.SyncBatchNorm.convert_sync_batchnorm(encoder)
        self.encoder = encoder
        self.head = head

    @property
    def backbone(self) -> nn.Layer:
        """The backbone (keys in the state dict: `encoder.0.*`)."""
        return self.encoder[0]

    def train_iter(self, *inputs: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Two views [N, 3, H, W] -> {'loss', 'acc1', 'acc5', 'std'}."""
        v1, v2 = need_two_views('SimCLR', inputs)
        z = self.encoder(self.to_input(paddle.concat([v1, v2])))                    # [2N, D]: BN sees both views
        z = F.normalize(z.astype('float32'), axis=1)
        z1, z2 = z[:v1.shape[0]], z[v1.shape[0]:]
        self.negatives = 2 * v1.shape[0] * dist.world_size() - 2
        return {**self.head(z1, z2, with_accuracy=self.with_metrics), **self.spreads(std=z)}
