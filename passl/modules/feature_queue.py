"""The queue of negatives: a ring buffer of L2-normalised columns (MoCo, section 3.1)."""

import paddle
import paddle.nn.functional as F


def random_queue(dim, size):
    """(queue, pointer) to start from: [dim, size] random unit columns, and int64 [1] zero."""
    return F.normalize(paddle.randn([dim, size]), axis=0), paddle.zeros([1], dtype='int64')


class FeatureQueue:
    """Writes keys into the buffers `<name>` [dim, K] and `<name>_ptr` [1] of a layer.

    The buffers belong to the layer, so that they are saved, loaded and sent to other processes
    with it. Any number of keys can be written at once: the buffer wraps around, and of more than
    K keys the last K stay.
    """

    def __init__(self, owner, name, dim, size):
        self.owner, self.name, self.size = owner, name, size
        self._known = None     # (pointer, version of the pointer's tensor): spares a device sync per step
        queue, pointer = random_queue(dim, size)
        owner.register_buffer(name, queue)
        owner.register_buffer(name + '_ptr', pointer)

    @property
    def tensor(self):
        """The buffer itself, [dim, K]."""
        return getattr(self.owner, self.name)

    def pointer(self):
        """Column that the next key goes to. Reads the device only after somebody else wrote the buffer."""
        buffer = getattr(self.owner, self.name + '_ptr')
        stamp = (id(buffer), buffer.inplace_version)
        if self._known is None or self._known[1] != stamp:
            self._known = (int(buffer.numpy()[0]) % self.size, stamp)
        return self._known[0]

    @paddle.no_grad()
    def push(self, keys):
        """Write `keys` [n, dim] at the pointer, and move it on by n (modulo K)."""
        n, ptr = keys.shape[0], self.pointer()
        start = (ptr + max(0, n - self.size)) % self.size
        columns = keys[-self.size:].astype(self.tensor.dtype).t()          # [dim, min(n, K)]
        first = min(columns.shape[1], self.size - start)
        queue = self.tensor
        queue[:, start:start + first] = columns[:, :first]
        if first < columns.shape[1]:
            queue[:, :columns.shape[1] - first] = columns[:, first:]
        ptr = (ptr + n) % self.size
        buffer = getattr(self.owner, self.name + '_ptr')
        buffer.set_value(paddle.full([1], ptr, dtype='int64'))
        self._known = (ptr, (id(buffer), buffer.inplace_version))
