"""MoCo v1 and v2 (He et al. 2020; Chen et al. 2020)."""

import paddle

from .base import need_two_views
from .builder import MODELS
from .momentum_contrast import MomentumContrast, unit


@MODELS.register()
class MoCo(MomentumContrast):
    """Momentum contrast of whole images. v1: LinearNeck, T 0.07; v2: NonLinearNeckV1, T 0.2.

    Arguments: see `MomentumContrast`.
    """

    def train_iter(self, *inputs: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Two views [N, 3, H, W] -> {'loss', 'loss_global', 'acc1', 'acc5', 'std'}."""
        im_q, im_k = need_two_views('MoCo', inputs)
        shuffle = self.shuffle_of(im_k)
        _, q = self.query(im_q)
        q = unit(q)                                                                 # [N, D]
        (k,), (k_all,) = self.key(im_k, shuffle, with_map=False)                             # [N, D], [W N, D]
        out = self.head(q, k, self.queue, with_accuracy=self.with_metrics)
        self.enqueue(queue=k_all)
        return {'loss': out['loss'], 'loss_global': out['loss'].detach(), **out, **self.spreads(std=q)}
