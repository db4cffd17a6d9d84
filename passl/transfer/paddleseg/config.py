"""PaddleSeg's config files: read with this project's reader, changed by flags, and handed to PaddleSeg as data."""

from collections.abc import Sequence
from typing import Any, Optional

from ...utils.config import apply_overrides, read_config
from ...utils.errors import ConfigError, suggest
from ...utils.logger import get_logger

NEEDED = ('batch_size', 'iters', 'train_dataset', 'val_dataset', 'optimizer', 'lr_scheduler', 'loss', 'model')
# `total_batch` is this project's: images per step over all processes that the protocol was made for.
KNOWN = NEEDED + ('test_config', 'distill_loss', 'to_static_training', 'total_batch')
DATASETS = ('train_dataset', 'val_dataset')
_INHERITED = '_inherited_'      # PaddleSeg's word for `_delete_`, the other way round


def read(path: str, overrides: Sequence[str] = (), iters: Optional[int] = None,
         data: Optional[str] = None) -> dict[str, Any]:
    """The config of one run as a dict.

    Args:
        path: YAML file in PaddleSeg's format; `_base_` in it is followed.
        overrides: texts 'a.b.0.c=value'.
        iters: number of steps, or None for the config's.
        data: root of the data set, or None for the config's.

    Raises:
        ConfigError: a file, key or override is wrong.
    """
    cfg = read_config(path)
    before = set(cfg)
    cfg = apply_overrides(cfg, overrides, schema=None)
    for key in cfg:
        if key not in KNOWN and key not in before:
            raise ConfigError(f"-o {key}=...: PaddleSeg's configs have no '{key}'. {suggest(key, KNOWN)}")
        if key not in KNOWN:
            get_logger().warning("%s: '%s' has no effect here. %s", path, key, suggest(key, KNOWN))
    missing = [key for key in NEEDED if cfg.get(key) is None]
    if missing:
        raise ConfigError(f"{path}: {', '.join(missing)} is missing; a PaddleSeg config has {', '.join(NEEDED)}.")
    wrong = [k for k in NEEDED if not isinstance(cfg[k], int if k in ('batch_size', 'iters') else dict)]
    if wrong:
        raise ConfigError(f"{path}: '{wrong[0]}' is {cfg[wrong[0]]!r}; batch_size and iters are numbers, the rest are "
                          'mappings.')
    _refuse_inherited(cfg, path, '')
    if iters is not None:
        cfg['iters'] = iters
    for part in DATASETS:
        if data is not None:
            cfg[part]['dataset_root'] = data
    if cfg['batch_size'] < 1 or cfg['iters'] < 1:
        raise ConfigError(f"{path}: batch_size ({cfg['batch_size']}) and iters ({cfg['iters']}) must be 1 or more.")
    return cfg


def _refuse_inherited(node, path, where):
    for key, value in node.items() if isinstance(node, dict) else enumerate(node):
        if key == _INHERITED:
            raise ConfigError(f"{path}: '{where}{key}' is not known here; write `_delete_: true` in its place to drop "
                              'what a mapping inherits.')
        if isinstance(value, (dict, list)):
            _refuse_inherited(value, path, f'{where}{key}.')


def take_pretrained(cfg: dict[str, Any], given: Optional[str]) -> Optional[str]:
    """The weights to start from; what the config says about it is removed from it.

    PaddleSeg would load `pretrained` itself, from the network too, and go on when nothing matches.

    Args:
        given: the flag --pretrained: a file, 'none', or None.
    Returns:
        The file; None for random initialisation.
    Raises:
        ConfigError: nobody said what to start from, or the config wants weights in another place.
    """
    model = cfg['model']
    inside = model.get('backbone') if isinstance(model.get('backbone'), dict) else {}
    named = inside.pop('pretrained', None)
    for place, settings in (('model', model), ('model.backbone', inside)):
        for key, value in settings.items():
            below = key != 'backbone' and isinstance(value, dict) and value.get('pretrained')
            if key == 'pretrained' and value or below:
                raise ConfigError(f"'{place}.{key}' names weights; only a backbone is loaded before a training. Remove "
                                  'it, or use --evaluate-only --weights FILE for a whole model.')
    model.pop('pretrained', None)
    if given is None and named is None:
        raise ConfigError('What to start from? Give --pretrained FILE (a checkpoint of this project or what '
                          'extract-weight wrote), or --pretrained none for random initialisation.')
    start = named if given is None else given
    if start == 'none':
        return None
    if '://' in str(start):
        raise ConfigError(f"'{start}' is an address. Nothing is downloaded here: get the file, and give --pretrained "
                          'FILE.')
    return start


def drop_pretrained(cfg: dict[str, Any]) -> None:
    """Remove what the config says about weights: they come from elsewhere."""
    for settings in (cfg['model'], *cfg['model'].values()):
        if isinstance(settings, dict):
            settings.pop('pretrained', None)


def set_normalize(cfg: dict[str, Any], mean: list[float], std: list[float], change: bool = True) -> None:
    """Let every Normalize of the config use the values of pre-training; PaddleSeg's default is 0.5.

    A backbone that saw images in one range is of little use in another, and nothing would tell.

    Args:
        change: False: only warn, for backbones that may come from elsewhere.
    """
    for part in DATASETS:
        transforms = cfg[part].get('transforms') or []
        found = [t for t in transforms if isinstance(t, dict) and t.get('type') == 'Normalize']
        if not found and change:
            raise ConfigError(f"'{part}.transforms' has no Normalize, which the backbone needs: add one with the mean "
                              f'{mean} and the std {std}.')
        for transform in found:
            if [transform.get('mean'), transform.get('std')] == [mean, std]:
                continue
            was = transform.get('mean', 0.5), transform.get('std', 0.5)
            if change:
                get_logger().warning('%s: Normalize set to the mean %s and std %s of the pre-training (it was %s, %s).',
                                     part, mean, std, *was)
                transform['mean'], transform['std'] = list(mean), list(std)
            else:
                get_logger().warning('%s: Normalize has the mean %s and std %s. Weights of this project were trained '
                                     'with %s and %s.', part, *was, mean, std)


def as_paddleseg(cfg: dict[str, Any]) -> Any:
    """`cfg` as the object that PaddleSeg's builder takes, after PaddleSeg's own checks (which may complete it)."""
    from paddleseg.cvlibs import Config

    class PlainConfig(Config):
        """A Config from a dict: its own constructor would read the file again."""

        def __init__(self, content):
            self.dic = content
            self._build_default_checker().apply_all_rules(self)

    return PlainConfig(cfg)
