"""Looks at a segmentation data set before anything is trained: folders, lists, pairs and label values."""

import glob
import os

import numpy as np
from PIL import Image

from ...utils.errors import DataError
from ...utils.logger import get_logger

IGNORED = 255
_IMAGES = ('.jpg', '.jpeg', '.png', '.bmp')
_LOOKED_AT = 50         # label maps that are decoded per part


def check(cfg, part, scratch):
    """Check one data set of the config, and complete it where this project knows more than PaddleSeg.

    A `Dataset` without list file is one of folders: `images/<mode>/*` and `masks/<mode>/*.png` of equal names, and
    `labels.txt` with a class per line. Its list is written to `scratch`.

    Args:
        cfg: the whole config; `num_classes` is set in it from `labels.txt` where it is missing.
        part: 'train_dataset' or 'val_dataset'.
        scratch: folder for list files.
    Returns:
        Number of pairs, None for data sets that only PaddleSeg knows.
    Raises:
        DataError: a folder, file or pair is missing, or a label map does not fit.
    """
    data = cfg[part]
    kind, root, mode = data.get('type'), data.get('dataset_root'), data.get('mode', 'train')
    if not root:
        raise DataError(f"'{part}.dataset_root' is not set. Where are the images? Give --data DIR.")
    if not os.path.isdir(root):         # PaddleSeg would download VOC and others to there
        raise DataError(f"There is no folder '{root}' ({part}.dataset_root). Give --data DIR. Nothing is downloaded.")
    if kind == 'Dataset':
        _set_classes(cfg, root)
        key = f'{mode}_path'
        pairs = _listed(data, key, root) if data.get(key) else _from_folders(root, mode)
        classes = data['num_classes']
        if not data.get(key):
            data[key], data['separator'] = _write_list(pairs, root, os.path.join(scratch, f'{part}.txt')), '\t'
    elif kind in _KNOWN:
        pairs, classes = _KNOWN[kind](root, mode)
    else:
        return None
    if not pairs:
        raise DataError(f"'{root}' holds no images for {part} (mode '{mode}').")
    _look_at(pairs, classes, data.get('ignore_index', IGNORED))
    return len(pairs)


def read_labels(path):
    """Names of the classes in a file with a class per line, `name` or `number name`; None if there is no such file.

    Raises:
        DataError: numbers that are not 0, 1, 2, ...
    """
    if not os.path.isfile(path):
        return None
    with open(path, encoding='utf-8') as f:
        lines = [line.strip() for line in f if line.strip()]
    numbered = [line.split(None, 1) for line in lines]
    if lines and all(len(n) == 2 and n[0].isdigit() for n in numbered):
        if [int(n) for n, _ in numbered] != list(range(len(lines))):
            raise DataError(f"'{path}': the classes must be numbered 0, 1, 2, ... in this order.")
        return [name for _, name in numbered]
    return lines


def _set_classes(cfg, root):
    """Agree on num_classes in the model and both data sets."""
    labels = read_labels(os.path.join(root, 'labels.txt'))
    places = {'model': cfg['model'], 'train_dataset': cfg['train_dataset'], 'val_dataset': cfg['val_dataset']}
    said = {name: place['num_classes'] for name, place in places.items() if place.get('num_classes') is not None}
    if labels:
        said['labels.txt'] = len(labels)
    if len(set(said.values())) > 1:
        raise DataError(f"'{root}': the number of classes differs: {said}.")
    if not said:
        raise DataError(f"How many classes? '{root}' has no labels.txt with a class per line, and the config has no "
                        'num_classes: write that file, or give -o model.num_classes=N.')
    for place in places.values():
        place['num_classes'] = next(iter(said.values()))


def _listed(data, key, root):
    """Pairs of a list file, as PaddleSeg reads it."""
    path, separator = data[key], data.get('separator', ' ')
    if not os.path.isfile(path):
        raise DataError(f"There is no list file '{path}' ({key}).")
    pairs = []
    with open(path, encoding='utf-8') as f:
        for number, line in enumerate(f, 1):
            words = line.strip().split(separator)
            if len(words) != 2:
                raise DataError(f"'{path}', line {number}: expected `image{separator}label`, found {line.strip()!r}. "
                                'For names with spaces set `separator`.')
            pairs.append(tuple(os.path.join(root, word) for word in words))
    return pairs


def _from_folders(root, mode):
    images, masks = os.path.join(root, 'images', mode), os.path.join(root, 'masks', mode)
    for folder in (images, masks):
        if not os.path.isdir(folder):
            raise DataError(f"There is no folder '{folder}'. Expected {root}/images/{mode}/*.jpg and "
                            f"{root}/masks/{mode}/*.png, or a list file in {mode}_path.")
    names, labels = _stems(images, _IMAGES), _stems(masks, ('.png',))
    alone = sorted(set(names) - set(labels))
    if alone:
        raise DataError(f"{len(alone)} of {len(names)} images in '{images}' have no label map of the same name in "
                        f"'{masks}': {', '.join(alone[:3])}, ...")
    unused = sorted(set(labels) - set(names))
    if unused:
        get_logger().warning("%d label maps in '%s' have no image: %s, ...", len(unused), masks, ', '.join(unused[:3]))
    return [(names[stem], labels[stem]) for stem in sorted(names)]


def _stems(folder, endings):
    """{path below `folder` without ending: path}."""
    found = {}
    for top, _, files in os.walk(folder):
        for name in files:
            stem, ending = os.path.splitext(name)
            if ending.lower() in endings and not name.startswith('.'):
                stem = os.path.relpath(os.path.join(top, stem), folder)
                if stem in found:
                    raise DataError(f"'{found[stem]}' and '{os.path.join(top, name)}' have the same name: rename one.")
                found[stem] = os.path.join(top, name)
    return found


def _write_list(pairs, root, path):
    with open(path, 'w', encoding='utf-8') as f:
        for pair in pairs:
            names = [os.path.relpath(p, root) for p in pair]
            if any('\t' in n or n != n.strip() for n in names):
                raise DataError(f"'{pair[0]}': file names may not hold tabs, or end in spaces.")
            f.write('\t'.join(names) + '\n')
    return path


def _voc(root, mode):
    """Pairs and number of classes of VOCdevkit, as PaddleSeg's PascalVOC reads it."""
    base = os.path.join(root, 'VOC2012')
    if not os.path.isdir(base):
        hint = f" '{root}' looks like VOC2012 itself: give the folder above it." \
            if os.path.isdir(os.path.join(root, 'JPEGImages')) else ''
        raise DataError(f"There is no '{base}'. Expected the folder VOCdevkit with VOC2012 in it.{hint}")
    pairs = []
    for name, labels in {'trainaug': [('train', 'SegmentationClass'), ('aug', 'SegmentationClassAug')]}.get(
            mode, [(mode, 'SegmentationClass')]):
        path = os.path.join(base, 'ImageSets', 'Segmentation', f'{name}.txt')
        if not os.path.isfile(path):
            hint = (' aug.txt and SegmentationClassAug come from the SBD annotations: names that are in trainaug.txt '
                    'and not in train.txt. For plain VOC12 use -o train_dataset.mode=train.') if name == 'aug' else ''
            raise DataError(f"There is no '{path}'.{hint}")
        with open(path, encoding='utf-8') as f:
            pairs += [(os.path.join(base, 'JPEGImages', f'{n}.jpg'), os.path.join(base, labels, f'{n}.png'))
                      for n in f.read().split()]
    return pairs, 21


def _cityscapes(root, mode):
    """Pairs and number of classes of Cityscapes. PaddleSeg pairs two sorted lists without comparing names."""
    def found(folder, ending):
        paths = glob.glob(os.path.join(glob.escape(root), folder, mode, '*', f'*_{ending}.png'))
        return {os.path.basename(p)[:-len(f'_{ending}.png')]: p for p in paths}
    for folder in ('leftImg8bit', 'gtFine'):
        if not os.path.isdir(os.path.join(root, folder, mode)):
            raise DataError(f"There is no folder '{os.path.join(root, folder, mode)}'. Expected Cityscapes with "
                            'leftImg8bit and gtFine, each with train and val.')
    images, labels = found('leftImg8bit', 'leftImg8bit'), found('gtFine', 'gtFine_labelTrainIds')
    if images and not labels:
        raise DataError(f"'{root}/gtFine/{mode}' has no *_gtFine_labelTrainIds.png. Make them from the polygons with "
                        'csCreateTrainIdLabelImgs of the package cityscapesscripts.')
    single = sorted(set(images) ^ set(labels))
    if single:
        raise DataError(f"'{root}', {mode}: {len(single)} images or label maps without their partner: "
                        f'{", ".join(single[:3])}, ... Every image must have its labelTrainIds.')
    return [(images[n], labels[n]) for n in sorted(images)], 19


_KNOWN = {'PascalVOC': _voc, 'Cityscapes': _cityscapes}


def _look_at(pairs, classes, ignored):
    """All files exist; some label maps, spread evenly, have one channel, the image's size and known values."""
    lost = [p for pair in pairs for p in pair if not os.path.isfile(p)]
    if lost:
        raise DataError(f'{len(lost)} of {2 * len(pairs)} files of the data set are missing: {", ".join(lost[:3])}')
    for image, label in pairs[::max(1, len(pairs) // _LOOKED_AT)]:
        try:
            with Image.open(image) as a, Image.open(label) as b:
                size, mask_size, mode, values = a.size, b.size, b.mode, np.asarray(b)
        except OSError as e:
            raise DataError(f"Cannot read '{image}' or '{label}': {e}.") from None
        if mode not in ('L', 'P'):
            raise DataError(f"'{label}' has the mode {mode}; a label map has one channel of 8 bits that holds the "
                            'class of each pixel (PNG mode L or P).')
        if size != mask_size:
            raise DataError(f"'{image}' is {size[0]} x {size[1]}, its label map {mask_size[0]} x {mask_size[1]}.")
        wrong = sorted(set(np.unique(values[values >= classes]).tolist()) - {ignored})
        if wrong:
            raise DataError(f"'{label}' holds the values {wrong[:5]}, but there are {classes} classes (0 - "
                            f'{classes - 1}; {ignored} is ignored). Is the number of classes right?')
