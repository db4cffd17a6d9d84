"""Data sets in the layouts that PaddleSeg reads, and a training that takes seconds. Everything here needs PaddleSeg."""

import importlib.util

import numpy as np
import pytest

from tests.datasets.labelled.render import render_cityscapes, render_voc, write_image

if importlib.util.find_spec('paddleseg') is None:
    collect_ignore = ['test_exported.py', 'test_models.py', 'test_mends.py', 'test_config_and_data.py', 'test_run.py',
                      'test_page.py']

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


@pytest.fixture(scope='session')
def folders(tmp_path_factory):
    """images/, masks/, labels.txt: 6 training and 4 validation images of 40 x 52 with 4 classes."""
    root = str(tmp_path_factory.mktemp('seg data'))        # a space in the path, on purpose
    for part, count in (('train', 6), ('val', 4)):
        for i in range(count):
            image, labels = scene(i + 100 * (part == 'val'), (40, 52), 4)
            write_image(f'{root}/images/{part}/a {i}.png', image)
            write_image(f'{root}/masks/{part}/a {i}.png', labels)
    with open(f'{root}/labels.txt', 'w') as f:
        f.write('0 background\n1 red thing\n2 green\n3 blue\n')
    return root


@pytest.fixture(scope='session')
def voc(tmp_path_factory):
    """VOCdevkit: 3 training, 3 more of SBD, named in PaddleSeg's aug.txt, and 2 validation images."""
    root = tmp_path_factory.mktemp('VOCdevkit')
    render_voc(root / 'VOC2012', train=3, val=2, aug=3)
    lists = root / 'VOC2012/ImageSets/Segmentation'
    names = (lists / 'trainaug.txt').read_text().splitlines()
    (lists / 'aug.txt').write_text('\n'.join(names[3:]))
    return str(root)


@pytest.fixture(scope='session')
def cityscapes(tmp_path_factory):
    """3 training and 2 validation images, with labelIds and labelTrainIds."""
    root = str(tmp_path_factory.mktemp('cityscapes'))
    render_cityscapes(root, train_ids=True)
    return root


@pytest.fixture(scope='session')
def backbone18(tmp_path_factory):
    """Weight file of a narrow ResNet-18 as a run of this project saves it (names with `encoder_q.0.`)."""
    from ..nets import narrow
    with narrow():
        return save_backbone(tmp_path_factory.mktemp('weights') / 'latest.pdparams')


@pytest.fixture(scope='session')
def whole18(tmp_path_factory):
    """The same of a whole ResNet-18, for processes of their own."""
    return save_backbone(tmp_path_factory.mktemp('weights') / 'latest.pdparams')


def save_backbone(path):
    import paddle

    from passl.modeling import build_backbone
    from passl.utils.weights.checkpoint import save_file
    paddle.seed(5)
    net = build_backbone({'name': 'ResNet', 'depth': 18})
    state = {f'encoder_q.0.{k}': v.numpy() for k, v in net.state_dict().items()}
    state['queue'] = np.zeros((4, 4), np.float32)
    save_file({'state_dict': state}, path)
    return str(path)


@pytest.fixture(autouse=True)
def narrow_networks(request):
    """A sixtieth of the numbers, but where another process has the network whole."""
    from ..nets import narrow
    if request.node.get_closest_marker('slow'):
        yield
    else:
        with narrow():
            yield
