"""The dense loss in parts: where positives come from (`correspondence`) and where negatives come from (`negatives`)."""

from .builder import CORRESPONDENCES, NEGATIVES, build_correspondence, build_negatives
from .correspondence import BackboneSimilarity, Geometric, MutualNearest, Pairs, Regions, Views
from .negatives import Batch, Cells, Pooled

__all__ = ['CORRESPONDENCES', 'NEGATIVES', 'build_correspondence', 'build_negatives', 'Views', 'Pairs',
           'BackboneSimilarity', 'MutualNearest', 'Geometric', 'Regions', 'Pooled', 'Cells', 'Batch']
