"""The FCN head of the paper's segmentation protocol (mmsegmentation's `fcn_r50-d8`) as a model for PaddleSeg."""

import math

import paddle
import paddle.nn.functional as F
from paddle import nn

from ...modules.init import constant_, normal_


def _conv_norm_relu(inside, out):
    # PaddleSeg's layer: it synchronises the norm over GPUs, and never on the CPU, which has no kernel for that
    from paddleseg.models.layers import ConvBNReLU
    return ConvBNReLU(inside, out, 3, bias_attr=False)


class FCNHead(nn.Layer):
    """3x3 convolutions with norm and ReLU, dropout of whole channels, then a 1x1 classifier.

    Args:
        in_channels: channels of the map.
        channels: channels of the 3x3 convolutions.
        num_classes: channels of the scores.
        num_convs: how many convolutions, 1 or more.
        concat_input: put the input beside their output and join both by one more convolution.
        dropout: probability that a channel is dropped.

    `forward(x [N, in_channels, h, w])` -> scores [N, num_classes, h, w].
    """

    def __init__(self, in_channels: int, channels: int, num_classes: int, num_convs: int = 2, concat_input: bool = True,
                 dropout: float = 0.1) -> None:
        super().__init__()
        widths = [in_channels] + [channels] * num_convs
        self.convs = nn.Sequential(*[_conv_norm_relu(a, b) for a, b in zip(widths, widths[1:])])
        self.join = _conv_norm_relu(in_channels + channels, channels) if concat_input else None
        self.dropout = nn.Dropout2D(dropout)
        self.classify = nn.Conv2D(channels, num_classes, 1)
        for layer in self.sublayers():
            if isinstance(layer, nn.Conv2D):
                out, _, height, width = layer.weight.shape
                normal_(layer.weight, math.sqrt(2.0 / (out * height * width)))
        normal_(self.classify.weight, 0.01)
        constant_(self.classify.bias, 0.0)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        out = self.convs(x)
        if self.join is not None:
            out = self.join(paddle.concat([x, out], axis=1))
        return self.classify(self.dropout(out))


class DilatedFCN(nn.Layer):
    """A backbone with the FCN head on its last stage, and an auxiliary head on an earlier one for training.

    Args:
        num_classes: number of classes.
        backbone: list of maps from images; with `feat_channels`.
        channels: width of the head, 512 in the protocol.
        aux_channels: width of the auxiliary head, 256 in the protocol; 0 for none.
        aux_index: stage of the auxiliary head, counted from 0.
        dropout: in both heads.
        align_corners: of the resizing of the scores to the image; True for odd sizes such as 769.

    `forward(x [N, 3, H, W])` -> [scores], while training [scores, auxiliary scores], each [N, num_classes, H, W].
    The loss of the config needs as many coefficients: [1, 0.4] in the protocol.
    """

    def __init__(self, num_classes: int, backbone: nn.Layer, channels: int = 512, aux_channels: int = 256,
                 aux_index: int = 2, dropout: float = 0.1, align_corners: bool = False) -> None:
        super().__init__()
        self.backbone = backbone
        widths = backbone.feat_channels
        self.head = FCNHead(widths[-1], channels, num_classes, dropout=dropout)
        self.aux_head = FCNHead(widths[aux_index], aux_channels, num_classes, num_convs=1, concat_input=False,
                                dropout=dropout) if aux_channels else None
        self.aux_index, self.align_corners = aux_index, align_corners

    def forward(self, x: paddle.Tensor) -> list[paddle.Tensor]:
        maps, size = self.backbone(x), paddle.shape(x)[2:]
        scores = [self.head(maps[-1])]
        if self.training and self.aux_head is not None:
            scores.append(self.aux_head(maps[self.aux_index]))
        return [F.interpolate(s, size, mode='bilinear', align_corners=self.align_corners) for s in scores]
