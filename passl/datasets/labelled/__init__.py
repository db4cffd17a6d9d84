"""Labelled data sets in their real layouts, checked at the start: masks, boxes, instances, several labels per image."""

import os
from collections.abc import Iterable, Sequence
from typing import Any, Optional, Union

from ...utils.errors import ConfigError
from ...utils.config.registry import build_from_config
from ...utils.config.yaml_text import parse_yaml
from . import cityscapes, coco, folder, voc, voc_objects  # noqa: F401  imported so that they register themselves
from .base import Segmentation
from .boxes import Detection
from .joined import Joined
from .registry import DETECTION, MULTILABEL, SEGMENTATION
from .voc_objects import VocMultilabel

Roots = Union[str, os.PathLike, Sequence[Union[str, os.PathLike]]]
Splits = Union[None, str, Sequence[Optional[str]]]
_SPLITS = {('coco', 'train'): 'train2017', ('coco', 'val'): 'val2017',
           ('ade20k', 'train'): 'training', ('ade20k', 'val'): 'validation'}


def _build(table, kind, root, split, options, what):
    if isinstance(root, (list, tuple)):
        splits = split if isinstance(split, (list, tuple)) else [split] * len(root)
        if len(splits) != len(root):
            raise ConfigError(f'{what}: {len(root)} roots need as many splits, or one for all, not {len(splits)}.')
        return Joined([_build(table, kind, r, s, options, what) for r, s in zip(root, splits)])
    if not isinstance(kind, str):
        raise ConfigError(f"{what}: the kind must be one of {', '.join(table.names())}, not {kind!r}.")
    cfg = {'name': kind, 'root': root, **options}
    if split is None and kind == 'coco':
        split = usual_split(kind, root, 'train')
    if split is not None or kind == 'folder':
        cfg['split'] = split
    return build_from_config(cfg, table, what)


def parse_options(texts: Iterable[str]) -> dict[str, Any]:
    """{name: value} of the flags `--option KEY=VALUE` of a command. Raises ConfigError."""
    options = {}
    for text in texts:
        key, _, value = text.partition('=')
        key = key.strip()
        if key in options or key in ('kind', 'root', 'split'):
            why = 'stands twice' if key in options else 'has a flag or place of its own'
            raise ConfigError(f'--option {key}: {why}.')
        options[key] = parse_yaml(value, f'--option {key}')
    return options


def usual_split(kind: str, root: Roots, part: str) -> Splits:
    """What a data set calls its part 'train' or 'val': COCO and ADE20K have other names; any other text stays as it is.

    An own set in COCO's format may have instances_train.json in place of instances_train2017.json.
    """
    if isinstance(root, (list, tuple)):
        return [usual_split(kind, r, part) for r in root]       # type: ignore[misc]
    name = _SPLITS.get((kind, part), part)
    if kind == 'coco':
        own, usual = (os.path.join(os.path.expanduser(str(root)), 'annotations', f'instances_{n}.json')
                      for n in (part, name))
        return part if os.path.isfile(own) and not os.path.isfile(usual) else name
    return name


def build_segmentation(kind: str, root: Roots, split: Splits = None, **options: Any) -> Union[Segmentation, Joined]:
    """Images with masks: `ds[i]` is (image uint8 [H, W, 3] RGB, mask uint8 [H, W] with 255 = ignore, id).

    `len(ds)`, `ds.classes` (names), `ds.num_classes`, `ds.ignore_index` (255), `ds.ids`, `ds.load_mask(i)`.

    Args:
        kind: 'folder', 'list', 'voc', 'cityscapes', 'ade20k' or 'coco'.
        root: the data set's folder, or several, whose images are put behind each other.
        split: name of the part, such as 'train', or one for each root. None: the usual training part; with 'folder':
            there are no parts.
        options: see the class of the kind.

    Raises:
        ConfigError: unknown kind or option. DataError: another layout, or missing files.
    """
    return _build(SEGMENTATION, kind, root, split, options, 'segmentation')


def build_detection(kind: str, root: Roots, split: Splits = None, **options: Any) -> Union[Detection, Joined]:
    """Images with boxes, and masks of objects on request: `ds[i]` is (image uint8 [H, W, 3] RGB, target, id).

    The target has `boxes` float32 [n, 4] (x0, y0, x1, y1 in pixels, ends exclusive), `labels` int64 [n], `crowd` and
    `difficult` bool [n], and with masks=True `masks` bool [n, H, W].

    Args:
        kind: 'voc' or 'coco'.
        root, split: as for `build_segmentation`.
        options: see VocDetection and CocoDetection.

    Raises:
        ConfigError: unknown kind or option. DataError: another layout, missing files, or wrong annotations.
    """
    return _build(DETECTION, kind, root, split, options, 'detection')


def build_multilabel(kind: str, root: Roots, split: Splits = None, **options: Any) -> Union[VocMultilabel, Joined]:
    """Images that show several classes: `ds[i]` is (image uint8 [H, W, 3] RGB, int8 [classes]).

    1: shown, 0: not shown, -1: counts neither way. `ds.labels` int8 [images, classes] has those of all images.

    Args:
        kind: 'voc'.
        root, split: as for `build_segmentation`.
        options: see VocMultilabel.

    Raises:
        ConfigError: unknown kind or option. DataError: another layout or missing files.
    """
    return _build(MULTILABEL, kind, root, split, options, 'multilabel')
