"""ResNet-vd: the variant that PaddleSeg, PaddleClas and PaddleDetection prefer."""

from paddle import nn

from .builder import BACKBONES
from .resnet import ResNet


@BACKBONES.register()
class ResNet_vd(ResNet):
    """ResNet-vd ("ResNet-D" of He et al. 2018, Bag of Tricks, section 4.2), as PaddleSeg builds it.

    Two things differ from ResNet: the stem is three 3x3 convolutions (32, 32, 64 channels, the first with
    stride 2), and a shortcut with stride 2 averages 2x2 cells before its 1x1 convolution, which then has stride 1.
    As in PaddleSeg and PaddleClas the very first block has a 1x1 convolution on its shortcut at every depth, also
    at 18 and 34.

    Arguments, `forward` and output as of ResNet.

    Names: `conv1.{0,3,6}` and `conv1.{1,4}`, `bn1` are the stem's convolutions and norms, `downsample.1` and
    `downsample.2` a shortcut's (as in timm's resnet50d). `passl export` writes the names of the other libraries.
    """

    def _vary(self):
        self.conv1 = nn.Sequential(_conv3(3, 32, 2), nn.BatchNorm2D(32), nn.ReLU(),
                                   _conv3(32, 32), nn.BatchNorm2D(32), nn.ReLU(), _conv3(32, 64))
        c_in = 64
        for stage in range(1, 5):
            first = getattr(self, f'layer{stage}')[0]
            c_out = 64 * 2**(stage - 1) * first.expansion
            pool = nn.AvgPool2D(2, 2, ceil_mode=True) if stage > 1 else nn.Identity()
            first.downsample = nn.Sequential(pool, nn.Conv2D(c_in, c_out, 1, bias_attr=False), nn.BatchNorm2D(c_out))
            c_in = c_out


def _conv3(c_in, c_out, stride=1):
    return nn.Conv2D(c_in, c_out, 3, stride=stride, padding=1, bias_attr=False)
