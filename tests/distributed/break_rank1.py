"""Own hook of a test: at step 2 the last bias of process 1 becomes nan, so that its losses do."""

import paddle

from passl.hooks import HOOKS, Hook
from passl.utils.distributed import dist


@HOOKS.register()
class BreakRank1(Hook):
    priority = 50

    def train_iter_begin(self, trainer):
        if trainer.iteration == 1 and dist.rank() == 1:
            bias = [p for n, p in trainer.model.encoder_q.named_parameters() if n.endswith('bias')][-1]
            bias.set_value(paddle.full(bias.shape, float('nan')))
