"""ResNet weight names: which depth they belong to, and how PaddleClas and PaddleDetection call them."""

import re

import numpy as np

from .errors import CheckpointError

# depth -> blocks per stage; 18 and 34 have basic blocks (two convolutions), the others bottlenecks
RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_BLOCK = re.compile(r'(?:^|\.)layer([1-4])\.(\d{1,4})\.(conv|bn|downsample\.)(\d)\.(.+)$')
_BN_EPSILON = 1e-5


def resnet_depth(names):
    """18, 34, 50, 101 or 152 if `names` are those of one ResNet (any prefix), else None."""
    blocks, bottleneck = [0, 0, 0, 0], False
    for name in names:
        match = _BLOCK.search(name)
        if match:
            stage, block = int(match.group(1)), int(match.group(2))
            blocks[stage - 1] = max(blocks[stage - 1], block + 1)
            bottleneck |= match.group(3) == 'conv' and match.group(4) == '3'
    for depth, expected in RESNET_BLOCKS.items():
        if tuple(blocks) == expected and bottleneck == (depth >= 50):
            return depth
    return None


def describe(names):
    """'ResNet-50 (bottleneck blocks)' or None."""
    depth = resnet_depth(names)
    return depth and f'ResNet-{depth} ({"bottleneck" if depth >= 50 else "basic"} blocks)'


def paddleclas_name(name, depth):
    """PaddleClas's name of the backbone tensor `name` (without prefix).

    PaddleClas numbers the blocks of all stages through, counts convolutions from 0 and keeps
    each convolution with its batch norm in one part: `blocks.{n}.conv{i}.{conv,bn}`.

    Raises:
        CheckpointError: `name` is not part of a ResNet of this depth.
    """
    stem = re.match(r'^(conv1|bn1)\.(.+)$', name)
    if stem:
        return f'stem.0.{stem.group(1)[:-1]}.{stem.group(2)}'
    match = _BLOCK.match(name)
    if not match or int(match.group(2)) >= RESNET_BLOCKS[depth][int(match.group(1)) - 1]:
        raise CheckpointError(f"'{name}' is not a tensor of a ResNet-{depth} backbone, "
                              'so it has no name in PaddleClas.')
    stage, block, part, number, rest = match.groups()
    block = sum(RESNET_BLOCKS[depth][:int(stage) - 1]) + int(block)
    if part == 'downsample.':
        return f'blocks.{block}.short.{"conv" if number == "0" else "bn"}.{rest}'
    return f'blocks.{block}.conv{int(number) - 1}.{part}.{rest}'


def paddledet_name(name, depth):
    """PaddleDetection's name of the backbone tensor `name` (without prefix).

    PaddleDetection calls the stages res2 to res5 and the blocks a, b, c, ...; in a stage of more than ten blocks
    (ResNet-101 and 152) the blocks after the first are b1, b2, ... A convolution and its batch norm are one part,
    and the three parts of a block are branch2a, branch2b, branch2c.

    Raises:
        CheckpointError: `name` is not part of a ResNet of this depth.
    """
    stem = re.match(r'^(conv1|bn1)\.(.+)$', name)
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

    As PaddleClas, PaddleDetection has one convolution more in ResNet-18 and 34, see `to_paddleclas`.

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
            'bn.weight': ones * np.float32(np.sqrt(1 + _BN_EPSILON)), 'bn.bias': zeros,
            'bn._mean': zeros.copy(), 'bn._variance': ones}


def to_paddleclas(backbone, depth):
    """Rename {name: array} of a backbone to PaddleClas's ResNet{depth}; every tensor is mapped by name.

    PaddleClas's ResNet18/34 have one convolution that the ResNet of the paper has not: on the
    shortcut of the very first block. It is written as the identity, so that the network
    computes the same (in evaluation mode; exactly up to rounding).

    Returns:
        (renamed dict, names of the added tensors).
    """
    found = resnet_depth(backbone)
    if found != depth:
        if found is None:
            raise CheckpointError(f'The file holds no whole ResNet backbone; a ResNet-{depth} is needed.')
        raise CheckpointError(f'The file holds a {describe(backbone)}, not a ResNet-{depth}. '
                              f'Give the type that fits: --type res{found}.')
    renamed = {paddleclas_name(name, depth): value for name, value in backbone.items()}
    added = {f'blocks.0.short.{k}': v for k, v in _identity_shortcut(backbone, depth).items()}
    return dict(renamed, **added), sorted(added)
