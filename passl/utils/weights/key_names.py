"""ResNet weight names: which network they belong to. Other libraries' names: passl/transfer/weights/names.py."""

import re
from typing import Collection, Iterable, Optional

# depth -> blocks per stage; 18 and 34 have basic blocks (two convolutions), the others bottlenecks
RESNET_BLOCKS = {18: (2, 2, 2, 2), 34: (3, 4, 6, 3), 50: (3, 4, 6, 3), 101: (3, 4, 23, 3), 152: (3, 8, 36, 3)}
_BLOCK = re.compile(r'(?:^|\.)layer([1-4])\.(\d{1,4})\.(conv|bn|downsample\.)(\d)\.(.+)$')
_DEEP_STEM = re.compile(r'(?:^|\.)conv1\.\d\.')


def resnet_depth(names: Iterable[str]) -> Optional[int]:
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


def has_deep_stem(names: Iterable[str]) -> bool:
    """Whether `names` (any prefix) are those of a ResNet_vd, whose stem is three convolutions."""
    return any(_DEEP_STEM.search(name) for name in names)


def describe(names: Collection[str]) -> Optional[str]:
    """'ResNet-50 (bottleneck blocks)', 'ResNet-50_vd (bottleneck blocks, deep stem)' or None."""
    depth = resnet_depth(names)
    if not depth:
        return None
    kind, vd = 'bottleneck' if depth >= 50 else 'basic', has_deep_stem(names)
    return f'ResNet-{depth}{"_vd" if vd else ""} ({kind} blocks{", deep stem" if vd else ""})'
