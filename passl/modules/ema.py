"""Exponential moving average of one network's weights in another (MoCo, section 3.2)."""

import copy

import numpy as np
import paddle

_ALIGN = 64           # entries: a parameter starts where vector loads of any device are aligned
_PIECE = 2**24        # entries of a buffer that are updated at once: bounds the temporary (64 MiB in float32)


def trainable_pairs(source, target):
    """[(parameter of `source`, parameter of `target`)] for every parameter that trains in `source`.

    Paddle keeps BN's running statistics among the parameters (as not trainable): they are left
    out, because the target network measures its own.
    """
    theirs = dict(target.named_parameters())
    return [(p, theirs[name]) for name, p in source.named_parameters() if not p.stop_gradient]


@paddle.no_grad()
def ema_update_(pairs, m):
    """k <- m k + (1 - m) q, in place, for every (q, k) of `pairs`.

    Args:
        pairs: list of (query tensor, key tensor) of equal shape.
        m: momentum, 0 .. 1.
    """
    for q, k in pairs:
        k.scale_(m)
        k.add_((q if q.dtype == k.dtype else q.astype(k.dtype)) * (1.0 - m))


class WeightAverage:
    """`target`'s trained weights follow those of `source`: k <- m k + (1 - m) q, in a handful of calls for all.

    At the first update the parameters of each network move into one buffer per type: they stay the objects that they
    were, with the same names, values and shapes, but their memory is a slice of the buffer, so that an update of the
    buffer is one of them all. What gives a parameter other memory (a change of type, of device) or freezes it is
    noticed at the next update, from addresses and flags that the host knows, and the buffers are made anew.

    Args:
        source, target: layers whose parameters have equal names and shapes.
    """

    def __init__(self, source, target):
        self.source, self.target = source, target
        self._everything = self._trained = None
        self._flat, self._single, self._addresses = [], [], []

    def __deepcopy__(self, memo):
        # the copies of the parameters have memory of their own
        return type(self)(copy.deepcopy(self.source, memo), copy.deepcopy(self.target, memo))

    def update(self, m):
        """One step of the average with momentum m, 0 .. 1."""
        if not self._is_current():
            self._arrange()
        ema_update_(self._flat, m)
        ema_update_(self._single, m)

    def _is_current(self):
        return (self._everything is not None and self._trained == [not p.stop_gradient for p in self._everything]
                and all(q.data_ptr() == a and k.data_ptr() == b for q, k, a, b in self._addresses))

    def _arrange(self):
        """Find the pairs and move them into buffers."""
        self._everything = self.source.parameters()
        self._trained = [not p.stop_gradient for p in self._everything]
        self._flat, self._single, self._addresses = [], [], []
        groups, place = {}, str(paddle.zeros([1]).place)
        for q, k in trainable_pairs(self.source, self.target):
            if _can_move(q, place) and _can_move(k, place):
                groups.setdefault((str(q.dtype), str(k.dtype)), []).append((q, k))
            else:
                self._single.append((q, k))
        for pairs in groups.values():
            starts = np.cumsum([0] + [-(-_entries(q) // _ALIGN) * _ALIGN for q, _ in pairs]).tolist()
            flat_q, flat_k = (_move_into_one(side, starts) for side in zip(*pairs))
            self._flat += [(flat_q._slice(at, min(at + _PIECE, starts[-1])),
                            flat_k._slice(at, min(at + _PIECE, starts[-1]))) for at in range(0, starts[-1], _PIECE)]
            self._addresses += [(q, k, q.data_ptr(), k.data_ptr()) for q, k in pairs]


def _entries(p):
    return int(np.prod(p.shape))


def _can_move(p, place):
    """Whether `p` is what a slice of a buffer can stand for: dense, not empty, at `place`, where new tensors are."""
    return (p.is_dense() and _entries(p) > 0 and str(p.place) == place
            and all(hasattr(p, name) for name in ('_slice', '_share_buffer_to', 'data_ptr')))


@paddle.no_grad()
def _move_into_one(parameters, starts):
    """Give each of the tensors, all of one type, its slice of one buffer as memory; return the buffer."""
    buffer = paddle.zeros([starts[-1]], dtype=parameters[0].dtype)
    for p, at in zip(parameters, starts):
        end = at + _entries(p)
        buffer[at:end] = p.detach().flatten()
        part = buffer._slice(at, end)
        part.get_tensor()._set_dims(list(p.shape))
        part._share_buffer_to(p)
    return buffer
