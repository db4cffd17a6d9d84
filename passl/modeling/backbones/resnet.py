"""ResNet 18 to 152 on paddle.vision's implementation (keys as torchvision's)."""

import paddle
from paddle.vision.models import resnet as vision

from ...modules.freeze import freeze_, is_frozen
from ...modules.init import init_resnet_
from ...utils.errors import ConfigError
from ...utils.weights import backbone_weights, load_into, load_weights
from .builder import BACKBONES

BLOCKS = {18: vision.BasicBlock, 34: vision.BasicBlock,
          50: vision.BottleneckBlock, 101: vision.BottleneckBlock, 152: vision.BottleneckBlock}


@BACKBONES.register()
class ResNet(vision.ResNet):
    """ResNet (He et al. 2015), 7x7 stem, returning the last stage's map.

    Args:
        depth: 18, 34, 50, 101 or 152.
        num_classes: > 0 adds paddle.vision's classifier `fc` (needs with_pool).
        with_pool: global average pooling at the end.
        zero_init_residual: start every residual branch at zero.
        frozen_stages: -1 trains all; 0 freezes the stem; s freezes stem and stages 1..s. Frozen parts
            stay frozen in train mode, BN statistics included.
        pretrained: weight file (see `passl.utils.weights`); fails unless every tensor is found.

    `forward(x [N, 3, H, W])` -> [N, C, H/32, W/32], C = 512 (18, 34) or 2048.
    """

    def __init__(self, depth, num_classes=0, with_pool=False, zero_init_residual=False, frozen_stages=-1,
                 pretrained=None):
        if depth not in BLOCKS:
            raise ConfigError(f"'model.backbone.depth' is {depth!r}; it must be one of {sorted(BLOCKS)}.")
        if frozen_stages not in (-1, 0, 1, 2, 3, 4):
            raise ConfigError(f"'model.backbone.frozen_stages' is {frozen_stages!r}; it must be -1 (none) to 4 (all).")
        if num_classes > 0 and not with_pool:
            raise ConfigError(f"'model.backbone.num_classes' is {num_classes}: the classifier needs pooled features. "
                              'Set with_pool: true too.')
        super().__init__(BLOCKS[depth], depth, num_classes=num_classes, with_pool=with_pool)
        self.depth = depth
        self.out_channels = num_classes if num_classes > 0 else 512 * BLOCKS[depth].expansion
        self.frozen_stages = frozen_stages
        init_resnet_(self, zero_init_residual)
        if pretrained:
            source = f"'{pretrained}'"
            load_into(self, backbone_weights(load_weights(pretrained), source), 'backbone', source=source)
        for part in self._frozen_parts():
            freeze_(part)
        self._all_frozen = is_frozen(self)

    def _frozen_parts(self):
        parts = [self.conv1, self.bn1] if self.frozen_stages >= 0 else []
        return parts + [getattr(self, f'layer{s}') for s in range(1, self.frozen_stages + 1)]

    def forward(self, x):
        if self.training:       # here and not in train(): a parent's train() sets this flag and calls nothing of ours
            for part in self._frozen_parts():
                part.eval()
        if self._all_frozen:
            with paddle.no_grad():
                return super().forward(x)
        return super().forward(x)
