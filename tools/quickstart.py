"""The whole job on rendered images, on a CPU: DenseCL pre-training, extraction, linear evaluation.

Runs the project's own tools one after the other and prints each command, so that it can be copied and changed.
Start it with `bash tools/quickstart.sh`, or directly in an environment with the project installed.
"""

import argparse
import json
import os
import shlex
import shutil
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PRETRAIN, LINEAR = 'configs/densecl/densecl_r18_demo.yaml', 'configs/moco/moco_clas_r18_demo.yaml'
STAGES = 6


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--output', metavar='DIR', default='output_dir/quickstart',
                        help='folder for data and runs, relative to the clone (default: %(default)s)')
    parser.add_argument('--train-images', type=int, default=1000, metavar='N', help='rendered for training')
    parser.add_argument('--val-images', type=int, default=500, metavar='N', help='rendered for evaluation')
    parser.add_argument('--epochs', type=int, metavar='N', help="of the pre-training (default: the config's)")
    parser.add_argument('--linear-epochs', type=int, metavar='N',
                        help="of each linear evaluation (default: the config's)")
    parser.add_argument('--seed', type=int, default=0, metavar='N', help='of all runs (default: %(default)s)')
    return parser


def stage(number, title):
    sys.stdout.write(f'\n[{number}/{STAGES}] {title}\n')
    sys.stdout.flush()


def command(*words):
    """Print and run a command in the clone with this Python; leave when it fails."""
    sys.stdout.write('$ ' + ' '.join(shlex.quote(w) for w in ('python',) + words) + '\n')
    sys.stdout.flush()
    code = subprocess.call([sys.executable, *words], cwd=ROOT)
    if code == 130 or code < 0:
        sys.exit('The quick start was interrupted.')
    if code:
        sys.exit(f'The quick start stops here: the command above ended with exit code {code}.')


def train(config, run_dir, data, seed, *more, epochs=None):
    """tools/train.py with its run folder below `run_dir`; returns (run folder, seconds)."""
    start = time.time()
    words = ['-c', config, '--no-cuda', '-o', f'output_dir={run_dir}', '-o', f'seed={seed}',
             '-o', f'dataloader.train.dataset.dataroot={data}/train']
    if config == LINEAR:
        words += ['-o', f'dataloader.val.dataset.dataroot={data}/val']
    if epochs:
        words += ['-o', f'epochs={epochs}']
        # the schedule ends with the run
        words += ['-o', f'lr_scheduler.warmup_steps={epochs / 9:.2f}' if config == PRETRAIN else
                  f'lr_scheduler.milestones=[{max(1, epochs * 5 // 8)}, {max(2, epochs * 7 // 8)}]']
    command('tools/train.py', *words, *more)
    return os.path.join(run_dir, os.path.splitext(os.path.basename(config))[0]), time.time() - start


def last_accuracy(run_folder):
    """Top-1 of the last evaluation in a run's log, as logged (not rounded)."""
    with open(os.path.join(ROOT, run_folder, 'log.jsonl'), encoding='utf-8') as f:
        records = [json.loads(line) for line in f if line.strip()]
    return [r['acc1'] for r in records if r.get('mode') == 'val'][-1]


def load_pixels(folder):
    """All images below `folder` as rows (float32, mean 0, length 1) and their class numbers."""
    import cv2
    import numpy as np
    rows, labels = [], []
    for label, name in enumerate(sorted(os.listdir(folder))):
        for file in sorted(os.listdir(os.path.join(folder, name))):
            row = cv2.imread(os.path.join(folder, name, file)).reshape(-1).astype(np.float32)
            row -= row.mean()
            rows.append(row / max(float(np.linalg.norm(row)), 1e-6))
            labels.append(label)
    return np.stack(rows), np.array(labels)


def pixel_neighbour_accuracy(data):
    """(top-1 in percent of the nearest training image by correlation of raw pixels, number of classes)."""
    train_rows, train_labels = load_pixels(os.path.join(data, 'train'))
    val_rows, val_labels = load_pixels(os.path.join(data, 'val'))
    nearest = (val_rows @ train_rows.T).argmax(axis=1)
    return 100.0 * float((train_labels[nearest] == val_labels).mean()), int(train_labels.max()) + 1


def render(data, args):
    """Render the data set, unless the same one is there already."""
    marker = os.path.join(ROOT, data, 'rendered.txt')
    recipe = f'{args.train_images} {args.val_images}\n'
    for name in ('synthetic.py', 'scenes.py'):
        with open(os.path.join(ROOT, 'passl', 'datasets', name), encoding='utf-8') as f:
            recipe += f.read()
    if os.path.isfile(marker):
        with open(marker, encoding='utf-8') as f:
            if f.read() == recipe:
                sys.stdout.write(f'{data} is there already.\n')
                return
    shutil.rmtree(os.path.join(ROOT, data), ignore_errors=True)
    command('-m', 'passl.datasets.synthetic', '--output', data, '--train', str(args.train_images),
            '--val', str(args.val_images))
    with open(marker, 'w', encoding='utf-8') as f:
        f.write(recipe)


def clear(folder):
    """Make an empty folder for the runs; a former quick start's runs (some 400 MB) are removed."""
    marker = os.path.join(folder, 'made_by_quickstart.txt')
    if os.path.isfile(marker):
        sys.stdout.write(f'Removing the former quick start in {folder}\n')
        shutil.rmtree(folder)
    elif os.path.isdir(folder) and os.listdir(folder):
        sys.exit(f'error: {folder} holds files that are not from a quick start. Choose another folder: --output DIR')
    os.makedirs(folder, exist_ok=True)
    with open(marker, 'w', encoding='utf-8') as f:
        f.write('This folder is removed when the quick start runs again.\n')


def main(argv=None):
    args = build_parser().parse_args(argv)
    out, start = args.output, time.time()
    data, runs = f'{out}/data', f'{out}/runs'
    backbone = f'{runs}/backbone.pdparams'
    clear(os.path.join(ROOT, runs))
    shutil.rmtree(os.path.join(ROOT, out, 'pictures'), ignore_errors=True)

    stage(1, f'Rendering {args.train_images} + {args.val_images} images of textured shapes')
    render(data, args)
    stage(2, 'DenseCL pre-training of a ResNet-18, without labels')
    densecl, seconds = train(PRETRAIN, runs, data, args.seed, '-o', 'checkpoint.max_keep_ckpts=1', epochs=args.epochs)
    stage(3, "Extracting the query encoder's backbone")
    command('tools/extract_weight.py', f'{densecl}/latest.pdparams', '--output', backbone)
    stage(4, 'Linear classification on frozen features: pre-trained backbone, then a randomly initialised one')
    trained, seconds_trained = train(LINEAR, f'{runs}/linear_densecl', data, args.seed, '--pretrained', backbone,
                                     epochs=args.linear_epochs)
    untrained, seconds_untrained = train(LINEAR, f'{runs}/linear_random', data, args.seed, epochs=args.linear_epochs)
    acc_trained, acc_untrained = last_accuracy(trained), last_accuracy(untrained)
    stage(5, 'Evaluating the trained classifier again from its checkpoint')
    evaluated, _ = train(LINEAR, f'{runs}/evaluate', data, args.seed, '--evaluate-only', '--load',
                         f'{trained}/latest.pdparams')
    acc_again = last_accuracy(evaluated)
    if acc_again != acc_trained:
        sys.exit(f'--evaluate-only gives {acc_again} % where the training run gave {acc_trained} %: please report '
                 'this.')
    stage(6, 'Raw-pixel nearest neighbours, pictures')
    acc_pixels, classes = pixel_neighbour_accuracy(os.path.join(ROOT, data))
    command('tools/plot_log.py', densecl, '--output', f'{densecl}/loss.png')
    command('tools/visualize.py', densecl, '--images', f'{data}/val', '--pictures', 'views,maps', '--side',
            '256', '--no-cuda', '--output', f'{out}/pictures')
    # so short a training teaches textures, not places: layer3 and images a little larger than the crops show most of it
    command('tools/visualize.py', densecl, '--images', f'{data}/val', '--pictures', 'neighbours', '--side', '96',
            '--stage', '3', '--count', '500', '--no-cuda', '--output', f'{out}/pictures')
    pictures = [f'{densecl}/loss.png'] + [f'{out}/pictures/{name}'
                                          for name in sorted(os.listdir(os.path.join(ROOT, out, 'pictures')))]
    command('tools/report.py', densecl, '--output', f'{out}/report.html')

    rows = [('chance', 100.0 / classes, ''), ('raw pixels, nearest neighbour', acc_pixels, ''),
            ('linear, random initialisation', acc_untrained, f'{seconds_untrained:.0f} s'),
            ('linear, DenseCL', acc_trained, f'{seconds:.0f} + {seconds_trained:.0f} s'),
            ('linear, DenseCL, --evaluate-only', acc_again, '')]
    table = [f'{"top-1 on " + str(args.val_images) + " images":34} {"%":>6}  time']
    table += [f'{name:34} {value:6.2f}  {note}'.rstrip() for name, value, note in rows]
    text = '\n'.join(table) + '\n'
    with open(os.path.join(ROOT, out, 'result.txt'), 'w', encoding='utf-8') as f:
        f.write(text)
    sys.stdout.write(f'\n{text}\nTotal {time.time() - start:.0f} s. The pre-training on one page, its loss curve, what '
                     'the network sees and takes for alike, and this table:\n')
    for path in [f'{out}/report.html', *pictures, f'{out}/result.txt']:
        sys.stdout.write(f'  {path}\n')
    sys.stdout.write('Next, with images of your own:\n  passl pretrain FOLDER      (docs/PRETRAIN.md)\n')
    return 0


if __name__ == '__main__':
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)
