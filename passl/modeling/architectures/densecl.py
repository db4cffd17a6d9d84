"""DenseCL (Wang et al., CVPR 2021): MoCo v2 and a contrastive loss at every location."""

from typing import Optional
from paddle import nn
import paddle

from ...modules.correspondence import match, take_matched
from ...utils.config.kinds import Count, Positive, Share
from .base import need_two_views
from .builder import MODELS
from .momentum_contrast import MomentumContrast, unit


@MODELS.register()
class DenseCL(MomentumContrast):
    """Dense contrastive learning.

    Args:
        backbone, neck, head, dim, K, m, T, bn_splits: see `MomentumContrast`; the neck gives
            (global [N, D], dense [N, D, L], pooled [N, D]), as DenseCLNeck does.
        loss_lambda: weight of the dense loss, L = (1 - lambda) global + lambda dense.

    Two more buffers hold the dense negatives: `queue2` [D, K], `queue2_ptr`.
    """

    def __init__(self, backbone: nn.Layer, neck: nn.Layer, head: nn.Layer, dim: Count = 128, K: Count = 65536,
                 m: Share = 0.999, T: Optional[Positive] = None, loss_lambda: Share = 0.5,
                 bn_splits: Count = 1) -> None:
        super().__init__(backbone, neck, head, dim, K, m, T, bn_splits)
        self.loss_lambda, self.cells = loss_lambda, None
        self.add_queue('queue2', dim, K)

    def train_iter(self, *inputs: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Two views [N, 3, H, W] -> {'loss', 'loss_global', 'loss_dense', 'acc1', 'acc5', 'acc1_dense', 'acc5_dense',
        'std', 'std_dense'}.

        `loss_global` and `loss_dense` are before their weights. `cells`, L, is noted for the hooks.
        """
        im_q, im_k = need_two_views('DenseCL', inputs)
        shuffle = self.shuffle_of(im_k)

        # query: global vector and one vector per location
        map_q, q, q_dense, _ = self.query(im_q)
        q, q_dense = unit(q), unit(q_dense)                                        # [N, D], [N, D, L]

        # key: shuffled, without gradient
        local, everything = self.key(im_k, shuffle)
        map_k, k, k_dense, _ = local                                               # [N, C, L], [N, D], [N, D, L]
        _, k_all, _, k_pooled_all = everything

        # correspondence in the backbone's feature space
        index, _ = match(self.to_grid(map_q), map_k)                               # [N, L]
        k_matched = take_matched(k_dense, index)                                   # [N, L, D]

        d = q.shape[1]
        r = q_dense.transpose([0, 2, 1]).reshape([-1, d])                          # [N L, D]
        self.cells = q_dense.shape[2]
        glob = self.head(q, k, self.queue, with_accuracy=self.with_metrics)
        dense = self.head(r, k_matched.reshape([-1, d]), self.queue2, with_accuracy=self.with_metrics)

        out = {'loss': (1 - self.loss_lambda) * glob['loss'] + self.loss_lambda * dense['loss'],
               'loss_global': glob['loss'].detach(), 'loss_dense': dense['loss'].detach()}
        for head_out, suffix in ((glob, ''), (dense, '_dense')):
            out.update({name + suffix: head_out[name] for name in ('acc1', 'acc5') if name in head_out})
        out.update(self.spreads(std=q, std_dense=r))

        # one vector per image for each queue; written after backward
        self.enqueue(queue=k_all, queue2=k_pooled_all)
        return out
