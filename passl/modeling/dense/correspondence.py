"""Where the positives of the dense loss come from: which vectors of the key view go with those of the query view."""

from typing import Any, NamedTuple, Optional

import paddle

from ...modules.correspondence import cells_at, match, match_mutual, take_matched
from ...modules.region_pooling import pool_regions, region_shares
from ...utils.config.kinds import Positive, Share
from .builder import CORRESPONDENCES


class Views(NamedTuple):
    """What is known of a batch's two views; L = rows x columns cells each.

    map_q, map_k: the backbone's features [N, C, L]; map_k is None for a part that does not compare maps.
    dense_q, dense_k: projections of the cells, unit vectors [N, D, L]; dense_q has the gradient.
    grid: (rows, columns).
    places: float32 [N, 2, 6], per view top, left, height, width of its crop in fractions of the image, and whether
        it was then flipped left-right and top-bottom (0 or 1); None unless it is among the part's `needs`.
    regions: [N, 2, h, w] whole numbers, per view the region that it shows at h x w places; likewise.
    """
    map_q: Any
    map_k: Any
    dense_q: Any
    dense_k: Any
    grid: tuple
    places: Any = None
    regions: Any = None


class Pairs(NamedTuple):
    """P pairs per image.

    query, key: unit vectors [N, P, D]; the query has the gradient. weight: float32 [N, P], 1 for a pair that counts
    and 0 for another; None: all count.
    others, present: vectors [N, Q, D] of the key view for queries of other images to be told from, and which of
        them are real (float32 [N, Q]); None: all cells of the key view.
    """
    query: Any
    key: Any
    weight: Optional[Any] = None
    others: Optional[Any] = None
    present: Optional[Any] = None

    def per_image(self) -> paddle.Tensor:
        """How many pairs per image count, in the mean over images; 0-D float32."""
        n, pairs, _ = self.query.shape
        return paddle.full([], float(pairs)) if self.weight is None else self.weight.sum() / n


class Correspondence:
    """Base of the correspondences: `part(views)` gives the `Pairs`.

    needs: what the part must know of a sample beyond its two views: out of ('places', 'regions'), in this order.
    compares_maps: whether it looks at the backbone's maps (else the key's map is not exchanged between processes).
    of_cells: whether the pairs are single cells, P = L.
    """

    needs: tuple[str, ...] = ()
    compares_maps = True
    of_cells = True

    @staticmethod
    def pairs_of_cells(views: Views, index: paddle.Tensor, weight: Optional[paddle.Tensor] = None) -> Pairs:
        """Every query cell with the key cell `index` [N, L]."""
        return Pairs(views.dense_q.transpose([0, 2, 1]), take_matched(views.dense_k, index), weight)


@CORRESPONDENCES.register()
class BackboneSimilarity(Correspondence):
    """For every query cell the key cell that is most similar in the backbone's features (DenseCL, section 3.3)."""

    def __call__(self, views: Views) -> Pairs:
        """Views -> Pairs with P = L; all count."""
        index, _ = match(views.map_q, views.map_k)                                 # [N, L]
        return self.pairs_of_cells(views, index)


@CORRESPONDENCES.register()
class MutualNearest(Correspondence):
    """As BackboneSimilarity, but only pairs of cells that choose each other count."""

    def __call__(self, views: Views) -> Pairs:
        """Views -> Pairs with P = L."""
        return self.pairs_of_cells(views, *match_mutual(views.map_q, views.map_k))


@CORRESPONDENCES.register()
class Geometric(Correspondence):
    """For every query cell the key cell whose centre is nearest to its own in the image (as in PixPro, CVPR 2021).

    A query cell counts if its centre lies inside the key's crop and the key cell's centre is no further away than
    `radius`. PixPro takes all cells within a radius, here it is the nearest one.

    Args:
        radius: in sides of the query's cells (the distance along each axis is divided by the side along it). 1 is 0.7
            of a square cell's diagonal, PixPro's threshold. It leaves out pairs of a key cell that is far larger.
    """

    needs = ('places',)
    compares_maps = False

    def __init__(self, radius: Positive = 1.0) -> None:
        self.radius = radius

    def __call__(self, views: Views) -> Pairs:
        """Views -> Pairs with P = L."""
        return self.pairs_of_cells(views, *cells_at(views.places, views.grid[0], views.grid[1], self.radius))


@CORRESPONDENCES.register()
class Regions(Correspondence):
    """The same region of the image (superpixel) in both views, as in SPARC: means over cells instead of single cells.

    A region's vector is the mean of the dense vectors of all cells, weighted by the share of each cell that the region
    covers, and normalised.

    Args:
        min_share: a region counts if it covers at least so much of both views. The default is half of an average
            region's share.
    """

    needs = ('regions',)
    compares_maps = False
    of_cells = False
    most = 16                       # regions of an image, numbered from 0

    def __init__(self, min_share: Share = 0.03) -> None:
        self.min_share = min_share

    def __call__(self, views: Views) -> Pairs:
        """Views -> Pairs with P = Q = 16; `present`: regions that cover enough of the key view."""
        with paddle.amp.auto_cast(enable=False):
            (of_cells_q, of_view_q), (of_cells_k, of_view_k) = (
                region_shares(views.regions[:, view], self.most, views.grid) for view in (0, 1))
            in_query, in_key = ((x >= self.min_share).astype('float32') for x in (of_view_q, of_view_k))
            keys = pool_regions(of_cells_k, views.dense_k)
            return Pairs(pool_regions(of_cells_q, views.dense_q), keys, in_query * in_key, keys, in_key)
