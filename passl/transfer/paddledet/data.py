"""The data of a detection run: checked before anything is built, and put into the config."""

import os

from ...utils.errors import ConfigError, DataError
from .coco_json import check_coco, complete_coco, read_coco
from .voc import LABEL_LIST, write_lists

SECTIONS = {'train': 'TrainDataset', 'eval': 'EvalDataset'}
_IMAGES = ('.jpg', '.jpeg', '.png', '.bmp')


def prepare_data(cfg, data, folder, parts=('train', 'eval')):
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
        root = data or section.get('dataset_dir') or ''
        if not os.path.isdir(root):
            raise DataError(f"The data folder '{root}' does not exist. Give it with --data.")
        section['dataset_dir'] = os.path.abspath(root)
    os.makedirs(folder, exist_ok=True)
    prepare = _prepare_voc if cfg['metric'] == 'VOC' else _prepare_coco
    classes, said = prepare(cfg, os.path.abspath(folder), parts)
    if cfg.get('num_classes') == 'from_data':
        cfg['num_classes'] = len(classes)
    if cfg.get('num_classes') != len(classes):
        raise ConfigError(f"'num_classes' is {cfg.get('num_classes')!r}, the data have {len(classes)} classes: "
                          f"{', '.join(classes[:20])}. Write num_classes: from_data to take what is there.")
    with open(os.path.join(folder, LABEL_LIST), 'w', encoding='utf-8') as f:
        f.writelines(f'{name}\n' for name in classes)
    return classes, said


def _prepare_voc(cfg, folder, parts):
    entries = cfg.get('voc')
    if not isinstance(entries, dict) or any(not isinstance(entries.get(p), list) or not entries[p] for p in parts):
        raise ConfigError("VOC data need the setting 'voc' with the lists to use: voc: {train: [VOC2007/trainval], "
                          'eval: [VOC2007/test]}')
    roots = {cfg[SECTIONS[p]]['dataset_dir'] for p in parts}
    if len(roots) > 1:
        raise ConfigError(f"Training and evaluation take VOC data from one folder, not"
                          f" from {' and '.join(sorted(roots))}.")
    classes, said = write_lists(roots.pop(), {p: entries[p] for p in parts}, folder)
    for part in parts:
        cfg[SECTIONS[part]].update(anno_path=os.path.join(folder, f'{part}.txt'), image_dir='',
                                   label_list=os.path.join(folder, LABEL_LIST))
    return classes, said


def _prepare_coco(cfg, folder, parts):
    classes, said = None, []
    for part in parts:
        section = cfg[SECTIONS[part]]
        if not section.get('anno_path'):
            raise ConfigError(f"'{SECTIONS[part]}' has no 'anno_path', the annotation file below its 'dataset_dir'.")
        path = os.path.join(section['dataset_dir'], section['anno_path'])
        content, file = read_coco(path)
        said += check_coco(file, os.path.join(section['dataset_dir'], section.get('image_dir') or ''))
        # the evaluator reads run-length masks itself, and exactly
        new, more = complete_coco(content, path, folder, bool(cfg.get('masks')) and part == 'train')
        said += [f'{part}: {len(content["images"])} images, {len(content["annotations"])} annotations', *more]
        section['anno_path'] = os.path.abspath(new)
        if classes not in (None, file.classes):
            raise DataError(f"The annotations of training and evaluation have different classes: "
                            f"{', '.join(classes[:20])} against {', '.join(file.classes[:20])}. Both files must "
                            "list the same 'categories'.")
        classes = file.classes
    return classes, said


def images_at(path):
    """The image files at a path, itself or (sorted) in the folder; DataError if there are none."""
    if os.path.isfile(path):
        return [path]
    if not os.path.isdir(path):
        raise DataError(f"No image or folder '{path}'.")
    found = sorted(os.path.join(path, n) for n in os.listdir(path) if n.lower().endswith(_IMAGES))
    if not found:
        raise DataError(f"The folder '{path}' holds no images ({', '.join(_IMAGES)}).")
    return found


def known_classes(weights):
    """Names of the classes of a trained detector: the list that the training left beside its weights.

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
