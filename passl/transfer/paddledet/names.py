"""PaddleDetection's names of our ResNet's tensors."""

import re

import numpy as np

from ...utils.errors import CheckpointError
from ...utils.key_names import RESNET_BLOCKS, resnet_depth

BN_EPSILON = 1e-5
_BLOCK = re.compile(r'layer([1-4])\.(\d{1,4})\.(conv|bn|downsample\.)(\d)\.(.+)$')


def paddledet_name(name, depth):
    """PaddleDetection's name of the backbone tensor `name` (without prefix).

    PaddleDetection calls the stages res2 to res5 and the blocks a, b, c, ...; in a stage of more than ten blocks
    (ResNet-101 and 152) the blocks after the first are b1, b2, ... A convolution and its batch norm are one part,
    and the three parts of a block are branch2a, branch2b, branch2c.

    Raises:
        CheckpointError: `name` is not part of a ResNet of this depth.
    """
    stem = re.match(r'(conv1|bn1)\.([^.]+)$', name)
    if stem:
        return f'conv1.conv1.{"conv" if stem.group(1) == "conv1" else "norm"}.{stem.group(2)}'
    match = _BLOCK.match(name)
    if not match or int(match.group(2)) >= RESNET_BLOCKS[depth][int(match.group(1)) - 1]:
        raise CheckpointError(f"'{name}' is not a tensor of a ResNet-{depth} backbone, "
                              'so it has no name in PaddleDetection.')
    stage, block, part, number, rest = int(match.group(1)), int(match.group(2)), *match.groups()[2:]
    many = stage == 3 and RESNET_BLOCKS[depth][2] > 10
    letter = f'b{block}' if many and block else chr(ord('a') + block)
    if part == 'downsample.':
        inner = f'short.{"conv" if number == "0" else "norm"}'
    else:
        inner = f'branch2{chr(ord("a") + int(number) - 1)}.{"conv" if part == "conv" else "norm"}'
    return f'res{stage + 1}.res{stage + 1}{letter}.{inner}.{rest}'


def to_paddledet(backbone):
    """Rename {name: array} of a backbone to PaddleDetection's ResNet; every tensor is mapped by name.

    As PaddleClas, PaddleDetection has one convolution more in ResNet-18 and 34; here it is the
    identity (in evaluation mode, exactly up to rounding).

    Returns:
        (renamed dict, names of the added tensors).

    Raises:
        CheckpointError: the names are not those of one ResNet.
    """
    depth = resnet_depth(backbone)
    if depth is None:
        raise CheckpointError('The file holds no whole ResNet backbone of 18, 34, 50, 101 or 152 layers.')
    renamed = {paddledet_name(name, depth): value for name, value in backbone.items()}
    added = {f'res2.res2a.short.{k.replace("bn.", "norm.")}': v for k, v in _identity_shortcut(backbone, depth).items()}
    return dict(renamed, **added), sorted(added)


def _identity_shortcut(backbone, depth):
    """{'conv.weight', 'bn.weight', ...}: a convolution and a norm that change nothing; {} where none is needed."""
    if depth >= 50:
        return {}
    first = np.asarray(backbone.get('layer1.0.conv1.weight', ()))
    if first.ndim != 4 or not first.size:
        raise CheckpointError(f"'layer1.0.conv1.weight' has the shape {list(first.shape)}, which is not that of a "
                              'convolution.')
    width = int(first.shape[0])
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    return {'conv.weight': np.eye(width, dtype=np.float32).reshape(width, width, 1, 1),
            'bn.weight': ones * np.float32(np.sqrt(1 + BN_EPSILON)), 'bn.bias': zeros,
            'bn._mean': zeros.copy(), 'bn._variance': ones}
