"""SimCLR (Chen et al., ICML 2020)."""

import paddle
import paddle.nn.functional as F
from paddle import nn

from .base import Architecture, need_two_views
from .builder import MODELS


@MODELS.register()
class SimCLR(Architecture):
    """Contrast of two views within the global batch.

    Args:
        backbone, neck, head: built parts; the head is SimCLRContrastiveHead.

    State-dict keys: `encoder.0.*` backbone, `encoder.1.*` neck. The paper synchronises BN over
    processes; here each process has its own statistics on the CPU (no such kernel there).
    """

    def __init__(self, backbone, neck, head):
        super().__init__()
        self.encoder = nn.Sequential(backbone, neck)
        self.head = head

    @property
    def backbone(self):
        """The backbone (keys in the state dict: `encoder.0.*`)."""
        return self.encoder[0]

    def train_iter(self, *inputs):
        """Two views [N, 3, H, W] -> {'loss', 'acc1', 'acc5'}."""
        v1, v2 = need_two_views('SimCLR', inputs)
        z = F.normalize(self.encoder(paddle.concat([v1, v2])), axis=1)              # [2N, D]: BN sees both views
        z1, z2 = z[:v1.shape[0]], z[v1.shape[0]:]
        return self.head(z1, z2, with_accuracy=self.with_metrics)
