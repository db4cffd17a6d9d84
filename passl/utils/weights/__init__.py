"""Files with weights: reading what comes from anywhere, names of other libraries, and what fits into a model."""

from .load import (BACKBONES, Report, backbone_weights, find_backbone_prefix, find_state_dict, is_torch_layout,
                   load_into, load_weights, prefixes, select_prefix, strip_wrappers, torch_to_paddle, weights_in)

__all__ = ['BACKBONES', 'Report', 'backbone_weights', 'find_backbone_prefix', 'find_state_dict', 'is_torch_layout',
           'load_into', 'load_weights', 'prefixes', 'select_prefix', 'strip_wrappers', 'torch_to_paddle', 'weights_in']
