"""Our weights into PaddleDetection's models: by name, all of the backbone or nothing."""

import re
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import numpy as np

from ...utils.errors import CheckpointError, listed
from ...utils.weights.key_names import resnet_depth
from ...utils.weights import Report, backbone_weights, load_into, load_weights, select_prefix
from ...utils.weights.names import BN_EPSILON, Arch, first_short, refuse_unless_empty, table

if TYPE_CHECKING:
    import paddle

# where the stages of the backbone are in the model; a C4 model keeps the last one in the box head
_PARTS = (('backbone.', re.compile(r'(conv1|res[2-5])\.')), ('bbox_head.head.', re.compile(r'res5\.')))
_THEIRS = 'conv1.conv1.conv.weight'
_SHORTCUT = 'res2.res2a.short.'     # an identity in files for PaddleDetection's ResNet-18 and 34, see PlainResNet


def backbone_of(model: 'paddle.nn.Layer') -> dict[str, 'paddle.Tensor']:
    """{name in PaddleDetection's ResNet: tensor} of a Faster or Mask R-CNN, a C4 model's res5 included."""
    return {name[len(prefix):]: tensor for name, tensor in model.state_dict().items() for prefix, pattern in _PARTS
            if name.startswith(prefix) and pattern.match(name[len(prefix):])}


def to_paddledet(backbone: dict[str, np.ndarray], where: str = 'the file') -> tuple[dict[str, np.ndarray], list[str]]:
    """Rename {name: array} of a plain backbone for PaddleDetection's ResNet.

    ResNet-18 and 34 get its convolution on the first shortcut, as an identity.

    Returns:
        (renamed dict, names of the added tensors).

    Raises:
        CheckpointError: the names are not those of one whole ResNet.
    """
    depth = resnet_depth(backbone)
    if depth is None:
        raise CheckpointError(f'{where} holds no whole ResNet backbone of 18, 34, 50, 101 or 152 layers.')
    arch = Arch(depth)
    names = table(arch, 'paddledet')
    # what is missing is told by the loading
    refuse_unless_empty(where, arch, len(names), [], [n for n in backbone if n not in names])
    added = first_short(arch, 'paddledet')
    return {**{names[n]: value for n, value in backbone.items()}, **added}, sorted(added)


def read_backbone(path: str) -> dict[str, np.ndarray]:
    """{name in PaddleDetection's ResNet: array} of a weight file; nothing in the file is executed.

    Args:
        path: a checkpoint of ours, extracted weights, or anything `load_weights` reads, with our names or already with
            PaddleDetection's (bare or behind `backbone.`).

    Raises:
        CheckpointError: unreadable, or no ResNet.
    """
    state = load_weights(path)
    for prefix in ('', 'backbone.'):
        if prefix + _THEIRS in state:
            return select_prefix(state, prefix) if prefix else state
    try:
        return to_paddledet(backbone_weights(state, f"'{path}'"), f"'{path}'")[0]
    except CheckpointError as e:
        raise CheckpointError(f"'{path}' cannot be a detector's backbone: {e}") from e


def _is_identity(state):
    """Whether the first shortcut of the file changes nothing (also: whether the file is one of basic blocks)."""
    weight, scale = state.get(_SHORTCUT + 'conv.weight'), state.get(_SHORTCUT + 'norm.weight')
    if np.ndim(weight) != 4 or np.shape(scale) != np.shape(weight)[:1]:
        return False
    norm = {k: np.asarray(state.get(f'{_SHORTCUT}norm.{k}', np.nan)) for k in ('bias', '_mean', '_variance')}
    return (np.array_equal(np.asarray(weight)[:, :, 0, 0], np.eye(*np.shape(weight)[:2]))
            and np.allclose(np.asarray(scale) ** 2, norm['_variance'] + BN_EPSILON, rtol=1e-5)
            and not np.any(norm['bias'] != 0) and not np.any(norm['_mean'] != 0))


def load_backbone(model: 'paddle.nn.Layer', path: str) -> Report:
    """Put the backbone in the file `path` into a PaddleDetection model.

    Returns:
        `passl.utils.weights.Report`; all tensors matched.

    Raises:
        CheckpointError: a tensor is missing, has another shape or is left over: another depth, another stem, or a
            damaged file. The model is then unchanged.
    """
    state, own = read_backbone(path), backbone_of(model)
    if _SHORTCUT + 'conv.weight' not in own and _is_identity(state):
        state = {k: v for k, v in state.items() if not k.startswith(_SHORTCUT)}
    unused = sorted(set(state) - set(own))
    if unused and not set(own) - set(state):
        raise CheckpointError(f"'{path}' holds {len(unused)} backbone tensors that the detector has no place for: "
                              f"{listed(unused, 10)}. Its depth and the "
                              "config's (ResNet.depth, ResNet.num_stages) must agree.")
    part: Any = SimpleNamespace(state_dict=lambda: own)
    return load_into(part, state, "detector's backbone", source=f"'{path}'")


def load_detector(model: 'paddle.nn.Layer', path: str) -> Report:
    """Put a whole trained detector, as PaddleDetection saves it, into `model`; every tensor must fit.

    Raises:
        CheckpointError: the file is no such detector.
    """
    return load_into(model, load_weights(path), 'detector', source=f"'{path}'")


def trained_flags(model: 'paddle.nn.Layer') -> dict[str, list[int]]:
    """What of a model's backbone a training moves, for the log and the metrics file.

    Returns:
        {'convolutions': [trained, all], 'norms': [trained, all], 'norm_statistics': [moving, all]}, counted in weights
        of convolutions, scales and shifts of norms, and norms whose running statistics are those of the data.
    """
    import paddle
    counts = {'convolutions': [0, 0], 'norms': [0, 0], 'norm_statistics': [0, 0]}
    for name, tensor in backbone_of(model).items():
        if not name.endswith(('._mean', '._variance')):
            kind = counts['norms' if '.norm.' in name else 'convolutions']
            kind[0] += not tensor.stop_gradient
            kind[1] += 1
    for name, layer in model.named_sublayers():
        if isinstance(layer, paddle.nn.BatchNorm2D) and any(
                name.startswith(prefix) and pattern.match(name[len(prefix):]) for prefix, pattern in _PARTS):
            counts['norm_statistics'][0] += not layer._use_global_stats
            counts['norm_statistics'][1] += 1
    return counts
