"""The part that MoCo and DenseCL share: a momentum encoder, shuffled keys and queues."""

import copy
from typing import Any, Optional

import paddle
import paddle.nn.functional as F
from paddle import nn

from ...modules.batch_shuffle import BatchShuffle, in_splits
from ...modules.ema import WeightAverage
from ...modules.feature_queue import FeatureQueue
from ...modules.freeze import freeze_
from ...utils.config.kinds import Count, Positive, Share
from ...utils.errors import ConfigError
from .base import Architecture


def unit(x: paddle.Tensor) -> paddle.Tensor:
    """x [N, D, ...] in float32 with vectors of length 1 along axis 1, also under mixed precision."""
    with paddle.amp.auto_cast(enable=False):
        return F.normalize(x.astype('float32'), axis=1)


class MomentumContrast(Architecture):
    """Base of the methods that contrast queries with keys of a momentum encoder and with a queue.

    Args:
        backbone, neck, head: built parts; encoder_q = backbone -> neck, encoder_k is its copy.
        dim: D, dimension of the projections (the neck's output width).
        K: number of negatives in a queue.
        m: momentum of the key encoder, k <- m k + (1 - m) q.
        T: temperature; another place for the head's `temperature`. None: the head's own.
        bn_splits: groups of a process's batch with BN statistics of their own: s on one card
            protects against the leak through BN as s cards do.

    State-dict keys: `encoder_q.0.*` backbone, `encoder_q.1.*` neck, `encoder_k.*`, `queue`, `queue_ptr`.
    """

    def __init__(self, backbone: nn.Layer, neck: nn.Layer, head: nn.Layer, dim: Count = 128, K: Count = 65536,
                 m: Share = 0.999, T: Optional[Positive] = None, bn_splits: Count = 1) -> None:
        super().__init__()
        if getattr(neck, 'out_channels', dim) != dim:
            raise ConfigError(f"'model.dim' is {dim}, but 'model.neck.out_channels' is {neck.out_channels}: the "
                              'queue holds what the neck gives. Make them equal.')
        if T is not None:
            head.temperature = T
        self.m, self.bn_splits = m, bn_splits
        self.encoder_q = nn.Sequential(backbone, neck)
        self.encoder_k = copy.deepcopy(self.encoder_q)
        freeze_(self.encoder_k)
        self.key_average = WeightAverage(self.encoder_q, self.encoder_k)
        self.head = head
        self.queues: dict[str, FeatureQueue] = {}
        self.negatives = K
        self.add_queue('queue', dim, K)
        self._waiting: list[dict[str, paddle.Tensor]] = []

    @property
    def backbone(self) -> nn.Layer:
        """The query backbone (a view: its keys in the state dict are `encoder_q.0.*`)."""
        return self.encoder_q[0]

    @property
    def neck(self) -> nn.Layer:
        return self.encoder_q[1]

    def add_queue(self, name: str, dim: int, size: int) -> None:
        self.queues[name] = FeatureQueue(self, name, dim, size)

    def update_key_encoder(self) -> None:
        """k <- m k + (1 - m) q over what trains in the query encoder. Call before the step's forward."""
        self.key_average.update(self.m)

    def query(self, x: paddle.Tensor) -> tuple[paddle.Tensor, ...]:
        """Outputs of the query encoder for images x, in `bn_splits` groups: (map, neck's outputs)."""
        return in_splits(lambda part: self._run(self.encoder_q, part), self.to_input(x), self._splits(x))

    def shuffle_of(self, x: paddle.Tensor) -> BatchShuffle:
        """The BatchShuffle of this step's keys x, to be made first: what it copies to the device then has nothing to
        wait for but the step before."""
        return BatchShuffle(x.shape[0], self.seed, self.step, self._splits(x))

    @paddle.no_grad()
    def key(self, x: paddle.Tensor, shuffle: BatchShuffle,
            with_map: bool = True) -> tuple[list[paddle.Tensor], list[Any]]:
        """Outputs of the key encoder for x, shuffled over processes and BN groups.

        Args:
            x: Tensor [N, 3, H, W], or uint8 as the loader hands it over: it is exchanged as it is, in a quarter
                of the bytes.
            shuffle: what `shuffle_of` gave for x.
            with_map: also bring back the backbone's map (as [N, C, L]), as first output.
        Returns:
            (local, everything): per output this process's rows; and the rows of all processes where an output is
            one vector per image (for a queue), otherwise None. The neck's outputs are L2-normalised, the map is not.
        """
        splits = self._splits(x)
        images = self.to_input(shuffle.shuffle(x))
        feature, *projections = in_splits(lambda part: self._run(self.encoder_k, part), images, splits)
        vector = [p.ndim == 2 for p in projections]
        # vectors travel normalised, the rest in the type that the encoder gave (mixed precision: half the bytes)
        outputs = [unit(p) if v else p for p, v in zip(projections, vector)]
        first = [self.grid(feature).flatten(2)] if with_map else []
        local, everything = shuffle.unshuffle(first + outputs, [False] * len(first) + vector)
        at = len(first)
        return local[:at] + [p if v else unit(p) for p, v in zip(local[at:], vector)], everything

    def grid(self, feature: paddle.Tensor) -> paddle.Tensor:
        """Backbone map [N, C, H, W] -> [N, C, rows, columns], the cells that are matched."""
        neck = self.neck
        return neck.to_grid(feature) if hasattr(neck, 'to_grid') else feature

    @staticmethod
    def _run(encoder, x):
        feature = encoder[0](x)
        out = encoder[1](feature)
        return (feature,) + (tuple(out) if isinstance(out, (tuple, list)) else (out,))

    def _splits(self, x):
        if x.shape[0] % self.bn_splits:
            raise ConfigError(f"'model.bn_splits' is {self.bn_splits}, but the batch of {x.shape[0]} does not divide "
                              'by it. Change one of them (and keep sampler.drop_last true).')
        return self.bn_splits if self.training else 1

    def enqueue(self, **keys: paddle.Tensor) -> None:
        """Remember all processes' keys (`queue=[n, D]`, ...) of this forward pass for `flush_queues`."""
        self._waiting.append(keys)

    def flush_queues(self) -> None:
        """Write the remembered keys. Call after backward, which still needs the old queues; with
        accumulated gradients once per optimizer step, so that all its micro-batches see the same negatives."""
        for keys in self._waiting:
            for name, rows in keys.items():
                self.queues[name].push(rows)
        self._waiting = []
