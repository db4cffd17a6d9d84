"""Measures the data pipeline, the loss and the step, each beside its baselines: see --help.

    python tools/benchmark.py all --quick
    python tools/benchmark.py loss --output loss.json

Every comparison runs in turns within one run; figures are medians with their quartiles. The table goes to the
console (and to --markdown FILE), everything measured to --output FILE as JSON. A baseline that is not installed is
left out, and named.
"""

import argparse
import importlib
import json
import os
import sys

TOOLS = os.path.dirname(os.path.abspath(__file__))
sys.path[:0] = [os.path.dirname(TOOLS), TOOLS]      # a clone works uninstalled

from benchmarks import common  # noqa: E402  tools/benchmarks

PARTS = {
    'data': 'images per second of the two-view pipeline, against the recipes of torchvision and PASSL v1',
    'loss': 'time and exactness of the contrastive loss, against the naive formulations',
    'step': 'a training step: DenseCL against MoCo v2, and against a minimal PyTorch DenseCL where it is installed',
}


def build_parser():
    parser = argparse.ArgumentParser(prog='benchmark.py', description=__doc__.split('\n')[0],
                                     formatter_class=argparse.ArgumentDefaultsHelpFormatter)
    parts = parser.add_subparsers(dest='part', required=True, metavar='PART')
    general = argparse.ArgumentParser(add_help=False)
    general.add_argument('--quick', action='store_true', help='small sizes and few rounds: a look, not a measurement')
    general.add_argument('--rounds', type=int, default=None, help='measured rounds of every comparison')
    general.add_argument('--output', metavar='FILE', help='write everything measured as JSON (must not exist)')
    general.add_argument('--markdown', metavar='FILE', help='write the tables (must not exist)')
    for name, help_text in PARTS.items():
        part = parts.add_parser(name, help=help_text, parents=[general],
                                formatter_class=argparse.ArgumentDefaultsHelpFormatter)
        module(name).add_arguments(part)
    everything = parts.add_parser('all', help='all of them with their default settings', parents=[general])
    everything.add_argument('--torch-python', metavar='FILE', help='a Python with PyTorch, for the comparisons with it')
    return parser


def module(name):
    """tools/benchmarks/<name>.py: `add_arguments(parser)` and `run(args) -> {'tables': [...], ...}`."""
    return importlib.import_module(f'benchmarks.{name}_bench')


def main():
    parser = build_parser()
    args = parser.parse_args()
    for path in (args.output, args.markdown):
        if path and os.path.exists(path):
            parser.error(f"'{path}' exists. Give another name, or remove it.")
    if args.rounds is not None and args.rounds < 1:
        parser.error(f'--rounds is {args.rounds}; it must be at least 1.')
    results, pages = {'machine': common.machine(), 'command': ' '.join(sys.argv[1:])}, []
    for name in PARTS if args.part == 'all' else [args.part]:
        part_args = args
        if args.part == 'all':
            words = [name] + ['--quick'] * args.quick + (['--rounds', str(args.rounds)] if args.rounds else [])
            part_args = parser.parse_args(words)
            if hasattr(part_args, 'torch_python'):
                part_args.torch_python = args.torch_python
        results[name] = module(name).run(part_args)
        for title, header, rows in results[name].pop('tables'):
            pages.append(f'### {title}\n\n{common.table(header, rows)}\n')
            print('\n' + pages[-1], flush=True)
        for what in results[name].get('left_out', ()):
            pages.append(f'Left out: {what}.\n')
            print(pages[-1], flush=True)
    facts = ', '.join(f'{k} {v}' for k, v in results['machine'].items())
    pages.append(f'Machine: {facts}.\n')
    print(pages[-1])
    for path, content in ((args.output, json.dumps(results, indent=1) + '\n'), (args.markdown, '\n'.join(pages))):
        if path:
            with open(path, 'x', encoding='utf-8') as f:
                f.write(content)
    return 0


if __name__ == '__main__':
    sys.exit(main())
