"""VOC XML data: the real layouts, checked at the start, and the lists that PaddleDetection reads."""

import os

from ...datasets.labelled.voc import CLASSES
from ...datasets.labelled.voc_xml import read_annotation
from ...utils.errors import DataError, listed, suggest

LABEL_LIST = 'label_list.txt'
_XML, _IMAGES = ('Annotations', 'annotations'), ('JPEGImages', 'images')
_ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.JPG', '.JPEG', '.PNG')


def read_classes(root):
    """The classes of VOC data: the lines of `label_list.txt` in the folder, or else VOC's own twenty.

    Raises:
        DataError: the list is empty or names a class twice.
    """
    path = os.path.join(root, LABEL_LIST)
    if not os.path.isfile(path):
        return list(CLASSES)
    with open(path, encoding='utf-8') as f:
        names = [line.strip() for line in f if line.strip()]
    if not names or len(set(names)) < len(names) or 'background' in names:
        raise DataError(f"'{path}' must name every class once, one a line, without 'background'; it has {names[:20]}.")
    return names


def voc_split(root, entry, classes):
    """One part of VOC data, such as 'VOC2007/trainval', checked.

    Args:
        root: folder of the data (VOCdevkit).
        entry: 'FOLDER/SPLIT' or 'SPLIT'. The images are named in FOLDER/ImageSets/Main/SPLIT.txt or FOLDER/SPLIT.txt
            and lie in FOLDER/JPEGImages or images, their XML files in FOLDER/Annotations or annotations.
        classes: names of the classes.

    Returns:
        (list of (image, XML file), relative to `root`; list of the XML files with boxes without area).

    Raises:
        DataError: a folder, image or XML file is missing or wrong; a class is not among `classes`.
    """
    folder, _, split = entry.rpartition('/')
    base = os.path.join(root, folder)
    if not os.path.isdir(base):
        raise DataError(f"No folder '{base}'. --data takes the folder that holds {folder or 'the lists'}"
                        f"{' (VOCdevkit)' if folder.startswith('VOC') else ''}.")
    names = _names(_first(base, [f'ImageSets/Main/{split}.txt', f'{split}.txt'], os.path.isfile, 'list of images'))
    xml, images = (_first(base, kinds, os.path.isdir, 'folder') for kinds in (_XML, _IMAGES))
    there = {os.path.splitext(name)[0]: name for name in os.listdir(images) if name.endswith(_ENDINGS)}
    absent = [n for n in names if n not in there or not os.path.isfile(os.path.join(xml, n + '.xml'))]
    if absent:
        raise DataError(f"{len(absent)} of {len(names)} names of '{entry}' have no image in '{images}' or no XML file "
                        f"in '{xml}': {listed(absent)}.")
    pairs, flat = [], []
    for name in names:
        path = os.path.join(xml, name + '.xml')
        if _check_xml(path, classes):
            flat.append(path)
        pairs.append(tuple(os.path.relpath(p, root) for p in (os.path.join(images, there[name]), path)))
    spaced = [p for pair in pairs for p in pair if len(p.split()) != 1]
    if spaced:
        raise DataError(f"'{spaced[0]}': PaddleDetection cannot read names with spaces below '{root}'. Rename the file "
                        'or folder.')
    return pairs, flat


def _first(base, candidates, exists, what):
    for candidate in candidates:
        path = os.path.join(base, candidate)
        if exists(path):
            return path
    raise DataError(f"No {what} {' or '.join(candidates)} in '{base}'.")


def _names(path):
    with open(path, encoding='utf-8') as f:
        names = [line.split()[0] for line in f if line.strip()]
    if not names:
        raise DataError(f"The list '{path}' is empty.")
    return names


def _check_xml(path, classes):
    """Whether an annotation has boxes without area; DataError for what cannot be read."""
    try:
        size, objects = read_annotation(path)
        if size is None:
            raise DataError('its size is missing or 0 x 0')
    except DataError as e:
        raise DataError(f"'{path}' is no VOC annotation (size with width and height, objects with name and bndbox): "
                        f'{e}') from None
    height, width = size
    for name, _, _ in objects:
        if name not in classes:
            raise DataError(f"'{path}': the class '{name}' is not among the {len(classes)} of the data. "
                            f'{suggest(name, classes)} Classes of your own stand in {LABEL_LIST} in the data folder.')
    return any(min(x2, width - 1) <= max(x1, 0) or min(y2, height - 1) <= max(y1, 0)
               for _, (x1, y1, x2, y2), _ in objects)


def write_lists(root, parts, folder):
    """Check VOC data and write PaddleDetection's lists of it.

    Args:
        root: folder of the data.
        parts: {'train': ['VOC2007/trainval', ...], 'eval': [...]}.
        folder: for train.txt, eval.txt and label_list.txt.

    Returns:
        (classes, list of sentences for the log).
    """
    classes, said = read_classes(root), []
    os.makedirs(folder, exist_ok=True)
    for part, entries in parts.items():
        pairs, flat = [], []
        for entry in entries:
            found, without_area = voc_split(root, entry, classes)
            pairs, flat = pairs + found, flat + without_area
        with open(os.path.join(folder, f'{part}.txt'), 'w', encoding='utf-8') as f:
            f.writelines(f'{image} {xml}\n' for image, xml in pairs)
        said.append(f"{part}: {len(pairs)} images of {', '.join(entries)}")
        if flat:
            said.append(f'boxes without area in {len(flat)} files are left out: {listed(flat)}')
    with open(os.path.join(folder, LABEL_LIST), 'w', encoding='utf-8') as f:
        f.writelines(f'{name}\n' for name in classes)
    return classes, said
