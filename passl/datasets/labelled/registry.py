"""The tables of labelled data sets by kind."""

from ...utils.config.registry import Registry

SEGMENTATION = Registry('segmentation data set')
DETECTION = Registry('detection data set')
MULTILABEL = Registry('multi-label data set')
