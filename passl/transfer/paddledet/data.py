"""The data of a detection run: read by `datasets.labelled`, and put into the config. Needs no PaddleDetection."""

import os
import re
from collections.abc import Sequence
from typing import Any, Optional

from ...datasets.folder import check_folder
from ...datasets.labelled import build_detection
from ...datasets.labelled.layout import read_text
from ...datasets.labelled.voc_objects import LABEL_LIST
from ...datasets.listing import scan
from ...utils.errors import ConfigError, DataError
from .coco_json import complete_coco

SECTIONS = {'train': 'TrainDataset', 'eval': 'EvalDataset'}


def prepare_data(cfg: dict[str, Any], data: Optional[str], folder: str,
                 parts: Sequence[str] = ('train', 'eval')) -> tuple[list[str], list[str]]:
    """Check the data that a config names and complete the config with what was found.

    `num_classes: from_data` is replaced by the number of classes. Files that PaddleDetection needs beside the
    user's own are written to `folder`; the data's folder is never written to.

    Args:
        cfg: plain config; changed in place.
        data: folder that replaces every `dataset_dir`, or None.
        folder: where the lists, completed annotations and the names of the classes are written.
        parts: which of 'train' and 'eval' are needed.

    Returns:
        (names of the classes, list of sentences for the log).

    Raises:
        DataError: the layout, a file or an annotation is wrong.
        ConfigError: the number of classes differs from the config's.
    """
    for part in parts:
        section = cfg.get(SECTIONS[part])
        if not isinstance(section, dict):
            raise ConfigError(f"The config has no '{SECTIONS[part]}'.")
        root = data or section.get('dataset_dir')
        section['dataset_dir'] = os.path.abspath(check_folder(root, '--data') if root else _no_data())
    os.makedirs(folder, exist_ok=True)
    prepare = _prepare_voc if cfg['metric'] == 'VOC' else _prepare_coco
    prepared, said = [prepare(cfg, os.path.abspath(folder), part) for part in parts], []
    classes = prepared[0][0]
    for found, sentences in prepared:
        said += sentences
        if found != classes:
            raise DataError(f"The annotations of training and evaluation have different classes: "
                            f"{', '.join(classes[:20])} against {', '.join(found[:20])}. Both must list the same.")
    if cfg.get('num_classes') == 'from_data':
        cfg['num_classes'] = len(classes)
    if cfg.get('num_classes') != len(classes):
        raise ConfigError(f"'num_classes' is {cfg.get('num_classes')!r}, the data have {len(classes)} classes: "
                          f"{', '.join(classes[:20])}. Write num_classes: from_data to take what is there.")
    with open(os.path.join(folder, LABEL_LIST), 'w', encoding='utf-8') as f:
        f.writelines(f'{name}\n' for name in classes)
    return classes, said


def _no_data():
    raise DataError("Where are the images? Give --data FOLDER, or 'dataset_dir' in the config.")


def _prepare_voc(cfg, folder, part):
    """Write PaddleDetection's list of the images and XML files of a part."""
    options = dict(cfg.get('voc') or {})
    entries = {p: options.pop(p, None) for p in SECTIONS}[part]
    if not isinstance(entries, list) or not entries:
        raise ConfigError("VOC data need the setting 'voc' with the lists to use: voc: {train: [VOC2007/trainval], "
                          'eval: [VOC2007/test]}')
    section = cfg[SECTIONS[part]]
    root, lines, classes = section['dataset_dir'], [], None
    for entry in entries:
        found = build_detection('voc', root, entry, **options)
        if classes not in (None, found.classes):
            raise DataError(f"'{entries[0]}' and '{entry}' have different classes. Give one {LABEL_LIST} in '{root}'.")
        classes = found.classes
        for k, image in enumerate(found.images):
            xml = found.annotations[k] if found.sizes[k].all() else _with_size(found, k, folder)
            names = [os.path.relpath(path, root) for path in (image, xml)]
            if any(len(name.split()) != 1 for name in names):
                raise DataError(f"'{image}', '{xml}': PaddleDetection cannot read names with spaces below '{root}'. "
                                'Rename the file or folder.')
            lines.append(' '.join(names) + '\n')
    path = os.path.join(folder, f'{part}.txt')
    with open(path, 'w', encoding='utf-8') as f:
        f.writelines(lines)
    section.update(anno_path=path, image_dir='', label_list=os.path.join(folder, LABEL_LIST))
    return classes, [f"{part}: {len(lines)} images of {', '.join(entries)}"]


def _with_size(found, index, folder):
    """A copy of an XML file that does not tell the size of its image, which PaddleDetection needs."""
    height, width = found.load_image(index).shape[:2]
    size = f'<size><width>{width}</width><height>{height}</height><depth>3</depth></size>'
    text = re.sub('<size>.*?</size>', '', read_text(found.annotations[index]), flags=re.DOTALL)
    path = os.path.join(folder, 'sized', os.path.basename(found.root), f'{found.ids[index]}.xml')
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, 'w', encoding='utf-8') as f:
        f.write(text.replace('</annotation>', size + '</annotation>'))
    return path


def _prepare_coco(cfg, folder, part):
    """Find the images of a part, and complete its annotations."""
    section = cfg[SECTIONS[part]]
    if not section.get('anno_path'):
        raise ConfigError(f"'{SECTIONS[part]}' has no 'anno_path', the annotation file below its 'dataset_dir'.")
    # what the config names may lie anywhere; what the annotations name may not leave the folder
    given = [os.path.normpath(os.path.join(section['dataset_dir'], section[key]))
             for key in ('anno_path', 'image_dir') if section.get(key)]
    root = os.path.commonpath([section['dataset_dir'], *given])
    file, *images = (os.path.relpath(p, root) for p in given)
    if not images and root != section['dataset_dir']:
        images = [os.path.relpath(section['dataset_dir'], root)]
    split = re.sub(r'^instances_|\.json$', '', os.path.basename(file))
    found = build_detection('coco', root, split, images=images[0] if images else None, annotations=file,
                            masks=bool(cfg.get('masks')))
    # the evaluator reads run-length masks itself, and exactly
    path, more = complete_coco(found.file, folder, found.with_masks and part == 'train')
    section.update(anno_path=os.path.abspath(path), image_dir=os.path.abspath(found.top))
    return found.classes, [f'{part}: {len(found)} images, {found.num_objects} objects', *more]


def images_at(path: str) -> list[str]:
    """The image files at a path, itself or (sorted) in the folder; DataError if there are none."""
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise DataError(f"No image or folder '{path}'.")
    found = [os.path.join(path, name) for _, names in scan(path, recursive=False) for name in names]
    if not found:
        raise DataError(f"The folder '{path}' holds no images.")
    return found


def known_classes(weights: str) -> tuple[list[str], str]:
    """(names of the classes of a trained detector, the file with them that the training left beside its weights).

    Raises:
        DataError: there is none.
    """
    folder = os.path.dirname(os.path.abspath(weights))
    for path in (os.path.join(folder, LABEL_LIST), os.path.join(folder, 'data', LABEL_LIST)):
        if os.path.isfile(path):
            with open(path, encoding='utf-8') as f:
                return [line.strip() for line in f if line.strip()], path
    raise DataError(f"No '{LABEL_LIST}' with the names of the classes beside '{weights}'. Put one there, a name a "
                    "line, in the order of the training's classes.")
