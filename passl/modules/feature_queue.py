"""The queue of negatives: a ring buffer of L2-normalised columns (MoCo, section 3.1)."""

import paddle
import paddle.nn.functional as F


class FeatureQueue:
    """Writes keys into the buffers `<name>` [dim, K] and `<name>_ptr` [1] of a layer: first random unit columns and 0.

    The buffers belong to the layer, so that they are saved, loaded and sent to other processes
    with it. Any number of keys can be written at once: the buffer wraps around, and of more than
    K keys the last K stay.
    """

    def __init__(self, owner: paddle.nn.Layer, name: str, dim: int, size: int) -> None:
        self.owner, self.name, self.size = owner, name, size
        owner.register_buffer(name, F.normalize(paddle.randn([dim, size]), axis=0))
        owner.register_buffer(name + '_ptr', paddle.zeros([1], dtype='int64'))

    @property
    def tensor(self) -> paddle.Tensor:
        """The buffer itself, [dim, K]."""
        return getattr(self.owner, self.name)

    @property
    def pointer(self) -> paddle.Tensor:
        """Column that the next key goes to, int64 [1]."""
        return getattr(self.owner, self.name + '_ptr')

    @paddle.no_grad()
    def push(self, keys: paddle.Tensor) -> None:
        """Write `keys` [n, dim] at the pointer, and move it on by n (modulo K). Nothing is read from the device."""
        n, queue = keys.shape[0], self.tensor
        skipped = max(0, n - self.size)
        columns = keys[skipped:].astype(queue.dtype).t()                                # [dim, min(n, K)]
        where = (self.pointer + paddle.arange(skipped, n, dtype='int64')) % self.size     # [min(n, K)]
        queue.put_along_axis_(where.unsqueeze(0).expand(columns.shape), columns, 1)
        paddle.assign((self.pointer + n) % self.size, output=self.pointer)


def spread_cells(images: int, cells: int, per_image: int, first: int) -> paddle.Tensor:
    """Which `per_image` of an image's `cells` are taken: int64 [images, per_image], different ones within a row.

    Image after image starts one cell further on, from `first`: in a batch every cell is taken as often as another, and
    nothing has to be copied to the device.
    """
    start = paddle.arange(images, dtype='int64').unsqueeze(1) + first
    return (start + paddle.arange(per_image, dtype='int64').unsqueeze(0) * (cells // per_image)) % cells
