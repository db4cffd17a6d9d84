"""Data sets in the layouts that PaddleSeg reads, and a training that takes seconds. Everything here needs PaddleSeg."""

import importlib.util
import os

import numpy as np
import pytest
from PIL import Image

if importlib.util.find_spec('paddleseg') is None:
    collect_ignore = ['test_exported.py', 'test_models.py', 'test_mends.py', 'test_config_and_data.py', 'test_run.py', 'test_page.py']

PALETTE = [(40, 40, 40), (220, 60, 60), (60, 220, 60), (60, 60, 220)]


def scene(seed, size, classes):
    """(image [H, W, 3], label map [H, W]) uint8: rectangles whose colour tells the class, a border that is ignored."""
    rng = np.random.RandomState(seed)
    height, width = size
    labels = np.zeros((height, width), np.uint8)
    for k in range(1, classes):
        top, left = rng.randint(0, height // 2), rng.randint(0, width // 2)
        labels[top:top + height // 2, left:left + width // 2] = k
    colours = np.array([PALETTE[k % 4] for k in range(classes)])
    image = np.clip(colours[labels] + rng.randint(-30, 30, (height, width, 3)), 0, 255).astype(np.uint8)
    labels[0] = 255
    return image, labels


def save(path, array, palette=False):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    picture = Image.fromarray(array)
    if palette:
        picture = picture.convert('P')
        picture.putdata(array.reshape(-1).tolist())
    picture.save(path)


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    """images/, masks/, labels.txt: 6 training and 4 validation images of 40 x 52 with 4 classes."""
    root = str(tmp_path_factory.mktemp('seg data'))        # a space in the path, on purpose
    for part, count in (('train', 6), ('val', 4)):
        for i in range(count):
            image, labels = scene(i + 100 * (part == 'val'), (40, 52), 4)
            save(f'{root}/images/{part}/a {i}.png', image)
            save(f'{root}/masks/{part}/a {i}.png', labels)
    with open(f'{root}/labels.txt', 'w') as f:
        f.write('0 background\n1 red thing\n2 green\n3 blue\n')
    return root


@pytest.fixture(scope='session')
def voc(tmp_path_factory):
    """VOCdevkit/VOC2012: 3 training, 3 more of aug.txt and 2 validation images; label maps with a palette."""
    root = str(tmp_path_factory.mktemp('VOCdevkit'))
    base = f'{root}/VOC2012'
    os.makedirs(f'{base}/ImageSets/Segmentation')
    for part, names in {'train': range(3), 'aug': range(3, 6), 'val': range(6, 8)}.items():
        with open(f'{base}/ImageSets/Segmentation/{part}.txt', 'w') as f:
            f.writelines(f'2007_{i:06d}\n' for i in names)
        for i in names:
            image, labels = scene(i, (48, 64), 21)
            save(f'{base}/JPEGImages/2007_{i:06d}.jpg', image)
            save(f'{base}/SegmentationClass{"Aug" * (part == "aug")}/2007_{i:06d}.png', labels, palette=part != 'aug')
    return root


@pytest.fixture(scope='session')
def cityscapes(tmp_path_factory):
    """leftImg8bit/ and gtFine/: 3 training and 2 validation images in two cities."""
    root = str(tmp_path_factory.mktemp('cityscapes'))
    for part, count in (('train', 3), ('val', 2)):
        for i in range(count):
            image, labels = scene(i, (48, 96), 19)
            city, name = f'city{i % 2}', f'city{i % 2}_00000{i}_000019'
            save(f'{root}/leftImg8bit/{part}/{city}/{name}_leftImg8bit.png', image)
            save(f'{root}/gtFine/{part}/{city}/{name}_gtFine_labelTrainIds.png', labels)
            save(f'{root}/gtFine/{part}/{city}/{name}_gtFine_labelIds.png', labels)
    return root


@pytest.fixture(scope='session')
def backbone18(tmp_path_factory):
    """Weight file of a ResNet-18 as a run of this project saves it (names with `encoder_q.0.`)."""
    import paddle

    from passl.modeling import build_backbone
    from passl.utils.weights.checkpoint import save_file
    paddle.seed(5)
    net = build_backbone({'name': 'ResNet', 'depth': 18})
    path = str(tmp_path_factory.mktemp('weights') / 'latest.pdparams')
    state = {f'encoder_q.0.{k}': v.numpy() for k, v in net.state_dict().items()}
    state['queue'] = np.zeros((4, 4), np.float32)
    save_file({'state_dict': state}, path)
    return path
