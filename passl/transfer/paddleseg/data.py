"""The data sets of a PaddleSeg config, read by `datasets.labelled`. Needs no PaddleSeg."""

import os
from collections.abc import Iterable
from typing import Any, Optional, Union

from ...datasets.folder import check_folder
from ...datasets.labelled import Joined, Segmentation, build_segmentation, usual_split
from ...datasets.labelled.checked import check_pairs, judge_masks
from ...utils.errors import ConfigError, DataError
from .config import DATASETS

# PaddleSeg's name of a layout -> ours, which may stand in a config as well
KINDS = {'Dataset': 'folder', 'PascalVOC': 'voc', 'Cityscapes': 'cityscapes', 'ADE20K': 'ade20k',
         **{kind: kind for kind in ('folder', 'list', 'voc', 'cityscapes', 'ade20k', 'coco')}}
_THEIRS = ('type', 'dataset_root', 'mode', 'transforms', 'num_classes', 'edge')
_LISTS = ('train_path', 'val_path', 'test_path')


def read_parts(cfg: dict[str, Any], parts: Iterable[str]) -> dict[str, Optional[Union[Segmentation, Joined]]]:
    """{part: what `read_part` gives}. Raises DataError if the classes of training and evaluation differ."""
    found = {part: read_part(cfg, part) for part in parts}
    train, val = (found.get(part) for part in DATASETS)
    if train is not None and val is not None and train.classes != val.classes:
        odd = next((c for c in train.classes if c not in val.classes), 'their order')
        raise DataError(f"'{train.root}' and '{val.root}' have different classes ({odd}). Give both parts the same.")
    return found


def read_part(cfg: dict[str, Any], part: str) -> Optional[Union[Segmentation, Joined]]:
    """The labelled pairs of one part, as `check-data` and `evaluate` read them; none is decoded.

    What PaddleSeg itself does not know in `cfg[part]`, such as `unpaired`, is an option of the reader.

    Args:
        cfg: the whole config; its `num_classes` are checked and set.
        part: 'train_dataset' or 'val_dataset'.

    Returns:
        What `build_segmentation` gives; None for a type that only PaddleSeg knows.

    Raises:
        DataError: the folders, lists, pairs or classes are not as they must be. ConfigError: unknown options.
    """
    data = cfg[part]
    root = data.get('dataset_root')
    if not root:                        # PaddleSeg would download VOC and others
        raise DataError(f"'{part}.dataset_root' is not set. Where are the images? Give --data DIR. Nothing is "
                        'downloaded.')
    kind = KINDS.get(data.get('type'))
    if kind is None:
        check_folder(root, f'{part}.dataset_root')
        return None
    mode = data.get('mode') or part[:-len('_dataset')]
    options = {k: v for k, v in data.items() if k not in (*_THEIRS, *_LISTS)}
    if options.pop('ignore_index', 255) != 255:
        raise ConfigError(f"'{part}.ignore_index' is {data['ignore_index']!r}; here it is always 255. Masks in which 0 "
                          f'is ignored and k is class k - 1 need -o {part}.reduce_zero_label=true.')
    if options.pop('img_channels', 3) != 3:
        raise ConfigError(f"'{part}.img_channels' is {data['img_channels']!r}; here images always have 3 channels.")
    if data.get(f'{mode}_path'):
        kind, options['list_file'] = 'list', data[f'{mode}_path']
    labels = os.path.join(os.path.expanduser(str(root)), 'labels.txt')
    if kind in ('folder', 'list') and 'classes' not in options and not os.path.isfile(labels):
        said = cfg['model'].get('num_classes') or data.get('num_classes')
        options.update({'classes': said} if said else {})
    pairs = build_segmentation(kind, root, usual_split(kind, root, mode), **options)
    _agree(cfg, part, pairs)
    return pairs


def check_parts(pairs: dict[str, Optional[Union[Segmentation, Joined]]], folder: Optional[str] = None) -> None:
    """Read all pairs of all parts, and judge their masks as a whole, before anything is trained.

    Args:
        pairs: as `read_parts` gives them.
        folder: where it is remembered, see `check_pairs`.

    Raises:
        DataError: a pair cannot be used, or nothing can be learned or measured.
    """
    found = {part: check_pairs(p, part.replace('_dataset', ''), folder)['pixels'] for part, p in pairs.items() if p}
    if found:
        classes = next(p.classes for p in pairs.values() if p)
        judge_masks(classes, *(found.get(part) for part in DATASETS))


def _agree(cfg, part, pairs):
    """Set num_classes in the model (and in the parts of the type Dataset, which need it), or refuse another number."""
    places = {'model': cfg['model'], **{p: cfg[p] for p in DATASETS}}
    said = {name: place['num_classes'] for name, place in places.items() if place.get('num_classes') is not None}
    if set(said.values()) - {pairs.num_classes}:
        raise DataError(f"'{pairs.root}' ({part}) has {pairs.num_classes} classes, and the config says another number: "
                        f'{said}. Mend labels.txt or the config.')
    for name, place in places.items():
        if name == 'model' or place.get('type') == 'Dataset':
            place['num_classes'] = pairs.num_classes


def for_paddleseg(cfg: dict[str, Any]) -> dict[str, Any]:
    """A copy of `cfg` in which PaddleSeg finds data sets of its plain type, whose pairs come from elsewhere."""
    number = cfg['model'].get('num_classes')
    own = [part for part in DATASETS if number and cfg[part].get('type') in KINDS]
    # the losses take over what the data set ignores
    plain = {part: {'type': 'Dataset', 'num_classes': number, 'ignore_index': 255,
                    'transforms': cfg[part].get('transforms', [])} for part in own}
    return {**cfg, **plain}
