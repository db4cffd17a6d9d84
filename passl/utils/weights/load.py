"""Finds weights in whatever a file holds, renames them, and puts them into a model with a report."""

import logging
import os
from typing import Any, Collection, Iterable, Optional, Protocol, Union

import numpy as np

from ..errors import CheckpointError
from .checkpoint import is_torch_file, load_file
from .identify import BACKBONES, identify, of_backbone, prefixes, select
from .key_names import describe
from .names import first_short, nearest_arch, table
from .safetensors_file import bfloat16_to_float32

_NESTING = ('state_dict', 'model_state_dict', 'model', 'network', 'backbone')
_NOT_BACKBONE = ('fc.', 'head.', 'neck.', 'classifier.', 'encoder_q.', 'encoder_k.', 'queue', 'prototypes.')
_NO_WEIGHTS = ('optim', 'scheduler', 'lr_', 'message_hub', 'rng', 'scaler', 'amp')         # keys of a training's state
# what torch.compile and others put into names, anywhere
_WRAPPERS = ('_orig_mod.', '_fsdp_wrapped_module.', '_checkpoint_wrapped_module.')
_DEPTH = 6              # levels of dicts around the weights
_SHOWN = 10


def find_state_dict(obj: Any, where: str = 'the file') -> dict[str, np.ndarray]:
    """{name: array} inside a full checkpoint, a {'state_dict', 'author'} file or a flat dict.

    Raises:
        CheckpointError: there are no named tensors.
    """
    tree = obj
    for _ in range(_DEPTH):
        inner = [k for k in _NESTING if isinstance(tree, dict) and isinstance(tree.get(k), dict) and tree[k]]
        if not inner:
            break
        tree = tree[inner[0]]
    found = _arrays(tree, _DEPTH) if isinstance(tree, dict) else {}
    if found:
        for wrapper in _WRAPPERS:
            found = {k.replace(wrapper, ''): v for k, v in found.items()}
        return found
    keys = ', '.join(map(str, list(obj)[:_SHOWN])) if isinstance(obj, dict) else type(obj).__name__
    raise CheckpointError(f"{_sentence(where)} holds no named weights (found: {keys or 'nothing'}). "
                          "Expected {name: tensor}, or that below 'state_dict'.")


def _arrays(tree, depth):
    """{name: array} at any level of nested dicts: below a key where several hold some ('teacher.', 'student.')."""
    here = {k: np.asarray(v) for k, v in tree.items() if isinstance(k, str) and isinstance(v, (np.ndarray, np.generic))}
    below = {k: _arrays(v, depth - 1) for k, v in tree.items()
             if depth and isinstance(k, str) and isinstance(v, dict) and not k.lower().startswith(_NO_WEIGHTS)}
    below = {k: found for k, found in below.items() if found}
    if any(np.ndim(v) for v in here.values()):
        return {**here, **{f'{k}.{name}': v for k, found in below.items() for name, v in found.items()}}
    if len(below) == 1:                 # beside it stand numbers at most, such as the epoch
        return next(iter(below.values()))
    return {f'{k}.{name}': v for k, found in below.items() for name, v in found.items()} or here


def _sentence(text):
    return text[:1].upper() + text[1:]


def is_torch_layout(state: Iterable[str]) -> bool:
    """Whether the names are those of a torch model (batch-norm statistics as torch calls them)."""
    return any(k.endswith(('running_mean', 'running_var', 'num_batches_tracked')) for k in state)


def torch_to_paddle(state: dict[str, np.ndarray], force: bool = False) -> dict[str, np.ndarray]:
    """Names and layout of torch -> those of Paddle.

    `running_mean/var` -> `_mean/_variance`, `num_batches_tracked` is dropped, matrices named
    `*.weight` are transposed (a linear layer is [out, in] in torch, [in, out] in Paddle).

    Args:
        state: {name: array}.
        force: the weights are known to come from torch; otherwise that is told from the names,
            and a dict that does not look like torch's is returned as it is.
    """
    if not force and not is_torch_layout(state):
        return state
    converted = {}
    for name, value in state.items():
        head, _, last = name.rpartition('.')
        if last == 'num_batches_tracked':
            continue
        last = {'running_mean': '_mean', 'running_var': '_variance'}.get(last, last)
        if last == 'weight' and np.ndim(value) == 2:
            value = np.ascontiguousarray(np.asarray(value).T)
        converted[f'{head}.{last}' if head else last] = value
    return converted


def load_weights(path: Union[str, os.PathLike[str]]) -> dict[str, np.ndarray]:
    """Read the weights of any supported file in Paddle's names and layout: {name: array}.

    What `--load` and `--pretrained` use. A wrapper's `module.` in front of every name is removed.
    """
    return weights_in(load_file(path), path)


def weights_in(content: Any, path: Union[str, os.PathLike[str]]) -> dict[str, np.ndarray]:
    """As `load_weights`, of what `load_file(path)` gave."""
    state = find_state_dict(content, f"'{path}'")
    return strip_wrappers(torch_to_paddle(state, force=is_torch_file(path)))


def strip_wrappers(state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Remove `module.` / `_layers.` in front, when all names have it (as data-parallel wrappers do)."""
    for wrapper in ('module.', '_layers.'):
        while state and all(k.startswith(wrapper) for k in state):
            state = {k[len(wrapper):]: v for k, v in state.items()}
    return state


def select_prefix(state: dict[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """The entries whose name begins with `prefix` (whole parts only), without it."""
    if prefix and not prefix.endswith('.'):
        prefix += '.'
    return select(state, prefix)


def find_backbone_prefix(state: Collection[str]) -> Optional[str]:
    """The prefix of the backbone's names ('' if they have none), or None; prefers the query encoder."""
    for prefix in BACKBONES:
        if prefix in ('encoder_q.0.', 'backbone.', 'encoder.0.'):
            if any(k.startswith(prefix) for k in state):
                return prefix
        elif prefix + 'conv1.weight' in state or prefix + 'conv1.0.weight' in state:
            return prefix
    return None


def backbone_weights(state: dict[str, np.ndarray], where: str = 'the file') -> dict[str, np.ndarray]:
    """The backbone's weights in this project's names without a prefix, heads left out.

    Accepts a ResNet as any of `identify.LIBRARIES` names it, behind whatever prefix; of several the query encoder's.
    Of a network that is no ResNet: names with `encoder_q.0.` (this project, PASSL), `backbone.` (PASSL's alias),
    `encoder.0.` (SimCLR), `encoder_q.` or nothing in front.

    Args:
        state: {name: array}, as `load_weights` gives it.
        where: for messages, such as the path in quotes.
    Raises:
        CheckpointError: no backbone is found; the message lists the prefixes that there are.
    """
    state = strip_wrappers(state)
    if any(k.startswith('module.') for k in state):
        state = {k[len('module.'):] if k.startswith('module.') else k: v for k, v in state.items()}
    prefix, library = find_backbone_prefix(state), 'passl'
    try:
        library, prefix = identify(state, where, as_read=True)
        found = of_backbone(select_prefix(state, prefix), library)
    except CheckpointError:
        if prefix is None:
            raise
        found = {k: v for k, v in select_prefix(state, prefix).items() if not k.startswith(_NOT_BACKBONE)}
    if library not in ('passl', 'torchvision', 'timm'):
        found = _renamed(found, library, where)
    if not found:
        raise CheckpointError(f'{_sentence(where)} holds no backbone: its names begin with '
                              f'{", ".join(prefixes(state)[:2 * _SHOWN])}. Expected one of '
                              f'{", ".join(p or "conv1" for p in BACKBONES)}.')
    return found


def _renamed(theirs, library, where):
    """In our names; what has no place in the network keeps its own, to be told by `load_into`."""
    arch = nearest_arch(theirs, library, where, as_read=True)
    identity = first_short(arch, library)
    if all(n in theirs and np.allclose(theirs[n], v, atol=1e-6) for n, v in identity.items()):
        theirs = {n: v for n, v in theirs.items() if n not in identity}
    ours = {name: our for our, name in table(arch, library, as_read=True).items()}
    return {ours.get(name, name): value for name, value in theirs.items()}


def check_finite(state: dict[str, np.ndarray], where: str) -> None:
    """CheckpointError that names the tensors with nan or inf: whatever is computed with them is nan too."""
    wrong = [name for name, value in state.items()
             if np.asarray(value).dtype.kind == 'f' and not np.isfinite(value).all()]
    if wrong:
        more = f', ... ({len(wrong)} in all)' if len(wrong) > _SHOWN else ''
        raise CheckpointError(f'{_sentence(where)} holds values that are nan or inf, in {", ".join(wrong[:_SHOWN])}'
                              f'{more}. A training that went wrong writes such files: use an older one.')


class Holder(Protocol):
    """What weights are put into: a Paddle layer, or a part of one."""

    def state_dict(self) -> Any:
        """{name: tensor}, the tensors themselves."""


class Report:
    """What became of every tensor when weights were put into a model.

    Attributes:
        what: what was loaded, for messages.
        matched, missing, unexpected: lists of names; missing = in the model only.
        mismatched: list of (name, shape in the file, shape in the model).
    """

    def __init__(self, what: str, matched: list[str], missing: list[str], unexpected: list[str],
                 mismatched: list[tuple[str, tuple[int, ...], tuple[int, ...]]]) -> None:
        self.what, self.matched, self.missing = what, matched, missing
        self.unexpected, self.mismatched = unexpected, mismatched

    @property
    def total(self) -> int:
        """Number of tensors that the model has."""
        return len(self.matched) + len(self.missing) + len(self.mismatched)

    @property
    def complete(self) -> bool:
        return len(self.matched) == self.total

    def lines(self, shown: int = _SHOWN) -> list[str]:
        """The short text for the log, a list of lines."""
        out = [f'{self.what}: matched {len(self.matched)} of {self.total}']
        wrong = [f'{n} {list(a)} in the file, {list(b)} in the model' for n, a, b in self.mismatched]
        for title, names in (('missing in the file', self.missing), ('another shape', wrong),
                             ('in the file but not used', self.unexpected)):
            if names:
                more = f', ... ({len(names)} in all)' if len(names) > shown else ''
                out.append(f'  {title}: {", ".join(names[:shown])}{more}')
        return out

    def __str__(self):
        return '\n'.join(self.lines())


def _dtype_name(tensor):
    return str(tensor.dtype).rpartition('.')[2].lower()


def _fit(value, tensor):
    """`value` in the shape and type of `tensor` (which has as many elements)."""
    target, value = _dtype_name(tensor), np.asarray(value)
    if target == 'bfloat16':
        if value.dtype != np.uint16:
            bits = value.astype(np.float32).view(np.uint32)
            value = ((bits + 0x7FFF + ((bits >> 16) & 1)) >> 16).astype(np.uint16)     # round to nearest even
    else:
        if value.dtype == np.uint16 and target.startswith('float'):
            value = bfloat16_to_float32(value)      # Paddle saves bfloat16 as its bits
        value = value.astype(target, copy=False)
    return value.reshape([int(n) for n in tensor.shape])


def load_into(layer: Holder, state: dict[str, np.ndarray], what: str = 'model', strict: bool = True,
              min_matched: Optional[float] = None, source: str = 'the file') -> Report:
    """Put {name: array} into a Paddle layer; first everything is checked, then everything is set.

    Args:
        layer: anything with `state_dict()` of tensors that have `shape`, `dtype`, `set_value`.
        state: {name: array} with the layer's names.
        what: for messages and the log, such as 'backbone'.
        strict: every tensor of the layer must be in `state` (names that the layer lacks are
            only reported). False: one is enough.
        min_matched: share of the layer's tensors (0..1) that must match; overrides `strict`.
        source: for messages, such as the path in quotes.

    Returns:
        Report, which is also logged.

    Raises:
        CheckpointError: too few match, or one that does is not finite. The layer is then unchanged.
    """
    own = layer.state_dict()
    matched, missing, mismatched = [], [], []
    for name, tensor in own.items():
        if name not in state:
            missing.append(name)
            continue
        shape, wanted = np.shape(state[name]), tuple(int(n) for n in tensor.shape)
        # a counter may be stored with or without an axis of length 1
        same = shape == wanted or (np.size(state[name]) == 1 and all(n == 1 for n in wanted))
        same = same and np.asarray(state[name]).dtype.kind in 'biuf'       # neither text nor complex numbers
        matched.append(name) if same else mismatched.append((name, shape, wanted))
    report = Report(what, matched, missing, [k for k in state if k not in own], mismatched)
    needed = 1.0 if strict else 0.0
    needed = needed if min_matched is None else float(min_matched)
    if own and (not matched or len(matched) < needed * len(own)):
        least = max(1, int(np.ceil(needed * len(own))))
        raise CheckpointError(f'{_sentence(source)} does not fit the {what}; {least} matching tensors are '
                              f'needed.\n{report}{_hint(state, own)}')
    check_finite({name: state[name] for name in matched}, source)
    values = {name: _fit(state[name], own[name]) for name in matched}
    for name, value in values.items():
        own[name].set_value(value)
    log = logging.getLogger('passl')
    (log.info if report.complete else log.warning)('%s', report)
    return report


def _hint(state, own):
    """What may be behind it: another depth, or only another prefix."""
    theirs, ours = describe(state), describe(own)
    if theirs and ours and theirs != ours:
        return (f'\nThe file holds {theirs} weights, the model is a {ours}. '
                'Use a file of that depth, or change the model.')
    if not set(state) & set(own):
        try:
            inner = backbone_weights(state)
        except CheckpointError:
            inner = {}
        if set(inner) & set(own):
            return ("\nThe file's names only have a prefix in front: load it with --pretrained, "
                    'or use extract-weight.')
        if is_torch_layout(state):
            return '\nThe names are those of torch: convert the file first with extract-weight.'
    return ''
