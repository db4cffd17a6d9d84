"""What every library calls the tensors of a ResNet.

The names are generated here, from the place of a tensor in the network. The check of a written file
(`independent`) reads names back with code of its own, so that one mistake cannot hide in both.
"""

from typing import NamedTuple, Optional, Iterable, Sequence

import numpy as np

from ..errors import CheckpointError
from .key_names import RESNET_BLOCKS

BN_EPSILON = 1e-5
NORM = ('weight', 'bias', '_mean', '_variance')
TORCH_NORM = {'_mean': 'running_mean', '_variance': 'running_var'}


class Arch(NamedTuple):
    """A ResNet (`vd` False: 7x7 stem) or ResNet_vd (deep stem, average pooling on the shortcuts)."""
    depth: int
    vd: bool = False

    @property
    def bottleneck(self) -> bool:
        return self.depth >= 50

    @property
    def name(self) -> str:
        return f'ResNet-{self.depth}{"_vd" if self.vd else ""}'

    @property
    def stem(self) -> str:
        return 'deep (three 3x3 convolutions)' if self.vd else '7x7'

    @property
    def blocks(self) -> tuple[int, ...]:
        return RESNET_BLOCKS[self.depth]


class Part(NamedTuple):
    """A convolution with its norm: `index` 0, 1, ... in the block, None on the shortcut. Stage 0 is the stem."""
    stage: int
    block: int
    index: Optional[int]        # type: ignore[assignment]  # hides tuple.index, which nobody asks for
    shape: tuple        # of the convolution's weight, [out, in, k, k]

    @property
    def is_short(self) -> bool:
        return self.index is None


def parts(arch: Arch) -> list[Part]:
    """All convolutions of the network with their norms, in the order of the computation."""
    found = [Part(0, 0, i, shape) for i, shape in enumerate(
        [(32, 3, 3, 3), (32, 32, 3, 3), (64, 32, 3, 3)] if arch.vd else [(64, 3, 7, 7)])]
    c_in = 64
    for stage, count in enumerate(arch.blocks, 1):
        width = 64 * 2**(stage - 1)
        c_out = width * (4 if arch.bottleneck else 1)
        for block in range(count):
            if arch.bottleneck:
                shapes = [(width, c_in, 1, 1), (width, width, 3, 3), (c_out, width, 1, 1)]
            else:
                shapes = [(width, c_in, 3, 3), (width, width, 3, 3)]
            found += [Part(stage, block, i, shape) for i, shape in enumerate(shapes)]
            if block == 0 and (arch.vd or c_in != c_out):
                found.append(Part(stage, 0, None, (c_out, c_in, 1, 1)))
            c_in = c_out
    return found


def _ours(arch, part):
    if part.stage == 0:
        if not arch.vd:
            return 'conv1', 'bn1'
        return (f'conv1.{3 * part.index}', f'conv1.{3 * part.index + 1}' if part.index < 2 else 'bn1')
    front = f'layer{part.stage}.{part.block}.'
    if part.is_short:
        return f'{front}downsample.{int(arch.vd)}', f'{front}downsample.{int(arch.vd) + 1}'
    return f'{front}conv{part.index + 1}', f'{front}bn{part.index + 1}'


def _mmlab(arch, part):
    """As torchvision, but a deep stem is called `stem` and shortcuts without pooling are numbered from 0."""
    if arch.vd and part.stage == 0:
        return f'stem.{3 * part.index}', f'stem.{3 * part.index + 1}'
    if arch.vd and part.stage == 1 and part.is_short:
        return 'layer1.0.downsample.0', 'layer1.0.downsample.1'
    return _ours(arch, part)


def _detectron2(arch, part):
    if part.stage == 0:
        return 'stem.conv1', 'stem.conv1.norm'
    path = f'res{part.stage + 1}.{part.block}.' + ('shortcut' if part.is_short else f'conv{part.index + 1}')
    return path, path + '.norm'


def _paddleseg(arch, part):
    """PaddleSeg's ResNet_vd; a plain ResNet it gets from this project's plugin, with our names."""
    if not arch.vd:
        return _ours(arch, part)
    if part.stage == 0:
        path = f'conv1_{part.index + 1}'
    else:
        path = f'bb_{part.stage - 1}_{part.block}.' + ('short' if part.is_short else f'conv{part.index}')
    return path + '._conv', path + '._batch_norm'


def _paddleclas(arch, part):
    """The blocks of all stages are numbered through."""
    if part.stage == 0:
        path = f'stem.{part.index}'
    else:
        path = f'blocks.{sum(arch.blocks[:part.stage - 1]) + part.block}.' + (
            'short' if part.is_short else f'conv{part.index}')
    return path + '.conv', path + '.bn'


def _paddledet(arch, part):
    """The names of Caffe's ResNet: block letters, or numbers in the long third stage of ResNet-101 and 152."""
    if part.stage == 0:
        path = f'conv1.conv1_{part.index + 1}' if arch.vd else 'conv1.conv1'
    else:
        stage = part.stage + 1
        numbered = stage == 4 and arch.blocks[2] > 10 and part.block
        letter = f'b{part.block}' if numbered else chr(ord('a') + part.block)
        if part.is_short:       # with pooling it is a sequence of pool and conv
            branch = 'short.conv' if arch.vd and part.stage > 1 else 'short'
        else:
            branch = 'branch2' + 'abc'[part.index]
        path = f'res{stage}.res{stage}{letter}.{branch}'
    return path + '.conv', path + '.norm'


def _lightly(arch, part):
    """torchvision's ResNet as a sequence: 0 is conv1, 1 is bn1, 4 to 7 are the stages."""
    if part.stage == 0:
        return '0', '1'
    front = f'layer{part.stage}.'
    return tuple(path.replace(front, f'{part.stage + 3}.', 1) for path in _ours(arch, part))


CONVENTIONS = {'passl': _ours, 'torchvision': _ours, 'timm': _ours, 'mmseg': _mmlab, 'detectron2': _detectron2,
               'lightly': _lightly, 'paddleseg': _paddleseg, 'paddleclas': _paddleclas, 'paddledet': _paddledet}
TORCH = ('torchvision', 'timm', 'mmseg', 'detectron2', 'lightly')
ARCHS = [Arch(depth, vd) for vd in (False, True) for depth in RESNET_BLOCKS]
# These have a convolution on the first shortcut of ResNet-18 and 34 that the ResNet of the paper has not.
FIRST_SHORT = ('paddleclas', 'paddledet')
_NO_SUCH_MODEL = {
    'torchvision': 'torchvision has no ResNet with a deep stem; timm has (resnet50d): --to timm',
    'detectron2': "detectron2's ResNet has no average pooling on its shortcuts",
    'lightly': "its ResNet has no deep stem",
}


def check_exists(arch: Arch, convention: str) -> None:
    """CheckpointError if the library has no such network."""
    reason = _NO_SUCH_MODEL.get(convention) if arch.vd else None
    if arch.vd and convention in ('timm', 'mmseg') and not arch.bottleneck:
        reason = (f'its ResNet-{arch.depth} with a deep stem has no convolution on the first shortcut, which '
                  'PaddleSeg, PaddleClas and so this project have')
    if reason:
        raise CheckpointError(f"{arch.name} has no counterpart for '{convention}': {reason}.")


def shapes(arch: Arch) -> dict[str, tuple[int, ...]]:
    """{our name: shape} of all tensors of the backbone, in the order of the computation."""
    table = {}
    for part in parts(arch):
        conv, norm = _ours(arch, part)
        table[conv + '.weight'] = part.shape
        table.update({f'{norm}.{leaf}': part.shape[:1] for leaf in NORM})
    return table


def table(arch: Arch, convention: str, as_read: bool = False) -> dict[str, str]:
    """{our name: the name in `convention`} of all tensors; torch's leaf names where the library is torch's.

    as_read: with Paddle's leaf names in any case, as `passl.utils.weights.load_weights` gives them.
    """
    leaves = TORCH_NORM if convention in TORCH and not as_read else {}
    found = {}
    for part in parts(arch):
        (conv, norm), (their_conv, their_norm) = _ours(arch, part), CONVENTIONS[convention](arch, part)
        found[conv + '.weight'] = their_conv + '.weight'
        found.update({f'{norm}.{leaf}': f'{their_norm}.{leaves.get(leaf, leaf)}' for leaf in NORM})
    return found


def first_short(arch: Arch, convention: str) -> dict[str, np.ndarray]:
    """{their name: array} of the first shortcut as the identity, where only the library has one; else {}.

    The network then computes the same in evaluation mode (exactly up to rounding).
    """
    if convention not in FIRST_SHORT or arch.vd or arch.bottleneck:
        return {}
    conv, norm = CONVENTIONS[convention](arch, Part(1, 0, None, ()))
    width = parts(arch)[0].shape[0]
    ones, zeros = np.ones(width, np.float32), np.zeros(width, np.float32)
    return {f'{conv}.weight': np.eye(width, dtype=np.float32).reshape(width, width, 1, 1),
            f'{norm}.weight': ones * np.float32(np.sqrt(1 + BN_EPSILON)), f'{norm}.bias': zeros,
            f'{norm}._mean': zeros.copy(), f'{norm}._variance': ones}


def nearest_arch(names: Iterable[str], convention: str, where: str, as_read: bool = False) -> Arch:
    """The Arch whose tensors `names` are, or nearly are (then `check_complete` tells what differs); see `table`.

    Raises:
        CheckpointError: fewer than half of the names fit any of them.
    """
    names = set(names)

    def agreement(arch):
        theirs = set(table(arch, convention, as_read).values())
        return len(theirs & names) / len(theirs | names)
    best = max(ARCHS, key=agreement)
    if agreement(best) < 0.5:
        raise CheckpointError(f'{where} holds no ResNet-18, 34, 50, 101 or 152 backbone (nor a ResNet_vd): less than '
                              f'half of its names fit. They are like: {", ".join(sorted(names)[:5])}.')
    return best


def check_complete(state: dict[str, np.ndarray], arch: Arch, where: str) -> None:
    """Every tensor of the backbone is there in its shape, and nothing else.

    Raises:
        CheckpointError: with the lists of what is missing, left over or of another shape.
    """
    wanted = shapes(arch)
    missing = [n for n in wanted if n not in state]
    left = [n for n in state if n not in wanted]
    wrong = [f'{n} {list(np.shape(state[n]))} in place of {list(shape)}' for n, shape in wanted.items()
             if n in state and tuple(np.shape(state[n])) != shape]
    refuse_unless_empty(where, arch, len(wanted), missing, left, wrong)


def refuse_unless_empty(where: str, arch: Arch, total: int, missing: Sequence[str], left: Sequence[str],
                        wrong: Sequence[str] = ()) -> None:
    """CheckpointError with the lists, unless all of them are empty."""
    if missing or left or wrong:
        lines = [f'{where} does not hold exactly the backbone of a {arch.name} (stem: {arch.stem}): '
                 f'{total - len(missing) - len(wrong)} of {total} tensors match.']
        for title, names in (('missing', missing), ('left over', left), ('another shape', wrong)):
            lines += [f'  {title} ({len(names)}): {", ".join(names)}'] if names else []
        raise CheckpointError('\n'.join(lines))
