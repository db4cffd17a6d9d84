"""The backbones that are compared: weight files and the random start, each with a name and a hash of its content."""

import hashlib
import os
import re
from collections.abc import Collection, Mapping, Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np

from ...modeling.backbones import build_backbone
from ...utils.errors import CheckpointError, ConfigError
from ...utils.weights.key_names import has_deep_stem, resnet_depth
from ...utils.seed import seed_everything
from ...utils.weights import backbone_weights, load_into, load_weights

if TYPE_CHECKING:
    import paddle

RANDOM = 'random'
_OTHER_START = re.compile(RANDOM + r':(\d{1,6})')


class Source:
    """One column of the table.

    Attributes:
        name: for the table.
        path: the file, 'random' or 'random:SEED'.
        depth: of the ResNet; kind: 'ResNet' or 'ResNet_vd' (three convolutions in the stem).
        digest: hash of the backbone's tensors and names, the same in whatever format they are stored; of the random
            start: of its kind, depth and seed.
    """

    def __init__(self, name: str, path: str, depth: int, state: Optional[dict[str, np.ndarray]] = None,
                 kind: str = 'ResNet') -> None:
        self.name, self.path, self.depth, self.kind, self._state = name, path, depth, kind, state
        self._start = start_seed(path) or 0
        self.digest = f"random{self._start or ''}-{kind}-{depth}" if state is None else digest_of(state)

    def build(self, seed: int = 0) -> 'paddle.nn.Layer':
        """The backbone in eval mode; `seed` matters for the random start only.

        Raises:
            CheckpointError: not every tensor of the backbone is in the file.
        """
        seed_everything(self._start + seed)
        net = build_backbone({'name': self.kind, 'depth': self.depth}, 'weights')
        if self._state is not None:
            load_into(net, self._state, f'backbone of {self.name}', source=f"'{self.path}'")
        net.eval()
        return net


def load_backbone(file: str, depth: Optional[int] = None, seed: int = 0) -> 'paddle.nn.Layer':
    """The backbone of a weight file in eval mode, an nn.Layer: images -> the last stage's map [N, C, H / 32, W / 32].

    It takes RGB images [N, 3, H, W] in [0, 1], less ImageNet's mean and divided by its deviation.

    Its kind and depth are found from the names in the file, its width (`out_channels`: 512 or 2048) follows from them.

    Args:
        file: anything that `--pretrained` takes: checkpoints, backbones, files of other libraries. 'random': He's
            initialisation.
        depth: of 'random'; otherwise what the caller expects, or None.
        seed: of 'random'.

    Raises:
        CheckpointError: no whole ResNet backbone, one of another depth or of a width that ResNets here do not have.
        ConfigError: 'random' without depth.
    """
    source, = find_sources([file], depth=depth)
    if depth not in (None, source.depth):
        raise CheckpointError(f"'{file}' holds a ResNet-{source.depth}, not a ResNet-{depth}.")
    return source.build(seed)


def start_seed(path: str) -> Optional[int]:
    """0 of 'random', N of 'random:N', None of a file."""
    other = _OTHER_START.fullmatch(path)
    return int(other[1]) if other else 0 if path == RANDOM else None


def digest_of(state: Mapping[str, np.ndarray]) -> str:
    """SHA-256 (16 digits) of {name: array}, independent of the order."""
    total = hashlib.sha256()
    for name in sorted(state):
        array = np.ascontiguousarray(state[name])
        total.update(f'{name} {array.dtype} {array.shape} '.encode())
        total.update(array.tobytes())
    return total.hexdigest()[:16]


def default_name(path: str, taken: Collection[str]) -> str:
    """A short name that differs from those `taken`: the file's, or for latest.pdparams its folder's."""
    folder, file = os.path.split(os.path.abspath(path))
    stem = os.path.splitext(file)[0]
    name = os.path.basename(folder) if stem in ('latest', 'backbone', 'model') and os.path.basename(folder) else stem
    if name in taken:
        name = f'{os.path.basename(folder)}/{stem}'
    number, wanted = 2, name
    while name in taken:
        name, number = f'{wanted} ({number})', number + 1
    return name


def find_sources(paths: Sequence[str], names: Optional[Sequence[str]] = None,
                 depth: Optional[int] = None) -> list[Source]:
    """The Sources of a command line.

    Args:
        paths: weight files of any kind that `load_weights` reads, 'random' and 'random:SEED'.
        names: one per path, or None.
        depth: of the random start; default: that of the first file, whose kind it always has.

    Raises:
        CheckpointError: a file without a whole ResNet backbone, or not readable.
        ConfigError: names and paths do not pair, or the random start has no depth.
    """
    if names and len(names) != len(paths):
        raise ConfigError(f'--names gives {len(names)} names for {len(paths)} --weights. Give one for each.')
    if names and len(set(names)) != len(names):
        raise ConfigError(f'--names must differ, got {" ".join(names)}.')
    states = [_backbone(path) if start_seed(path) is None else None for path in paths]
    depths = [None if state is None else resnet_depth(state) for state in states]
    kinds = [None if state is None else 'ResNet_vd' if has_deep_stem(state) else 'ResNet' for state in states]
    start = next((x for x in [depth, *depths] if x), None)
    start_kind = next((x for x in kinds if x), 'ResNet')
    if None in depths and start is None:
        raise ConfigError("--weights has only 'random': say which ResNet with --depth 18, 34, 50, 101 or 152.")
    sources: list[Source] = []
    for i, path in enumerate(paths):
        taken = {s.name for s in sources}
        name = names[i] if names else path if states[i] is None and path not in taken else default_name(path, taken)
        own = depths[i] or start
        assert own is not None          # otherwise None in depths
        sources.append(Source(name, path, own, states[i], kinds[i] or start_kind))
    return sources


def _backbone(path):
    state = backbone_weights(load_weights(path), f"'{path}'")
    if resnet_depth(state) is None:
        raise CheckpointError(f"'{path}' holds no whole ResNet backbone: its names are like '{next(iter(state))}'. "
                              'Known depths: 18, 34, 50, 101, 152, with the names of torchvision (conv1, layer1.0...).')
    return state
