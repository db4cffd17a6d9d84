"""ResNet 18 to 101 with the plain 7x7 stem as a backbone for PaddleSeg, which itself has the deep-stem variant only."""

from typing import Any, Callable

from paddle import Tensor, nn
from paddle.vision.models import resnet as vision

from ...modeling.backbones import ResNet
from ...utils.errors import ConfigError

# output stride -> strides and dilations of the four stages. 8 is the "D8" of mmsegmentation and of the paper.
LAYOUTS = {8: ((1, 2, 1, 1), (1, 1, 2, 4)), 16: ((1, 2, 2, 1), (1, 1, 1, 2)), 32: ((1, 2, 2, 2), (1, 1, 1, 1))}


class DilatedResNet(ResNet):
    """ResNet whose last stages keep the resolution; names of the weights as in pre-training (paddle.vision's).

    A stage that gives up its stride dilates its 3x3 convolutions instead: those before its stride by half as much
    (mmsegmentation's `contract_dilation`). So what the pre-trained network computes is computed here too, at more
    places: every s-th place of a map holds the value of the network with strides. mmsegmentation dilates only the
    first convolution of a basic block (ResNet 18, 34), which breaks that; bottlenecks are the same there.

    Args:
        depth: 18, 34, 50 or 101.
        output_stride: 8, 16 or 32, image size / size of the last maps.
        in_channels: 3; PaddleSeg hands it over.

    Attributes:
        feat_channels: channels of the four outputs, as PaddleSeg's heads ask for.

    `forward(x [N, 3, H, W])` -> list of the four stages' maps [N, feat_channels[i], H / s, W / s], s = 4, 8, 8, 8
    with output_stride 8.
    """

    def __init__(self, depth: int, output_stride: int = 8, in_channels: int = 3) -> None:
        if in_channels != 3:
            raise ConfigError(f"'model.backbone.in_channels' is {in_channels!r}; the pre-trained stem takes 3 (RGB).")
        if output_stride not in LAYOUTS:
            raise ConfigError(f"'model.backbone.output_stride' is {output_stride!r}; it must be one of "
                              f'{sorted(LAYOUTS)}.')
        self.layout = LAYOUTS[output_stride]
        super().__init__(depth)
        self.feat_channels = [self.out_channels // n for n in (8, 4, 2, 1)]

    def _vary(self):
        for number, (stride, dilation) in enumerate(zip(*self.layout), 1):
            _reshape_stage(getattr(self, f'layer{number}'), stride, dilation)

    def forward(self, x: Tensor) -> Any:       # list[Tensor]; in paddle.vision it is a Tensor
        return self.stages(x)       # on a CPU by the kernels of pre-training


def _reshape_stage(stage, stride, dilation):
    """Give the stage another stride and dilation; its layers keep their names and places."""
    for number, block in enumerate(stage):
        before = dilation if number else max(1, dilation // 2)      # up to where the stride was
        here = stride if number == 0 else 1
        if isinstance(block, vision.BasicBlock):
            block.conv1, block.conv2 = _conv(block.conv1, here, before), _conv(block.conv2, 1, dilation)
        else:
            block.conv2 = _conv(block.conv2, here, before)
        if block.downsample is not None:
            block.downsample[0] = _conv(block.downsample[0], here, 1)


def _conv(conv, stride, dilation):
    """A new convolution with the channels and kernel of `conv`, all that is taken over."""
    out, inside, size, _ = conv.weight.shape
    return nn.Conv2D(inside, out, size, stride=stride, padding=size // 2 * dilation, dilation=dilation, bias_attr=False)


def _of_depth(depth: int) -> Callable[..., DilatedResNet]:
    """`DilatedResNet` of this depth, under the name ResNet<depth> that a config gives as `type`."""
    def build(**settings: Any) -> DilatedResNet:
        return DilatedResNet(depth, **settings)
    build.__name__ = f'ResNet{depth}'
    return build


PLAIN = tuple(map(_of_depth, (18, 34, 50, 101)))
