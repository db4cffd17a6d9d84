"""ResNet weight names: which depth they belong to, and how PaddleClas calls them."""

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
    added = {}
    if depth < 50:
        first = np.asarray(backbone.get('layer1.0.conv1.weight', ()))
        if first.ndim != 4 or not first.size:
            raise CheckpointError(f"'layer1.0.conv1.weight' has the shape {list(first.shape)}, which is not that of a "
                                  'convolution.')
        width = int(first.shape[0])
        ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
        added = {'conv.weight': np.eye(width, dtype=np.float32).reshape(width, width, 1, 1),
                 'bn.weight': ones * np.float32(np.sqrt(1 + _BN_EPSILON)), 'bn.bias': zeros,
                 'bn._mean': zeros.copy(), 'bn._variance': ones}
        added = {f'blocks.0.short.{k}': v for k, v in added.items()}
    return dict(renamed, **added), sorted(added)
