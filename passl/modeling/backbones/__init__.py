"""Backbones."""

from .builder import BACKBONES, build_backbone
from .resnet import ResNet
from .resnet_vd import ResNet_vd

__all__ = ['BACKBONES', 'build_backbone', 'ResNet', 'ResNet_vd']
