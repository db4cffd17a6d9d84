"""Contrastive losses as registered heads."""

from typing import Optional

import paddle

from paddle import nn

from ...modules.contrastive_loss import info_nce, nt_xent, rank_among, ranking_accuracy
from ...utils.config.kinds import Flag, Positive
from ...utils.distributed import dist
from .builder import HEADS


class _TemperatureHead(nn.Layer):
    def __init__(self, temperature: Positive = 0.1, return_accuracy: Flag = True) -> None:
        super().__init__()
        self.temperature = temperature
        self.return_accuracy = return_accuracy

    @staticmethod
    def outputs(loss: paddle.Tensor, rank: Optional[paddle.Tensor], negatives: int,
                weight: Optional[paddle.Tensor] = None) -> dict[str, paddle.Tensor]:
        """The loss and, if the `rank` of the positives was asked for, how often they come first or fifth at worst."""
        out = {'loss': loss}
        if rank is not None:
            out['acc1'], out['acc5'] = ranking_accuracy(rank, negatives, weight=weight)
        return out


@HEADS.register()
class ContrastiveHead(_TemperatureHead):
    """InfoNCE of queries against one key each and a shared queue.

    Args:
        temperature: T (0.2 for MoCo v2 and DenseCL, 0.07 for MoCo v1).
        return_accuracy: also give acc1 and acc5 (percent): how often the key is among the 1 and 5
            most similar of all 1 + K candidates.
    """

    def forward(self, query: paddle.Tensor, key: paddle.Tensor, queue: paddle.Tensor, with_accuracy: bool = True,
                weight: Optional[paddle.Tensor] = None,
                hide: Optional[paddle.Tensor] = None) -> dict[str, paddle.Tensor]:
        """query, key [M, D] with unit rows, queue [D, K] with unit columns -> {'loss', 'acc1', 'acc5'}.

        `weight` [M]: which rows count; `hide`: which columns a row is not told from. See `info_nce`.
        """
        with_rank = self.return_accuracy and with_accuracy
        loss, rank = info_nce(query, key, queue, self.temperature, with_rank, weight, hide)
        return self.outputs(loss, rank, queue.shape[1], weight)


@HEADS.register()
class SimCLRContrastiveHead(_TemperatureHead):
    """NT-Xent over the samples of all processes (SimCLR, section 2.1).

    Args:
        temperature: T (0.1 for batch 4096 in the paper).
        return_accuracy: also give acc1 and acc5 (percent).
    """

    def forward(self, z1: paddle.Tensor, z2: paddle.Tensor, with_accuracy: bool = True) -> dict[str, paddle.Tensor]:
        """z1, z2 [N, D]: unit projections of the two views on this process -> {'loss', 'acc1', 'acc5'}."""
        all1, all2 = dist.all_gather_with_grad(z1), dist.all_gather_with_grad(z2)
        loss, pos, neg = nt_xent(z1, z2, all1, all2, dist.rank(), self.temperature)
        rank = rank_among(pos, neg) if self.return_accuracy and with_accuracy else None
        return self.outputs(loss, rank, neg.shape[1])
