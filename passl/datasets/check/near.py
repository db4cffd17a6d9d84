"""Groups of equal and of nearly equal hashes among millions, found exactly."""

import itertools
import math

import numpy as np

BITS = 64
_CHUNK = 1 << 20            # pairs compared at a time
_LARGEST_NEAR = 16

_COUNTS = np.array([bin(i).count('1') for i in range(1 << 16)], np.uint8)


def distances(a, b):
    """Bits in which the uint64 arrays `a` and `b` differ."""
    return _COUNTS[(a ^ b)[:, None].view(np.uint16)].sum(1, dtype=np.uint8)


def _plan(number, near):
    """(blocks, blocks per key) with the least work: of `near` + k blocks at least k are free of errors."""
    def work(k):
        blocks = near + k
        tables = math.comb(blocks, k)
        return tables * number * (math.log2(number + 2) + number / 2 ** (BITS * k / blocks) / 2)
    k = min((k for k in range(1, 5) if math.comb(near + k, k) <= 4000), key=work)
    return near + k, k


def _bucket_pairs(keys):
    """Yields (first, second) index arrays of all pairs with equal keys, about _CHUNK pairs at a time."""
    order = np.argsort(keys, kind='stable')
    ordered = keys[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]])
    sizes = np.diff(np.r_[starts, len(keys)])
    after = np.repeat(starts + sizes, sizes) - np.arange(len(keys)) - 1     # partners behind each entry
    ends = np.cumsum(after)
    begin = 0
    while begin < len(keys):
        done = ends[begin - 1] if begin else 0
        stop = max(begin + 1, int(np.searchsorted(ends, done + _CHUNK, 'right')))
        partners = after[begin:stop]
        first = np.repeat(np.arange(begin, stop), partners)
        if len(first):
            offset = np.arange(len(first)) - np.repeat(np.cumsum(partners) - partners, partners)
            yield order[first], order[first + 1 + offset]
        begin = stop


def near_pairs(hashes, near):
    """Yields (a, b) index arrays that together hold all pairs of hashes at most `near` bits apart, some repeatedly.

    Of near + k blocks of bits at least k are equal in such a pair, so only hashes that agree in k blocks are
    compared, for each choice of k blocks.

    Args:
        hashes: uint64 [n], all different.
        near: 0 - 16.
    """
    if not 0 <= near <= _LARGEST_NEAR:
        raise ValueError(f'near is {near}; it must be from 0 to {_LARGEST_NEAR}.')
    if len(hashes) < 2 or near == 0:
        return
    blocks, k = _plan(len(hashes), near)
    edges = [BITS * i // blocks for i in range(blocks + 1)]
    masks = [((1 << edges[i + 1]) - 1) ^ ((1 << edges[i]) - 1) for i in range(blocks)]
    for chosen in itertools.combinations(masks, k):
        for a, b in _bucket_pairs(hashes & np.uint64(sum(chosen))):
            close = distances(hashes[a], hashes[b]) <= near
            if close.any():
                yield a[close], b[close]


class Components:
    """Groups of what pairs connect."""

    def __init__(self, number):
        self._root = np.arange(number)

    def _find(self, i):
        root = self._root
        while root[i] != i:
            root[i] = root[root[i]]
            i = root[i]
        return i

    def add(self, a, b):
        """Connect a[i] with b[i]."""
        new = self._root[a] != self._root[b]
        for i, j in zip(a[new].tolist(), b[new].tolist()):
            i, j = self._find(i), self._find(j)
            self._root[max(i, j)] = min(i, j)
        if new.any():
            self._flatten()

    def _flatten(self):
        while True:
            further = self._root[self._root]
            if (further == self._root).all():
                return
            self._root = further

    def labels(self):
        """The smallest member of each one's group."""
        return self._root


def groups_of(labels, smallest=2):
    """Lists of indices with equal labels, of at least `smallest` members, in the order of their first members."""
    order = np.argsort(labels, kind='stable')
    ordered = labels[order]
    starts = np.flatnonzero(np.r_[True, ordered[1:] != ordered[:-1]]) if len(labels) else np.zeros(0, int)
    sizes = np.diff(np.r_[starts, len(labels)])
    found = [order[s:s + n] for s, n in zip(starts[sizes >= smallest], sizes[sizes >= smallest])]
    return sorted(found, key=lambda g: int(g[0]))
