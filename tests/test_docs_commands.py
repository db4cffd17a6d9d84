"""The commands that the pages show run, in the order of the pages, on tiny data and for one epoch."""

import os
import shlex
import shutil
import subprocess
import sys

import pytest

from passl import cli
from tests.datasets.labelled.render import render_coco, render_folder, render_voc
from tests.test_docs import FENCE, ROOT, VISUALIZE, module_of, read
from tests.transfer.probes.sets import write_voc
from tests.utils.torch_writer import write_zip

PAGES = ['README.md', 'docs/GETTING_STARTED.md', 'docs/OWN_DATA.md', 'docs/CHECK_DATA.md', 'docs/LABELLED_DATA.md',
         'docs/Train_DenseCL_model.md', 'docs/Train_MoCo_model.md', 'docs/EVALUATE.md', 'docs/LOSS_CURVE.md',
         'docs/VISUALIZE.md', 'configs/densecl/README.md', 'configs/moco/README.md', 'docs/EXPORT.md', 'docs/REPORT.md']
# starts of lines that install, need several machines, or open a server
NOT_RUN = ('bash ', 'pip ', 'visualdl ', '. .venv', 'python -m venv', 'python -c', 'tail ')
PACK = 'tools/pack_dataset.py'
CHECK = 'tools/check_data.py'
EVALUATE = 'tools/evaluate.py'
EMBED = 'tools/embed.py'
ENV = 'tools/env.py'
AUTHORS = 'densecl_r50_imagenet_200ep.pth'


def commands():
    """Every shown command, without the launcher where it asks for GPUs; a training command once."""
    seen = []
    for page in PAGES:
        for language, block in FENCE.findall(read(page)):
            for line in block.replace('\\\n', ' ').splitlines() if language == 'bash' else ():
                line = line.strip()
                if not line or line.startswith(NOT_RUN) or '--nnodes' in line:
                    continue
                words = shlex.split(line)
                if words[:2] == ['passl', 'env']:
                    words = ['python', ENV] + words[2:]
                if '--gpus' in line:
                    words = ['python'] + words[words.index('tools/train.py'):]
                if 'tools/train.py' not in words or words not in seen:
                    seen.append(words)
    return seen


def cheap(words):
    """The flags that make a training command take seconds; figures of checkpoints are tests/engine/test_best's."""
    flags = ['--no-cuda', '-o', 'epochs=1', '-o', 'dataloader.train.sampler.batch_size=4',
             '-o', 'log_config.interval=1', '-o', 'dataloader.train.loader.num_workers=0',
             '-o', 'dataloader.train.dataset.transforms.0.size=64', '-o', 'model.backbone.depth=18',
             '-o', f"model.{'head' if 'clas' in ' '.join(words) else 'neck'}.in_channels=512"]
    if 'clas' in ' '.join(words):
        flags += ['-o', 'dataloader.val.loader.num_workers=0', '-o', 'dataloader.val.dataset.transforms.0.size=64',
                  '-o', 'dataloader.val.dataset.transforms.1.size=64']
    elif 'simclr' not in ' '.join(words):
        flags += ['-o', 'model.K=64', '-o', 'best_config.check=off']
    return flags + ([] if {'--resume', '--evaluate-only'} & set(words) else ['--overwrite'])


@pytest.fixture(scope='module')
def sandbox(tmp_path_factory, make_images):
    """A folder that looks like the clone, with the data sets the pages speak of."""
    root = tmp_path_factory.mktemp('clone')
    for name in ('tools', 'configs', 'passl'):
        os.symlink(os.path.join(ROOT, name), root / name)
    two = ['n01440764', 'n01443537']
    make_images(root / 'data/ILSVRC2012/train', 2, size=(70, 90), classes=two, extension='.JPEG')
    make_images(root / 'data/ILSVRC2012/val', 1, size=(70, 90), classes=two, extension='.JPEG')
    make_images(root / 'data/coco/train2017', 4, size=(70, 90), extension='.jpg')
    make_images(root / 'data/my_images', 8, size=(70, 90))
    make_images(root / 'data/my_labelled/train', 2, size=70, classes=2)
    make_images(root / 'data/my_labelled/val', 1, size=70, classes=2)
    write_voc(root / 'data/VOCdevkit/VOC2007', 8, 4)
    for part in ('train', 'val', 'test'):
        make_images(root / 'clothing' / part, 2, size=70, classes=2)
    render_folder(root / 'data/my_masks')
    render_voc(root / 'data/VOC2012')
    render_coco(root / 'data/coco')
    photo, = make_images(root / 'photo', 1, size=(120, 160), extension='.jpg')
    os.rename(photo, root / 'photo.jpg')
    from passl.modeling import build_backbone
    weights = {k.replace('._mean', '.running_mean').replace('._variance', '.running_var'): v.numpy()
               for k, v in build_backbone({'name': 'ResNet', 'depth': 18}).state_dict().items()}
    write_zip(root / AUTHORS, {'state_dict': weights, 'author': 'somebody'})
    yield root
    shutil.rmtree(root)


@pytest.mark.slow
def test_the_shown_commands_run(sandbox, monkeypatch):
    monkeypatch.chdir(sandbox)
    ran = []
    for words in commands():
        if words[:2] in (['passl', 'pretrain'], ['passl', 'train']):        # an hour each: tests/planning
            continue
        words = [w.replace('epoch_200', 'epoch_1').replace('epoch_100', 'epoch_1') for w in words]
        training = 'tools/train.py' in words
        if '-m' in words:           # really through the launcher
            words = [sys.executable] + words[1:] + cheap(words)
            code = subprocess.run(words, env=dict(os.environ, PYTHONPATH=ROOT)).returncode
        else:
            small = ['--image-size', '32', '--seeds', '2', '--finetune-steps', '2'] if words[1] == EVALUATE else \
                ['--side', '64', '--no-cuda'] if words[1] == VISUALIZE else []
            tool, arguments = words[1], words[2:] + (cheap(words) if training else small)
            if '--output' in words:
                written = words[words.index('--output') + 1]
                if os.path.isfile(written):         # by an earlier page
                    os.remove(written)
            code = {'tools/train.py': cli.train_main, 'tools/extract_weight.py': cli.extract_main,
                    'tools/export_weights.py': cli.export_main, 'tools/import_weights.py': cli.import_main,
                     'tools/plot_log.py': cli.plot_main, 'tools/report.py': cli.report_main,
                     PACK: module_of(PACK).main, CHECK: cli.check_main, EVALUATE: cli.evaluate_main,
                     EMBED: cli.embed_main, ENV: cli.env_main, VISUALIZE: cli.visualize_main}[tool](arguments)
        found = CHECK in words and code == 1        # the same made-up images in train and val
        assert not code or found, ' '.join(words)
        ran.append(' '.join(words))
    tools = [w.split()[1] for w in ran if not w.startswith(sys.executable)]
    assert tools.count('tools/train.py') > 15 and tools.count('tools/extract_weight.py') >= 3
    assert any('launch' in w for w in ran) and VISUALIZE in tools and PACK in tools and 'tools/plot_log.py' in tools
    for folder in ('dense', 'whole', 'voc07', 'worth'):
        assert os.path.isfile(f'output_dir/{folder}/comparison.png')
    assert os.path.isfile('output_dir/neighbours.png')
    for name in ('before/views', 'before/schedule', 'my_pictures/neighbours', 'densecl_r50/pictures/schedule'):
        assert os.path.isfile(f'output_dir/{name}.png')
    assert os.path.isfile('output_dir/densecl_r50/loss.png')
    assert os.path.isfile('output_dir/densecl_r50/report.html') and os.path.isfile('output_dir/compared.html')
