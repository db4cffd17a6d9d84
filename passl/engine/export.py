"""Static inference models."""

import os
from typing import Any, Sequence

import paddle
from paddle import nn
from paddle.static import InputSpec

from ..modeling import build_model
from ..modeling.architectures.base import Architecture
from ..utils.errors import ConfigError
from ..utils.logger import get_logger
from ..utils.weights import load_into, load_weights
from ..utils.weights.load import backbone_weights


class _Inference(nn.Layer):
    """What is exported: the classifier's scores, or the features of a self-supervised model's backbone."""

    def __init__(self, model: Architecture, softmax: bool) -> None:
        super().__init__()
        self.backbone = model.backbone
        self.head = model.head if model.supervised else None
        self.softmax = softmax and model.supervised

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        x = self.backbone(x)
        if self.head is None:
            return x
        x = self.head(x)
        return nn.functional.softmax(x, axis=1) if self.softmax else x


def save_static(net: nn.Layer, shape: Sequence[int], prefix: str) -> None:
    """Write `net` (a Layer in eval mode) as `<prefix>.pdiparams` and `.pdmodel` (Paddle 2) or `.json` (Paddle 3).

    Args:
        shape: of one input, [channels, height, width]; -1 leaves a side free. The batch size is free.
    """
    static = paddle.jit.to_static(net, input_spec=[InputSpec([-1, *shape], 'float32', 'image')], full_graph=True)
    paddle.jit.save(static, prefix)


def export(cfg: dict[str, Any], weights: str, run_dir: str) -> int:
    """Write a static model of `weights` that `paddle.jit.load` and paddle.inference read.

    `save_inference_dir` (default: `<run folder>/inference`) gets `model.*`; `image_shape` ([3, 224, 224])
    fixes the input, -1 leaves a side free; `infer_add_softmax` (true) ends a classifier with a softmax.
    """
    shape = list(cfg.get('image_shape') or [3, 224, 224])
    if len(shape) != 3:
        raise ConfigError(f"'image_shape' is {shape}; it must be [channels, height, width].")
    model = build_model(cfg.get('model'))
    net = _Inference(model, cfg.get('infer_add_softmax', True))
    state, source = load_weights(weights), f"'{weights}'"
    if model.supervised:
        load_into(model, state, 'model', source=source)
    else:           # queues, key encoder and projections may be missing, or be of another size
        load_into(model.backbone, backbone_weights(state, source), 'backbone', source=source)
    net.eval()
    folder = cfg.get('save_inference_dir') or os.path.join(run_dir, 'inference')
    os.makedirs(folder, exist_ok=True)
    prefix = os.path.join(folder, 'model')
    existing = [prefix + e for e in ('.pdmodel', '.json', '.pdiparams') if os.path.exists(prefix + e)]
    if existing:
        raise ConfigError(f"'{existing[0]}' exists already. Choose another folder with -o save_inference_dir=DIR.")
    save_static(net, shape, prefix)
    get_logger().info('Exported to %s.*', prefix)
    return 0
