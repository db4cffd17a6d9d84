"""Labelled data sets in their real layouts, checked at the start: masks, boxes, instances, several labels per image."""

from ...utils.errors import ConfigError
from ...utils.registry import build_from_config
from . import folder, voc  # noqa: F401  imported so that they register themselves
from .registry import DETECTION, MULTILABEL, SEGMENTATION


def _build(table, kind, root, split, options, what):
    if not isinstance(kind, str):
        raise ConfigError(f"{what}: the kind must be one of {', '.join(table.names())}, not {kind!r}.")
    cfg = {'name': kind, 'root': root, **options}
    if split is not None or kind == 'folder':
        cfg['split'] = split
    return build_from_config(cfg, table, what)


def build_segmentation(kind, root, split=None, **options):
    """Images with masks: `ds[i]` is (image uint8 [H, W, 3] RGB, mask uint8 [H, W] with 255 = ignore, id).

    `len(ds)`, `ds.classes` (names), `ds.num_classes`, `ds.ignore_index` (255), `ds.ids`, `ds.load_mask(i)`.

    Args:
        kind: 'folder', 'voc', 'cityscapes', 'ade20k' or 'coco'.
        root: the data set's folder.
        split: name of the part, such as 'train'. None: the usual training part; with 'folder': there are no parts.
        options: see the class of the kind.

    Raises:
        ConfigError: unknown kind or option. DataError: another layout, or missing files.
    """
    return _build(SEGMENTATION, kind, root, split, options, 'segmentation')
