"""Where the negatives of the dense loss come from."""

from typing import Any, Optional
from .correspondence import Correspondence, Pairs, Views

from ...utils.config.kinds import Count

import numpy as np
import paddle

from ...modules.feature_queue import spread_cells
from ...utils.distributed import dist
from ...utils.errors import ConfigError
from ...utils.seed import derive_seed
from .builder import NEGATIVES


class Negatives:
    """Base of the negatives.

    queued: whether the model keeps a second queue, `queue2` [D, K], which `to_queue` feeds.
    """

    queued = True

    def check(self, correspondence: Correspondence) -> None:
        """Raises:
            ConfigError: these negatives cannot be told from the keys of `correspondence` by what they show alone.
        """
        if not correspondence.of_cells:
            raise ConfigError(
                f"'model.negatives' is {type(self).__name__}, but the keys of {type(correspondence).__name__} are "
                'means over regions. The vectors of the queue are means over more or fewer cells, and a network would '
                'tell them apart by that alone. Set model.negatives: batch.')

    def among(self, pairs: Pairs, views: Views, queue: Optional[paddle.Tensor]) -> tuple[Any, Any]:
        """What the queries are told from.

        Args:
            pairs: Pairs;  views: Views;  queue: [D, K], `queue2`, or None.
        Returns:
            (negatives [D, K'], hide): `hide` as in `info_nce`, or None.
        """
        return queue, None

    def to_queue(self, dense_k: paddle.Tensor, pooled_all: paddle.Tensor, seed: int, step: int) -> paddle.Tensor:
        """The keys of this step that enter the queue, [n, D], the same on every process.

        Args:
            dense_k: unit vectors [N, D, L] of this process.
            pooled_all: unit vectors [W N, D], one of every image of all W processes.
        """
        raise NotImplementedError


@NEGATIVES.register()
class Pooled(Negatives):
    """A queue of one vector per key image, the mean over its cells (DenseCL, section 3.2)."""

    def to_queue(self, dense_k: paddle.Tensor, pooled_all: paddle.Tensor, seed: int, step: int) -> paddle.Tensor:
        return pooled_all


@NEGATIVES.register()
class Cells(Negatives):
    """A queue of single cells of the keys.

    Which cells enter it depends on (seed, step) and the image's place in the global batch only, and every cell of the
    grid is taken as often as another (see `spread_cells`).

    Args:
        per_image: cells of each image. With 1 the queue reaches back as many steps as the paper's.
    """

    def __init__(self, per_image: Count = 1) -> None:
        self.per_image = per_image

    def to_queue(self, dense_k: paddle.Tensor, pooled_all: paddle.Tensor, seed: int, step: int) -> paddle.Tensor:
        n, d, cells = dense_k.shape
        if self.per_image > cells:
            raise ConfigError(f"'model.negatives.per_image' is {self.per_image}, but a view has {cells} cells. Lower "
                              'it, or use larger crops.')
        first = int(np.random.RandomState(derive_seed(seed, step, 0xce11)).randint(cells))
        index = spread_cells(n, cells, self.per_image, first + dist.rank() * n)            # [n, per_image]
        taken = paddle.take_along_axis(dense_k.transpose([0, 2, 1]),
                                       index.unsqueeze(2).expand([n, self.per_image, d]), axis=1)
        return dist.all_gather(taken.reshape([-1, d]))


@NEGATIVES.register()
class Batch(Negatives):
    """No queue: the keys of the other images of the batch of all processes (with accumulated gradients: of the
    micro-batch)."""

    queued = False

    def check(self, correspondence: Correspondence) -> None:
        """Fits every correspondence."""

    @paddle.no_grad()
    def among(self, pairs: Pairs, views: Views, queue: Optional[paddle.Tensor]) -> tuple[paddle.Tensor, Any]:
        """As the base, with K' = W N Q. Hidden are a query's own image, and what is not `present`."""
        keys, present = pairs.others, pairs.present
        if keys is None:
            keys = views.dense_k.transpose([0, 2, 1])                                  # [N, L, D]
        n, per_image, d = keys.shape
        images = n * dist.world_size()
        if images < 2:
            raise ConfigError("'model.negatives' is Batch, but the batch has one image: there are no others to tell it "
                              'from. Set dataloader.train.sampler.batch_size to 2 or more (in all processes), or '
                              'model.negatives: cells.')
        keys = keys.astype('float32')
        if present is not None:
            keys = paddle.concat([keys, 1 - present.unsqueeze(2)], axis=2)           # one exchange for both
        keys = dist.all_gather(keys.reshape([n * per_image, -1])).t()                 # [D (+ 1), W N Q]
        # column j belongs to image j // Q of the global batch; those of other processes to none of ours
        own = paddle.arange(n).unsqueeze(1) == (paddle.arange(images) - dist.rank() * n).unsqueeze(0)
        columns = own.astype('float32').unsqueeze(2).expand([n, images, per_image]).reshape([n, -1])
        rows = paddle.eye(n).unsqueeze(1).expand([n, pairs.query.shape[1], n]).reshape([-1, n])
        if present is not None:
            rows = paddle.concat([rows, paddle.ones([rows.shape[0], 1])], axis=1)
            columns = paddle.concat([columns, keys[d:]], axis=0)
        return keys[:d], (rows, columns)
