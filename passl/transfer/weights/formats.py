"""What is written for each target: names, layout and file format."""

import inspect
import os
from typing import Any, NamedTuple, TYPE_CHECKING

import numpy as np

from ...utils.weights.checkpoint import save_file
from ...utils.errors import CheckpointError, PasslError
from ...utils.weights.names import Arch, TORCH, first_short, table

if TYPE_CHECKING:
    import paddle

_PADDLE = ('.pdparams',)


class Target(NamedTuple):
    """A target of the export: the endings of its files, and a sentence on how the file is used."""
    endings: tuple
    use: str


TARGETS = {
    'passl': Target(('.pdparams', '.safetensors'), 'tools/train.py --pretrained FILE'),
    'paddleseg': Target(_PADDLE, 'passl transfer-seg --pretrained FILE; for ResNet*_vd also '
                                 "model.backbone.pretrained: FILE in PaddleSeg's own configs"),
    'paddledet': Target(_PADDLE, 'pretrain_weights: FILE; set freeze_at: -1 and freeze_norm: false in ResNet'),
    'paddleclas': Target(_PADDLE, 'Global.pretrained_model: FILE, without .pdparams'),
    'torchvision': Target(('.pth', '.safetensors'), 'load_state_dict(torch.load(FILE, weights_only=True), '
                                                    'strict=False); only fc may be missing'),
    'timm': Target(('.pth', '.safetensors'), 'create_model(..., num_classes=0, checkpoint_path=FILE)'),
    'mmseg': Target(('.pth',), "init_cfg=dict(type='Pretrained', checkpoint=FILE) on a backbone of type ResNet (7x7 "
                               'stem; the default ResNetV1c has a deep one) or ResNetV1d (vd)'),
    'detectron2': Target(('.pkl',), 'MODEL.WEIGHTS FILE; INPUT.FORMAT RGB, MODEL.RESNETS.STRIDE_IN_1X1 False, '
                                    'MODEL.PIXEL_MEAN and PIXEL_STD as in the certificate'),
    'onnx': Target(('.onnx',), 'any ONNX runtime: image [N, 3, H, W] -> the last map [N, C, H/32, W/32]'),
    'paddle-inference': Target(('',), 'paddle.inference, FILE is a folder: image [N, 3, H, W] -> the last map'),
}


def convert(state: dict[str, np.ndarray], arch: Arch, target: str) -> tuple[dict[str, np.ndarray], list[str]]:
    """{their name: array} of a backbone in our names, with what only the library has.

    Returns:
        (tensors, sorted names of those that were added).
    """
    names = table(arch, target)
    added = first_short(arch, target)
    if target in TORCH and target != 'detectron2':      # torch's batch norms count batches; nobody reads it
        means = [n for n in names.values() if n.endswith('running_mean')]
        counters = [n.replace('running_mean', 'num_batches_tracked') for n in means]
        added = {n: np.zeros((), np.int64) for n in counters}
    return {**{names[n]: value for n, value in state.items()}, **added}, sorted(added)


def write(target: str, path: str, tensors: dict[str, np.ndarray]) -> None:
    """Write the renamed tensors in the target's format."""
    if target == 'detectron2':
        # matching by name endings, since the model's own names have a prefix: backbone. or backbone.bottom_up.
        content: dict[str, Any] = {'model': tensors, '__author__': 'PASSL for DenseCL', 'matching_heuristics': True}
    elif target == 'mmseg':
        content = {'meta': {}, 'state_dict': tensors}
    else:
        content = tensors
    save_file(content, path, torch_layout=target in TORCH)


def write_static(net: 'paddle.nn.Layer', path: str) -> None:
    """Write the backbone as a static model into the folder `path`: any image size, any batch size."""
    from ...engine.export import save_static
    os.makedirs(path)
    save_static(net, [3, -1, -1], os.path.join(path, 'model'))


def write_onnx(net: 'paddle.nn.Layer', path: str) -> None:
    """Write the backbone as an ONNX model: any image size, any batch size.

    Raises:
        CheckpointError: paddle2onnx is not installed, or cannot convert the model.
    """
    try:
        import paddle2onnx
    except ImportError as e:
        raise CheckpointError(f"Writing ONNX needs paddle2onnx, which cannot be imported ({e}). Install it in an "
                              "environment of its own: in the clone pip install -e '.[onnx]'   (or: pip install "
                              'paddle2onnx onnxruntime).') from None
    folder = os.path.splitext(path)[0] + '.static'
    write_static(net, folder)
    prefix = os.path.join(folder, 'model')
    graph = next(prefix + e for e in ('.json', '.pdmodel') if os.path.exists(prefix + e))
    options: dict[str, Any] = {'opset_version': 13}
    if 'optimize_tool' in inspect.signature(paddle2onnx.export).parameters:
        options['optimize_tool'] = 'None'       # its default installs packages into the running environment
    try:
        paddle2onnx.export(graph, prefix + '.pdiparams', path, **options)
    except PasslError:
        raise
    except (Exception, SystemExit) as e:        # it ends the program where it should raise
        raise CheckpointError(f'paddle2onnx cannot convert the model: {type(e).__name__}: {e}.') from e
    if not os.path.exists(path):
        raise CheckpointError('paddle2onnx has written no file. Its version must fit Paddle: 2.1.0 for Paddle 3, '
                              '1.3.1 for Paddle 2.6.')
