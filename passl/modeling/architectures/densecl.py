"""DenseCL (Wang et al., CVPR 2021): MoCo v2 and a contrastive loss at every location."""

from typing import Any, Optional

import paddle
from paddle import nn

from ...modules.match_metrics import match_metrics
from ...utils.config.kinds import Count, Positive, Share
from ...utils.errors import ConfigError
from ..dense.correspondence import BackboneSimilarity, Views
from ..dense.negatives import Pooled
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
        correspondence: where the positives of the dense loss come from, see `passl.modeling.dense`; None:
            BackboneSimilarity, the paper's.
        negatives: where its negatives come from; None: Pooled, the paper's.

    Where the negatives are kept in a queue, two more buffers hold it: `queue2` [D, K], `queue2_ptr`.
    Noted for the hooks in every step: `cells`, L, and `dense_negatives`, how many a pair has (at most).
    """

    welcomes = ('places',)

    def __init__(self, backbone: nn.Layer, neck: nn.Layer, head: nn.Layer, dim: Count = 128, K: Count = 65536,
                 m: Share = 0.999, T: Optional[Positive] = None, loss_lambda: Share = 0.5, bn_splits: Count = 1,
                 correspondence: Any = None, negatives: Any = None) -> None:
        super().__init__(backbone, neck, head, dim, K, m, T, bn_splits)
        self.loss_lambda, self.cells, self.dense_negatives = loss_lambda, None, None
        self.positives_from = correspondence or BackboneSimilarity()
        self.negatives_from = negatives or Pooled()
        self.negatives_from.check(self.positives_from)
        self.needs = self.positives_from.needs
        self.of_the_paper = type(self.positives_from) is BackboneSimilarity and type(self.negatives_from) is Pooled
        if self.negatives_from.queued:
            self.add_queue('queue2', dim, K)

    def train_iter(self, *inputs: paddle.Tensor) -> dict[str, paddle.Tensor]:
        """Two views [N, 3, H, W], and what `needs` names -> {'loss', 'loss_global', 'loss_dense', 'acc1', 'acc5',
        'acc1_dense', 'acc5_dense', 'pairs', 'std', 'std_dense'} and the figures of `match_metrics` (on log steps).

        `loss_global` and `loss_dense` are before their weights. `pairs`: how many per image count, in the mean (not
        given for the paper's parts, where it is L).
        """
        im_q, im_k = need_two_views('DenseCL', inputs)
        extras = self._extras(inputs)
        shuffle = self.shuffle_of(im_k)

        # query: global vector and one vector per location
        map_q, q, q_dense, _ = self.query(im_q)
        q, q_dense = unit(q), unit(q_dense)                                        # [N, D], [N, D, L]

        # key: shuffled, without gradient
        with_map = self.positives_from.compares_maps or self.with_metrics
        local, everything = self.key(im_k, shuffle, with_map)
        *map_k, k, k_dense, _ = local                                              # [N, C, L], [N, D], [N, D, L]
        k_all, _, k_pooled_all = everything[-3:]

        # positives and negatives of the dense loss
        map_q = self.grid(map_q)
        views = Views(map_q.flatten(2), map_k[0] if map_k else None, q_dense, k_dense, tuple(map_q.shape[2:]), **extras)
        pairs = self.positives_from(views)                                         # [N, P, D]
        columns, hide = self.negatives_from.among(pairs, views, self.queue2 if self.negatives_from.queued else None)
        self.cells, self.dense_negatives = q_dense.shape[2], columns.shape[1]

        glob = self.head(q, k, self.queue, with_accuracy=self.with_metrics)
        dense = self._dense_loss(pairs, columns, hide)

        out = {'loss': (1 - self.loss_lambda) * glob['loss'] + self.loss_lambda * dense['loss'],
               'loss_global': glob['loss'].detach(), 'loss_dense': dense['loss'].detach()}
        for head_out, suffix in ((glob, ''), (dense, '_dense')):
            out.update({name + suffix: head_out[name] for name in ('acc1', 'acc5') if name in head_out})
        if self.with_metrics:
            if not self.of_the_paper:
                out['pairs'] = pairs.per_image()
            out.update(match_metrics(views.map_q, views.map_k, q_dense.detach(), k_dense, views.grid, views.places))
        out.update(self.spreads(std=q, std_dense=rows_of(q_dense.transpose([0, 2, 1]))))

        # written after backward
        keys = {'queue': k_all}
        if self.negatives_from.queued:
            keys['queue2'] = self.negatives_from.to_queue(k_dense, k_pooled_all, self.seed, self.step)
        self.enqueue(**keys)
        return out

    def _dense_loss(self, pairs, columns, hide):
        """What the head gives for `pairs`; a head of one's own sees weights and hidden columns only where there are."""
        more = {} if pairs.weight is None else {'weight': pairs.weight.flatten()}
        more.update({} if hide is None else {'hide': hide})
        return self.head(rows_of(pairs.query), rows_of(pairs.key), columns, with_accuracy=self.with_metrics, **more)

    def _extras(self, inputs):
        """{name: Tensor} of what `needs` names: the last fields of a batch.

        Raises:
            ConfigError: the batch does not have them.
        """
        names = self.carried or self.needs
        extras = dict(zip(names, inputs[2:][-len(names):] if names else ()))
        wanted = {'places': (3, 6), 'regions': (4, None)}
        for name in self.needs:
            x, (axes, width) = extras.get(name), wanted[name]
            if x is None or x.ndim != axes or x.shape[1] != 2 or width not in (None, x.shape[-1]):
                raise ConfigError(
                    f"'model.correspondence' is {type(self.positives_from).__name__}, which needs '{name}' of every "
                    'sample, but the batches do not have it. Use a data set that can give it (carry), or another '
                    'correspondence.')
        return extras


def rows_of(x: paddle.Tensor) -> paddle.Tensor:
    """[N, P, D] -> [N P, D]."""
    return x.reshape([-1, x.shape[2]])
