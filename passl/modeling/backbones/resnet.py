"""ResNet 18 to 152 on paddle.vision's implementation (keys as torchvision's)."""

import contextlib
import functools
from typing import Annotated, Any, Literal, Optional, Sequence, Union

import paddle
from paddle.vision.models import resnet as vision

from ...modules import kernels
from ...modules.freeze import freeze_, is_frozen
from ...modules.init import init_resnet_
from ...modules.recompute import recompute
from ...utils.config.kinds import Check, Flag, Text, Whole, is_whole
from ...utils.errors import ConfigError
from ...utils.weights import backbone_weights, load_into, load_weights
from .builder import BACKBONES

BLOCKS: dict[int, Any] = {18: vision.BasicBlock, 34: vision.BasicBlock,
                          50: vision.BottleneckBlock, 101: vision.BottleneckBlock, 152: vision.BottleneckBlock}

Depth = Annotated[int, Check(f'one of {", ".join(map(str, BLOCKS))}', lambda v: is_whole(v) and v in BLOCKS)]
Recompute = Annotated[Union[bool, Sequence[int]], Check(
    'true, false or a list of stages, 0 (stem) to 4: [0, 1]',
    lambda v: isinstance(v, bool) or isinstance(v, (list, tuple)) and all(is_whole(s) and s in range(5) for s in v))]


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
        recompute: true keeps the inputs of the residual blocks only and computes the rest again in the backward
            pass: less memory, about a fifth more time per step of MoCo and DenseCL, the same numbers. A list
            chooses stages (0 is the stem): [0, 1] are the ones with the largest maps.

    `forward(x [N, 3, H, W])` -> [N, C, H/32, W/32], C = 512 (18, 34) or 2048.
    """

    def __init__(self, depth: Depth, num_classes: Whole = 0, with_pool: Flag = False,
                 zero_init_residual: Flag = False, frozen_stages: Literal[-1, 0, 1, 2, 3, 4] = -1,
                 pretrained: Optional[Text] = None, recompute: Recompute = False) -> None:
        if num_classes > 0 and not with_pool:
            raise ConfigError(f"'model.backbone.num_classes' is {num_classes}: the classifier needs pooled features. "
                              'Set with_pool: true too.')
        super().__init__(BLOCKS[depth], depth, num_classes=num_classes, with_pool=with_pool)
        self.depth = depth
        self.out_channels = num_classes if num_classes > 0 else 512 * BLOCKS[depth].expansion
        self.frozen_stages = frozen_stages
        self.recompute_stages = _stages(recompute)
        self._vary()
        init_resnet_(self, zero_init_residual)
        if pretrained:
            source = f"'{pretrained}'"
            load_into(self, backbone_weights(load_weights(pretrained), source), 'backbone', source=source)
        for part in self._frozen_parts():
            freeze_(part)
        self._all_frozen = is_frozen(self)

    def _vary(self):
        """Replace what a variant builds in another way; its parameters get their values afterwards."""

    def _frozen_parts(self):
        parts = [self.conv1, self.bn1] if self.frozen_stages >= 0 else []
        return parts + [getattr(self, f'layer{s}') for s in range(1, self.frozen_stages + 1)]

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x, = self.stages(x, [4])
        if self.with_pool:
            x = self.avgpool(x)
        return self.fc(x.flatten(1)) if self.num_classes > 0 else x

    def stages(self, x: paddle.Tensor, wanted: Sequence[int] = (1, 2, 3, 4)) -> list[paddle.Tensor]:
        """The maps of some stages; of `recompute` only the inputs of stem and blocks are kept for backward.

        Args:
            x: images [N, 3, H, W].
            wanted: stages, rising; none is computed beyond the last.

        Returns:
            list of Tensors, of stage s [N, C, H / 2**(s + 1), W / 2**(s + 1)], C = 64 or 256 times 2**(s - 1).
        """
        if self.training:       # here and not in train(): a parent's train() sets this flag and calls nothing of ours
            for part in self._frozen_parts():
                part.eval()
        maps, again = [], self.recompute_stages if self.training else []
        with paddle.no_grad() if self._all_frozen else contextlib.nullcontext():
            fast = kernels.find('resnet', self, x)
            stem = functools.partial(fast.stem, self) if fast else self._stem
            x = recompute(stem, x, [self.conv1, self.bn1]) if 0 in again else stem(x)
            for stage in range(1, max(wanted) + 1):
                layer = getattr(self, f'layer{stage}')
                if fast or stage in again:
                    for block in layer:
                        part = functools.partial(fast.block, block) if fast else block
                        x = recompute(part, x, [block]) if stage in again else part(x)
                else:
                    x = layer(x)
                if stage in wanted:
                    maps.append(fast.end(x) if fast else x)
        return maps

    def _stem(self, x):
        return self.maxpool(self.relu(self.bn1(self.conv1(x))))


def _stages(wanted):
    """The stages that the setting names, as a list."""
    if isinstance(wanted, bool):
        return list(range(5)) if wanted else []
    return sorted(set(wanted))
