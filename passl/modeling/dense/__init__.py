"""The dense loss in parts: where positives come from (`correspondence`) and where negatives come from (`negatives`)."""

from ...utils.paddle_env import require_paddle

require_paddle()

from .builder import CORRESPONDENCES, NEGATIVES, build_correspondence, build_negatives  # noqa: E402
from .correspondence import BackboneSimilarity, Geometric, MutualNearest, Pairs, Regions, Views  # noqa: E402
from .negatives import Batch, Cells, Pooled  # noqa: E402

__all__ = ['CORRESPONDENCES', 'NEGATIVES', 'build_correspondence', 'build_negatives', 'Views', 'Pairs',
           'BackboneSimilarity', 'MutualNearest', 'Geometric', 'Regions', 'Pooled', 'Cells', 'Batch']
