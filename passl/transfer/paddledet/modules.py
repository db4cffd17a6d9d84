"""Components that PaddleDetection lacks, registered in it: a res5 head with norm, a mask head with norm, a schedule.

Imported by `shim.import_ppdet` only. The arguments of registered constructors have no annotations: PaddleDetection
would compare a config's values with them by whatever typeguard is installed, placeholders of shared settings included.
"""

from collections.abc import Sequence
from typing import Any, Optional

import paddle
from paddle import nn
from paddle.nn.initializer import KaimingNormal
from ppdet.core.workspace import register
from ppdet.modeling.backbones.name_adapter import NameAdapter
from ppdet.modeling.backbones.resnet import BasicBlock, Blocks, BottleNeck, ResNet
from ppdet.modeling.layers import ConvNormLayer
from ppdet.modeling.shape_spec import ShapeSpec

from ...utils.weights.key_names import RESNET_BLOCKS
from . import fast_cpu


@register
class PlainResNet(ResNet):
    """PaddleDetection's `ResNet` as pre-trained here: nothing frozen, and no convolution on an identity shortcut.

    PaddleDetection's ResNet-18 and 34 have a 1x1 convolution with norm on the first shortcut of the first stage, where
    the ResNet of the paper adds the input itself. No weights for it exist, and a norm in training never is an identity.

    Args:
        depth: 18, 34, 50, 101 or 152.
        norm_type: 'bn' or 'sync_bn'; shared with the config's `norm_type`.
        return_idx, num_stages: as in `ResNet`; 3 stages and [2] for a C4 model.
        freeze_at: -1 freezes nothing; 0 (PaddleDetection's default) freezes the stem and res2.
        freeze_norm: keep scales, shifts and statistics of all norms as loaded (PaddleDetection's default).
    """

    __shared__ = ['norm_type']

    def __init__(self, depth=50, norm_type='bn', return_idx=[0, 1, 2, 3], num_stages=4, freeze_at=-1,
                 freeze_norm=False) -> None:
        super().__init__(depth=depth, norm_type=norm_type, return_idx=return_idx, num_stages=num_stages,
                         freeze_at=freeze_at, freeze_norm=freeze_norm)
        first = self.res_layers[0].blocks[0]
        if isinstance(first, BasicBlock):
            del first.short
            first.shortcut = True

    def forward(self, inputs: dict[str, paddle.Tensor]) -> list[paddle.Tensor]:
        image = inputs['image']
        if not fast_cpu.suits(self, image):
            return super().forward(inputs)
        x, maps = fast_cpu.stem(self.conv1, image), []
        for index, stage in enumerate(self.res_layers):
            x = fast_cpu.stage(stage, x)
            if index in self.return_idx:
                maps.append(fast_cpu.from_channels_last(x))
        return maps


@register
class Res5NormHead(nn.Layer):
    """The last stage of a ResNet on RoI features, and one more norm after it (He et al. 2020, MoCo, appendix).

    PaddleDetection's own `Res5Head` has its norms frozen, always three blocks, and no norm behind them. The extra one
    brings the features of a stage that was never followed by a detector to a scale that its layers can work with.

    Args:
        depth: of the backbone: 18, 34, 50, 101 or 152.
        norm_type: 'bn' or 'sync_bn'; shared with the config's `norm_type`.
        norm_decay: weight decay of the norms.
        freeze_norm: keep the statistics and parameters of the stage's norms as loaded. The extra norm is trained.

    `forward(roi features [N, C4, 14, 14])` -> [N, C5, 7, 7]; C4 is 256 (18, 34) or 1024, C5 512 or 2048.
    """

    __shared__ = ['norm_type']

    def __init__(self, depth=50, norm_type='bn', norm_decay=0., freeze_norm=False) -> None:
        super().__init__()
        bottleneck = depth >= 50
        block, channels = (BottleNeck, 1024) if bottleneck else (BasicBlock, 256)
        self.res5 = Blocks(block, channels, 512, count=RESNET_BLOCKS[depth][3], name_adapter=NameAdapter(self),
                           stage_num=5, norm_type=norm_type, norm_decay=norm_decay, freeze_norm=freeze_norm)
        self.feat_out = 512 * block.expansion
        decay = paddle.ParamAttr(regularizer=paddle.regularizer.L2Decay(norm_decay))
        self.norm = nn.BatchNorm2D(self.feat_out, weight_attr=decay, bias_attr=decay)

    @property
    def out_shape(self) -> list[ShapeSpec]:
        return [ShapeSpec(channels=self.feat_out, stride=16)]

    def forward(self, roi_feat: paddle.Tensor, stage: int = 0) -> paddle.Tensor:
        if not fast_cpu.suits(self.res5, roi_feat):
            return self.norm(self.res5(roi_feat))
        x = fast_cpu.stage(self.res5, fast_cpu.to_channels_last(roi_feat))
        return self.norm(fast_cpu.from_channels_last(x))


@register
class NormMaskFeat(nn.Layer):
    """The convolutions of Mask R-CNN's mask branch, each with a norm.

    PaddleDetection's own `MaskFeat` ignores every `norm_type` but 'gn'.

    Args:
        in_channel, out_channel, num_convs: as in `MaskFeat`.
        norm_type: 'bn', 'sync_bn' or 'gn'; shared with the config's `norm_type`.

    `forward([N, C, 14, 14])` -> [N, out_channel, 28, 28].
    """

    __shared__ = ['norm_type']

    def __init__(self, in_channel=256, out_channel=256, num_convs=4, norm_type='bn') -> None:
        super().__init__()
        self.out_channel = out_channel
        layers = []
        for i in range(num_convs):
            layers += [ConvNormLayer(in_channel if i == 0 else out_channel, out_channel, 3, 1, norm_type=norm_type,
                                     initializer=KaimingNormal(fan_in=out_channel * 9)), nn.ReLU()]
        deconv = nn.Conv2DTranspose(out_channel if num_convs else in_channel, out_channel, 2, 2,
                                    weight_attr=paddle.ParamAttr(initializer=KaimingNormal(fan_in=out_channel * 4)))
        self.upsample = nn.Sequential(*layers, deconv, nn.ReLU())

    @classmethod
    def from_config(cls, cfg: dict[str, Any], input_shape: Any) -> dict[str, int]:
        shape = input_shape[0] if isinstance(input_shape, (list, tuple)) else input_shape
        return {'in_channel': shape.channels}

    def out_channels(self) -> int:
        return self.out_channel

    def forward(self, feats: paddle.Tensor) -> paddle.Tensor:
        return self.upsample(feats)


class IterationSteps:
    """Step schedule with the steps in iterations (PaddleDetection's own `PiecewiseDecay` counts epochs).

    Args:
        milestones: iterations at which the learning rate is multiplied by `gamma`.
        gamma: the factor.
    """

    use_warmup = True       # PaddleDetection asks for this

    def __init__(self, milestones: Sequence[int], gamma: float = 0.1) -> None:
        self.milestones, self.gamma = list(milestones), gamma

    def __call__(self, base_lr: float, boundary: Optional[Sequence[int]] = None,
                 value: Optional[Sequence[float]] = None,
                 step_per_epoch: Optional[int] = None) -> paddle.optimizer.lr.LRScheduler:
        """The scheduler; `boundary` and `value` are those of the warm-up, in iterations."""
        boundary, value = list(boundary or []), list(value or [base_lr])
        for i, step in enumerate(self.milestones):
            boundary.append(step)
            value.append(base_lr * self.gamma ** (i + 1))
        return paddle.optimizer.lr.PiecewiseDecay(boundary, value)
