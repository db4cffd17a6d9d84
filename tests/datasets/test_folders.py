"""Folders, lists, CIFAR: what is found, in which order, and what is said about wrong ones."""

import os
import pickle
import tarfile

import numpy as np
import pytest

from passl.datasets import DATASETS, build_dataset
from passl.utils.errors import ConfigError, DataError


def build(name, **arguments):
    return build_dataset({'name': name, **arguments}, 'dataloader.train.dataset')


def names(dataset, root):
    return [os.path.relpath(s if isinstance(s, str) else s[0], root) for s in dataset.samples]


def test_image_folder_order_labels_and_values(tmp_path, make_images):
    make_images(tmp_path, 2, classes=['b', 'a', 'c d'])
    (tmp_path / 'a' / 'deep').mkdir()
    os.rename(tmp_path / 'a' / '0001.png', tmp_path / 'a' / 'deep' / '0001.PNG')
    (tmp_path / 'a' / 'notes.txt').write_text('x')
    (tmp_path / 'a' / '._0000.png').write_text('x')
    (tmp_path / '.cache').mkdir()
    ds = build('ImageFolder', dataroot=str(tmp_path))
    assert ds.classes == ['a', 'b', 'c d'] and ds.num_classes == 3 and len(ds) == 6
    assert names(ds, tmp_path)[:3] == ['a/0000.png', 'a/deep/0001.PNG', 'b/0000.png']
    img, label = ds[4]
    assert img.shape == (3, 32, 32) and img.dtype == np.float32 and 0 <= img.min() and 0.9 < img.max() <= 1
    assert label == 2 and label.dtype == np.int64
    np.testing.assert_array_equal(img, ds.load(4).transpose(2, 0, 1) / np.float32(255))


def test_train_and_val_number_the_classes_alike(tmp_path, make_images):
    order = ['n03', 'n01', 'n02']
    make_images(tmp_path / 'train', 2, classes=order)
    make_images(tmp_path / 'val', 1, classes=order[::-1])
    train, val = (build('ImageNet', dataroot=str(tmp_path / s)) for s in ('train', 'val'))
    assert train.classes == val.classes == sorted(order)


def test_classes_choose_and_order(tmp_path, make_images):
    make_images(tmp_path / 'd', 1, classes=['a', 'b', 'c'])
    ds = build('ImageFolder', dataroot=str(tmp_path / 'd'), classes=['c', 'a'])
    assert [(os.path.basename(os.path.dirname(p)), k) for p, k in ds.samples] == [('c', 0), ('a', 1)]
    (tmp_path / 'names.txt').write_text('b\nc\n')
    assert build('ImageFolder', dataroot=str(tmp_path / 'd'),
                 classes=str(tmp_path / 'names.txt')).classes == ['b', 'c']
    with pytest.raises(DataError, match="no class folder 'aa'.*Did you mean|no class folder 'aa'"):
        build('ImageFolder', dataroot=str(tmp_path / 'd'), classes=['aa'])


def test_imagenet100_counts(tmp_path, make_images):
    make_images(tmp_path / 'd', 1, size=4, classes=101)
    with pytest.raises(DataError, match='has 101 classes, not 100'):
        build('ImageNet100', dataroot=str(tmp_path / 'd'))
    chosen = [f'class{i}' for i in range(1, 101)]
    assert build('ImageNet100', dataroot=str(tmp_path / 'd'), classes=chosen).classes == chosen


def test_unlabelled_folder_flat_nested_several(tmp_path, make_images):
    make_images(tmp_path / 'a', 2)
    make_images(tmp_path / 'a' / 'x', 1, extension='.jpg')
    make_images(tmp_path / 'b 图', 3)
    ds = build('UnlabelledFolder', dataroot=[str(tmp_path / 'b 图'), str(tmp_path / 'a')],
               return_two_sample=True)
    assert names(ds, tmp_path) == ['b 图/0000.png', 'b 图/0001.png', 'b 图/0002.png', 'a/0000.png', 'a/0001.png',
                                   'a/x/0000.jpg']
    assert len(ds[0]) == 2 and ds.num_classes == 0
    assert len(build('UnlabelledFolder', dataroot=str(tmp_path / 'a'), recursive=False)) == 2
    with pytest.raises(ConfigError, match='no labels'):
        build('UnlabelledFolder', dataroot=str(tmp_path / 'a'), return_label=True)


def test_links_in_a_circle_end(tmp_path, make_images):
    make_images(tmp_path / 'a', 2)
    os.symlink(tmp_path / 'a', tmp_path / 'a' / 'again')
    assert len(build('UnlabelledFolder', dataroot=str(tmp_path / 'a'))) == 2


def test_folders_of_the_wrong_shape_say_so(tmp_path, make_images):
    make_images(tmp_path / 'flat', 3)
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'hollow' / 'a').mkdir(parents=True)
    make_images(tmp_path / 'ILSVRC' / 'train', 1, classes=2)
    make_images(tmp_path / 'ILSVRC' / 'val', 1, classes=2)
    for root, match in [('flat', 'holds 3 images but no class folders.*UnlabelledFolder'), ('empty',
                                                                                            'is empty'),
                        ('hollow', 'no images'), ('nowhere/deep', "no folder .*what exists is"),
                        ('flat/0000.png', 'is a file'), ('ILSVRC', 'train, val, which are no classes')]:
        with pytest.raises(DataError, match=match):
            build('ImageFolder', dataroot=str(tmp_path / root))
    for root, match in [('empty', 'no images'), ('nowhere', 'no folder')]:
        with pytest.raises(DataError, match=match):
            build('UnlabelledFolder', dataroot=str(tmp_path / root))
    with pytest.raises(ConfigError, match='must be the name of a folder'):
        build('UnlabelledFolder', dataroot=None)


def test_empty_class_keeps_its_number_with_a_warning(tmp_path, make_images, caplog):
    make_images(tmp_path, 1, classes=['a', 'c'])
    (tmp_path / 'b').mkdir()
    ds = build('ImageFolder', dataroot=str(tmp_path))
    assert ds.classes == ['a', 'b', 'c'] and [k for _, k in ds.samples] == [0, 2]


def test_image_list_with_and_without_labels(tmp_path, make_images):
    make_images(tmp_path / 'i', 4)
    (tmp_path / 'i' / 'a b.png').write_bytes((tmp_path / 'i' / '0000.png').read_bytes())
    (tmp_path / 'l.txt').write_text('0002.png 1\na b.png 0\n\n0000.png\t3\n', encoding='utf-8-sig')
    ds = build('ImageList', dataroot=str(tmp_path / 'i'), list_file=str(tmp_path / 'l.txt'),
               return_label=True)
    assert names(ds, tmp_path / 'i') == ['0002.png', 'a b.png', '0000.png']
    assert [int(ds[i][1]) for i in range(3)] == [1, 0, 3] and ds.num_classes == 4
    (tmp_path / 'i' / 'u.txt').write_text('0002.png\na b.png\n')
    ds = build('ImageList', dataroot=str(tmp_path / 'i'), list_file='u.txt')
    assert names(ds, tmp_path / 'i') == ['0002.png', 'a b.png'] and ds.classes == []


@pytest.mark.parametrize('text, match', [('', 'names no images'), ('0000.png 1\n0001.png\n', 'and 2 ..0001.png'),
                                         ('0000.png\n0001.png 2\n', 'and 2 ..0001.png 2'),
                                         ('x.png\n0000.png\n', 'do not exist')])
def test_wrong_lists(tmp_path, make_images, text, match):
    make_images(tmp_path, 2)
    (tmp_path / 'l.txt').write_text(text)
    with pytest.raises(DataError, match=match):
        build('ImageList', dataroot=str(tmp_path), list_file='l.txt')
    with pytest.raises(DataError, match='cannot be read'):
        build('ImageList', dataroot=str(tmp_path), list_file='none.txt')


def write_cifar10(root, per_batch=4):
    rng = np.random.RandomState(0)
    images = {}
    os.makedirs(root, exist_ok=True)
    for name in [f'data_batch_{i}' for i in range(1, 6)] + ['test_batch']:
        data = rng.randint(0, 256, (per_batch, 3072)).astype(np.uint8)
        images[name] = data
        with open(os.path.join(root, name), 'wb') as f:
            pickle.dump({b'data': data, b'labels': rng.randint(0, 10, per_batch).tolist()}, f, protocol=2)
    with open(os.path.join(root, 'batches.meta'), 'wb') as f:
        pickle.dump({b'label_names': [b'class%d' % i for i in range(10)]}, f, protocol=2)
    return images


def test_cifar10_folder_parent_and_tar(tmp_path):
    inner = tmp_path / 'cifar-10-batches-py'
    images = write_cifar10(inner)
    first = images['data_batch_1'][0].reshape(3, 32, 32)
    for root in (inner, tmp_path):
        ds = build('CIFAR10', dataroot=str(root), return_label=True)
        assert len(ds) == 20 and ds.num_classes == 10 and ds.classes[3] == 'class3'
        np.testing.assert_array_equal(ds[0][0], first / np.float32(255))
    packed = tmp_path / 'p' / 'cifar-10-python.tar.gz'
    packed.parent.mkdir()
    with tarfile.open(packed, 'w:gz') as tar:
        tar.add(inner, 'cifar-10-batches-py')
    for root in (packed, packed.parent):
        ds = build('CIFAR10', dataroot=str(root), mode='test')
        np.testing.assert_array_equal(ds.images[0].transpose(2, 0, 1), images['test_batch'][0].reshape(3, 32,
                                                                                                       32))


def test_cifar100_uses_fine_labels(tmp_path):
    data = np.zeros((3, 3072), np.uint8)
    for name in ('train', 'test'):
        with open(tmp_path / name, 'wb') as f:
            pickle.dump({'data': data, 'fine_labels': [7, 99, 0], 'coarse_labels': [1, 1, 1]}, f)
    ds = build('CIFAR100', dataroot=str(tmp_path), return_label=True)
    assert [int(ds[i][1]) for i in range(3)] == [7, 99, 0] and ds.num_classes == 100


def test_cifar_refuses_code_and_names_what_is_missing(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.mkdir, (str(tmp_path / 'pwned'),)

    write_cifar10(tmp_path)
    (tmp_path / 'data_batch_2').write_bytes(pickle.dumps({b'data': Evil()}))
    with pytest.raises(DataError, match='data_batch_2.*mkdir'):
        build('CIFAR10', dataroot=str(tmp_path))
    assert not (tmp_path / 'pwned').exists()
    (tmp_path / 'data_batch_2').write_bytes(b'\x80')
    with pytest.raises(DataError, match='data_batch_2'):
        build('CIFAR10', dataroot=str(tmp_path))
    os.remove(tmp_path / 'data_batch_2')
    with pytest.raises(DataError, match='lacks data_batch_2'):
        build('CIFAR10', dataroot=str(tmp_path))
    with pytest.raises(DataError, match='Nothing is downloaded'):
        build('CIFAR10', dataroot=str(tmp_path / 'none'))
    with pytest.raises(ConfigError, match='download'):
        build('CIFAR10', dataroot=str(tmp_path), download=True)
    (tmp_path / 'x.tar.gz').write_bytes(b'no tar')
    with pytest.raises(DataError, match='tar archive'):
        build('CIFAR10', dataroot=str(tmp_path / 'x.tar.gz'))


def test_unknown_names_and_settings(tmp_path, make_images):
    make_images(tmp_path, 1, classes=2)
    root = str(tmp_path)
    for cfg, match in [({'name': 'ImageNt'}, "Did you mean 'ImageNet'"),
                       ({'name': 'ImageNet', 'data_root': root}, "Did you mean 'dataroot'"),
                       ({'name': 'ImageNet', 'dataroot': root, 'return_label': 1}, 'true or false'),
                       ({'name': 'ImageNet', 'dataroot': root, 'on_error': 'skip'}, "one of replace, raise"),
                       ({'name': 'ImageNet', 'dataroot': root, 'max_bad': 3}, 'a number from 0 to 1'),
                       ({'name': 'ImageNet', 'dataroot': root, 'view_trans1': []}, 'need return_two_sample'),
                       ({'name': 'ImageNet', 'dataroot': root, 'transforms': [{'name': 'Resize', 'size': 8}]},
                        'uint8 .*End the recipe with'),
                       ({'name': 'ImageNet', 'dataroot': root, 'transforms': [{'name': 'Resise'}]},
                        r'dataloader\.train\.dataset\.transforms\.0')]:
        with pytest.raises(ConfigError, match=match):
            build_dataset(cfg, 'dataloader.train.dataset')


def test_building_does_not_change_the_config(tmp_path, make_images):
    make_images(tmp_path, 1, classes=2)
    cfg = {'name': 'ImageFolder', 'dataroot': str(tmp_path), 'transforms': [{'name': 'ToTensor'}]}
    build_dataset(cfg)
    assert cfg['transforms'] == [{'name': 'ToTensor'}]


def test_all_names_are_registered_with_explicit_signatures():
    from passl.utils.config.registry import accepted_arguments
    assert {'ImageFolder', 'UnlabelledFolder', 'ImageList', 'ImageNet', 'ImageNet100', 'CIFAR10', 'CIFAR100',
            'Synthetic'} <= set(DATASETS.names())
    assert not any(accepted_arguments(DATASETS.get(n))[2] for n in DATASETS.names())
