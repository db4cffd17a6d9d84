"""A ResNet in numpy that is built from nothing but the names and shapes in a weight file.

It is the second opinion on a written file: it reads the other library's names with patterns of its own, arranges the
tensors into a network, and computes the four stages in double precision. It shares no code with the renaming
(`names`) or with the models of this project.
"""

import re
from typing import Optional

import numpy as np

from ...utils.errors import CheckpointError

_EPSILON = 1e-5
_LEAVES = {'weight': 'weight', 'bias': 'bias', '_mean': 'mean', 'running_mean': 'mean', '_variance': 'variance',
           'running_var': 'variance', 'num_batches_tracked': None}
_LEAF = rf'(?P<leaf>{"|".join(_LEAVES)})$'
# Per library: patterns of a stem's and a block's tensors. `b` is the block (a number or a letter), `i` counts the
# convolutions of a part from any start, `s` counts the stages from any start; `short` marks the shortcut.
_PATTERNS = {
    'torchvision': [r'(?P<stem>conv|bn)1\.', r'conv1\.(?P<i>\d)\.',
                    r'layer(?P<s>\d)\.(?P<b>\d+)\.(?:(?:conv|bn)(?P<i>\d)|(?P<short>downsample)\.\d)\.'],
    'detectron2': [r'(?P<stem>stem)\.conv1\.(?:norm\.)?',
                   r'res(?P<s>\d)\.(?P<b>\d+)\.(?:conv(?P<i>\d)|(?P<short>shortcut))\.(?:norm\.)?'],
    'paddleseg': [r'conv1_(?P<i>\d)\.(?:_conv|_batch_norm)\.',
                  r'bb_(?P<s>\d)_(?P<b>\d+)\.(?:conv(?P<i>\d)|(?P<short>short))\.(?:_conv|_batch_norm)\.'],
    'paddleclas': [r'stem\.(?P<i>\d)\.(?:conv|bn)\.',
                   r'blocks\.(?P<b>\d+)\.(?:conv(?P<i>\d)|(?P<short>short))\.(?:conv|bn)\.'],
    'paddledet': [r'conv1\.conv1(?:_(?P<i>\d))?\.(?:conv|norm)\.',
                  r'res(?P<s>\d)\.res\d(?P<b>[a-z]\d*)\.(?:branch2(?P<i>[a-c])|(?P<short>short))\.(?:conv\.)?'
                  r'(?:conv|norm)\.'],
    'lightly': [r'(?P<stem>[01])\.',
                r'(?P<s>[4-7])\.(?P<b>\d+)\.(?:(?:conv|bn)(?P<i>\d)|(?P<short>downsample)\.\d)\.'],
    'mmseg': [r'stem\.(?P<i>\d)\.'],
}
_PATTERNS['mmseg'] += _PATTERNS['torchvision']
_PATTERNS['paddleseg'] += _PATTERNS['torchvision']      # a plain ResNet, from this project's plugin
_PATTERNS['passl'] = _PATTERNS['timm'] = _PATTERNS['torchvision']


class _Layer:
    """A convolution and its norm, whose tensors arrive one by one."""

    def __init__(self) -> None:
        self.conv: Optional[np.ndarray] = None
        self.norm: dict[str, np.ndarray] = {}

    def put(self, leaf: str, value: np.ndarray) -> bool:
        """Take in a tensor; False if there is one already."""
        if leaf == 'weight' and np.ndim(value) == 4:
            free, self.conv = self.conv is None, value
        else:
            free = leaf not in self.norm
            self.norm[leaf] = value
        return free

    def whole(self) -> bool:
        return self.conv is not None and set(self.norm) == {'weight', 'bias', 'mean', 'variance'}

    def __call__(self, x: np.ndarray, stride: int = 1) -> np.ndarray:
        scale = self.norm['weight'] / np.sqrt(np.asarray(self.norm['variance'], np.float64) + _EPSILON)
        shift = self.norm['bias'] - self.norm['mean'] * scale
        return _convolution(x, self.conv, stride) * scale[:, None, None] + shift[:, None, None]


def _convolution(x, weight, stride):
    """x [N, C, H, W] with a k x k `weight` and padding k // 2."""
    k = weight.shape[2]
    x = np.pad(x, [(0, 0), (0, 0), (k // 2, k // 2), (k // 2, k // 2)])
    windows = np.lib.stride_tricks.sliding_window_view(x, (k, k), axis=(2, 3))[:, :, ::stride, ::stride]
    n, c, h, w = windows.shape[:4]
    rows = windows.transpose(0, 2, 3, 1, 4, 5).reshape(n * h * w, c * k * k)
    out = rows @ np.asarray(weight, np.float64).reshape(len(weight), -1).T
    return out.reshape(n, h, w, -1).transpose(0, 3, 1, 2)


def _max_pool(x):
    """3 x 3, stride 2, padding 1."""
    x = np.pad(x, [(0, 0), (0, 0), (1, 1), (1, 1)], constant_values=-np.inf)
    return np.lib.stride_tricks.sliding_window_view(x, (3, 3), axis=(2, 3))[:, :, ::2, ::2].max(axis=(4, 5))


def _average_2x2(x):
    """2 x 2, stride 2; a last odd row or column is averaged over the cells that there are."""
    height, width = x.shape[2:]
    rows, columns = np.arange(0, height, 2), np.arange(0, width, 2)
    sums = np.add.reduceat(np.add.reduceat(x, rows, axis=2), columns, axis=3)
    return sums / (np.minimum(2, height - rows)[:, None] * np.minimum(2, width - columns))


def _order(text):
    """Sort key of a block's name: 10 after 9, 'b10' after 'b9'."""
    return (re.sub(r'\d', '', text), int(re.sub(r'\D', '', text) or 0))


class Network:
    """The network that a file's tensors make.

    Args:
        state: {name: array}.
        library: whose names they are, a key of `names.CONVENTIONS`.
        where: for messages.

    Raises:
        CheckpointError: a name means nothing in that library, or the tensors make no whole ResNet.
    """

    def __init__(self, state: dict[str, np.ndarray], library: str, where: str = 'the file') -> None:
        self.where = where
        self.stem: dict[str, _Layer] = {}
        self.blocks: dict[tuple[str, tuple[str, int]], dict[str, _Layer]] = {}
        patterns = [re.compile(p + _LEAF) for p in _PATTERNS[library]]
        strange = [name for name, value in state.items() if not self._take(name, value, patterns)]
        if strange:
            raise CheckpointError(f'{where} does not hold a ResNet as {library} names it. Left over ({len(strange)}): '
                                  f'{", ".join(strange)}.')
        self.stages = self._stages()
        layers = [*self.stem.values(), *(layer for block in self.blocks.values() for layer in block.values())]
        broken = [layer for layer in layers if not layer.whole()]
        if broken or len(self.stages) != 4 or not self.stem:
            raise CheckpointError(f'{where} holds no whole ResNet: {len(self.stages)} stages (4 are needed); '
                                  f'{len(broken)} of {len(layers)} convolutions lack weight or norm.')
        self.deep = len(self.stem) > 1

    def _take(self, name, value, patterns):
        for pattern in patterns:
            match = pattern.fullmatch(name)
            if match is None:
                continue
            found, leaf = match.groupdict(), _LEAVES[match.group('leaf')]
            if leaf is None:
                return True
            if found.get('b') is None:
                place, key = self.stem, self._stem_key(name, found)
            else:
                place = self.blocks.setdefault((found.get('s') or '', _order(found['b'])), {})
                key = 'short' if found['short'] else found['i']
            return place.setdefault(key, _Layer()).put(leaf, value)
        return False

    def _stem_key(self, name, found):
        """Which convolution of the stem: sequences count conv, norm, ReLU (0, 1, 2), the others the convolutions."""
        if found.get('i') is None:
            return 'last'
        if re.fullmatch(r'(?:conv1|stem)\.\d\.\w+', name):
            third = int(found['i']) // 3
            return 'last' if third == 2 else str(third)
        return found['i']

    def _stages(self):
        """Lists of blocks; where the names do not tell the stage, a block with a shortcut begins one."""
        stages, last = [], None
        for (stage, _), block in sorted(self.blocks.items(), key=lambda item: item[0]):
            if not stages or stage != last or (stage == '' and 'short' in block):
                stages.append([])
            last = stage
            stages[-1].append(block)
        return stages

    def maps(self, x: np.ndarray) -> list[np.ndarray]:
        """The four stages' maps [N, C, H, W] in float64 for images x [N, 3, H, W]."""
        x = np.asarray(x, np.float64)
        try:
            for i, key in enumerate(sorted(self.stem)):
                x = np.maximum(self.stem[key](x, 1 if i else 2), 0)
            x, found = _max_pool(x), []
            for number, blocks in enumerate(self.stages):
                for i, block in enumerate(blocks):
                    x = self._block(x, block, 2 if number and not i else 1)
                found.append(x)
        except ValueError as e:     # numpy: shapes that do not fit each other
            raise CheckpointError(f'{self.where}: the tensors do not fit each other ({e}).') from e
        return found

    def _block(self, x, block, stride):
        keys = sorted(k for k in block if k != 'short')
        strided = 1 if len(keys) == 3 else 0        # the 3x3 convolution of a bottleneck, the first of two otherwise
        y = x
        for i, key in enumerate(keys):
            y = block[key](y, stride if i == strided else 1)
            y = np.maximum(y, 0) if i < len(keys) - 1 else y
        if 'short' in block:
            x = block['short'](_average_2x2(x), 1) if self.deep and stride == 2 else block['short'](x, stride)
        return np.maximum(x + y, 0)
