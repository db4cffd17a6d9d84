"""`passl pretrain`: from a folder of images to a backbone, with settings that follow from the images and the device."""

from .command import pretrain

__all__ = ['pretrain']
