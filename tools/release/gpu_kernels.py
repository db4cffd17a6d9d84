"""Before a release: does the GPU wheel of Paddle have a kernel for everything that a training step asks for?

    python tools/release/gpu_kernels.py registry --output gpu.json # where paddlepaddle-gpu is installed, without a GPU
    python tools/release/gpu_kernels.py check gpu.json             # where this project runs, on the same version
    python tools/release/gpu_kernels.py check --count              # operators of a step only, hook by hook

`check` runs three steps of every shipped recipe on the CPU (`traced_step.py`), along the branches of a GPU, and reads
from Paddle's log which kernel was asked for which type. Exit code 1: a kernel is missing; 2: a log was not understood.
"""

import argparse
import glob
import json
import os
import re
import subprocess
import sys
from collections import Counter, namedtuple

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
sys.path.insert(0, ROOT)  # a clone works uninstalled

from passl.cli import guarded  # noqa: E402
from passl.utils.errors import PasslError  # noqa: E402

# The parts of Paddle that say which kernel runs. (With GLOG_v=6, for all parts, Paddle 3 renames tensors for its log,
# weights too, and the optimizer then makes its state anew in every step: operators that are not there otherwise.)
LOGGED = '*api*=6,prepared_operator*=6'
REGISTERED = re.compile(r'\((\w+), .+, (\w+)\)')
# an operator's key and, on the next such line, the kernel it chose; the older way to call one has both in one line
KEY = re.compile(r'\] (\w+) API kernel key: \[\w+, .+, (\w+)\]')
KERNEL = re.compile(r'\] (\w+) kernel: \{')
OLD_WAY = re.compile(r'PrepareImpl - kernel name: (\w+) \| kernel key: \(\w+, .+, (\w+)\)')
MARK = re.compile(r'^@@ (\w+) ?(.*)$')
STEPS = 3                               # of traced_step.py
QUIET = 1                               # the step that is counted: not the first, no log step
HALF = ('float16', 'bfloat16')
VARIED = 'densecl/densecl_r50.yaml'     # the recipe that is also run with each of:
SWITCHES = {'grad_clip': 'optimizer.grad_clip={name: ClipGradByGlobalNorm, clip_norm: 1.0}',
            'bn_splits': 'model.bn_splits=2', 'recompute': 'model.backbone.recompute=true',
            'use_multi_tensor': 'optimizer.use_multi_tensor=true'}

# ops: {(step or -1, place, inside auto_cast, kernel, dtype): number}; white: {half type: kernels that O1 casts to it}
Trace = namedtuple('Trace', 'paddle ops white')


def read_registry(registered):
    """{kernel: {device: [dtypes]}} of Paddle's {kernel: ['(GPU, Undefined(AnyLayout), float32)', ...]}."""
    found = {}
    for kernel, entries in registered.items():
        devices = found.setdefault(kernel, {})
        for entry in entries:
            match = REGISTERED.fullmatch(entry)
            if not match:
                raise PasslError(f"The registry's entry {entry!r} of '{kernel}' is not (device, layout, type): this "
                                 'Paddle writes it another way; see REGISTERED in tools/release/gpu_kernels.py.')
            devices.setdefault(match[1], set()).add(match[2])
    return {k: {d: sorted(t) for d, t in sorted(v.items())} for k, v in sorted(found.items())}


def parse(lines):
    """Trace of the lines that traced_step.py writes, Paddle's log and marks in one stream.

    Raises:
        PasslError: a line about kernels that is not understood, a key without its kernel, no operators, missing steps.
    """
    version, ops, white, key = None, Counter(), {}, None
    step, place, amp, steps, done = -1, 'before', False, set(), False
    for line in lines:
        match = MARK.match(line)
        if match:
            word, rest = match.groups()
            if word == 'step':
                step, place = int(rest), 'forward'
                steps.add(step)
            elif word == 'in':
                place = rest.rstrip()
            elif word == 'outside':
                step, place = -1, 'outside'
            elif word == 'amp':
                amp = rest.strip() == '1'
            elif word == 'white':
                dtype, names = rest.split()
                white[dtype] = set(names.split(','))
            version, done = (rest.strip() if word == 'paddle' else version), done or word == 'done'
            continue
        if 'kernel' not in line:
            continue
        new, chosen, old = KEY.search(line), KERNEL.search(line), OLD_WAY.search(line)
        if (new or old) and key or chosen and not key or not (new or old) and 'kernel key' in line:
            raise PasslError(f"This line of Paddle's log is not understood: {line.strip()[:200]!r}. See the patterns "
                             'in tools/release/gpu_kernels.py.')
        if old:
            ops[step, place, amp, old[1], old[2]] += 1
        elif chosen:
            ops[step, place, amp, chosen[1], key[2]] += 1
        key = new if new or chosen else key
    if not ops or not done or steps != set(range(STEPS)):
        raise PasslError(f"{sum(ops.values())} operators in {len(steps)} steps were found in Paddle's log; expected "
                         f'are {STEPS} steps and an end. Has its format changed? See tools/release/gpu_kernels.py.')
    return Trace(version, ops, white)


def on_gpu(registry, kernel):
    """Types for which a GPU has `kernel`: its own kernels and cuDNN's."""
    devices = registry.get(kernel, {})
    return set(devices.get('GPU', ())) | set(devices.get('GPUDNN', ()))


def missing(trace, registry):
    """[(kernel, dtype)] that the steps ask for and a GPU does not have."""
    asked = sorted({(kernel, dtype) for _, _, _, kernel, dtype in trace.ops})
    return [(kernel, dtype) for kernel, dtype in asked if dtype not in on_gpu(registry, kernel)]


def missing_under_amp(trace, registry, half):
    """[(kernel, half)] that O1 will ask for and a GPU does not have, as far as a step in float32 can tell.

    What O1 always casts must be there, forward and backward. Any other kernel runs in `half` if it has it, else in
    float32; whoever has it forward must have it backward.
    """
    kernels = {kernel for _, _, _, kernel, _ in trace.ops}
    found = set()
    for forward in {kernel for _, _, amp, kernel, dtype in trace.ops if amp and dtype == 'float32'}:
        always, has = forward in trace.white.get(half, ()), half in on_gpu(registry, forward)
        if always and not has:
            found.add((forward, half))
        backward = forward + '_grad'
        if has and backward in kernels and half not in on_gpu(registry, backward):
            found.add((backward, half))
    return sorted(found)


def places(trace, step=QUIET):
    """{place: Counter of kernels} of one step, in the order of the step."""
    out = {}
    for (at, place, _, kernel, _), n in trace.ops.items():
        if at == step:
            out.setdefault(place, Counter())[kernel] += n
    return out


def run_recipe(config, overrides=()):
    """The Trace of `configs/<config>`, run in a process of its own."""
    words = [sys.executable, os.path.join(HERE, 'traced_step.py'), os.path.join(ROOT, 'configs', config)]
    for text in overrides:
        words += ['-o', text]
    env = dict(os.environ, GLOG_vmodule=LOGGED, GLOG_logtostderr='1', PASSL_ONEDNN='0', OMP_NUM_THREADS='1')
    env.pop('GLOG_v', None)
    failure = []

    def lines(stream):
        for line in stream:
            if failure or line.startswith('Traceback'):
                failure.append(line)
            yield line

    with subprocess.Popen(words, env=env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          errors='replace') as process:
        try:
            trace = parse(lines(process.stderr))
        except PasslError:
            process.stderr.read()           # to its end, so that it is not killed by a closed pipe
            process.wait()
            if not failure:
                raise
        if process.wait() or failure:
            shown = [x for x in failure if not re.match(r'[IW]\d{4} ', x)]
            raise PasslError(f'{config}: the step failed.\n{"".join(shown[:40])}')
    return trace


def recipes():
    """[(label, config, overrides)]: every shipped pre-training and classification recipe, and one with each switch."""
    names = sorted(os.path.relpath(f, os.path.join(ROOT, 'configs'))
                   for f in glob.glob(os.path.join(ROOT, 'configs', '*', '*.yaml')))
    rows = [(name, name, ()) for name in names if not name.startswith('_')]
    return rows + [(f'{VARIED} + {switch}', VARIED, (text,)) for switch, text in SWITCHES.items()]


def report(label, trace, registry, count):
    """Print the row of one recipe; returns how many kernels are missing."""
    lacking = []
    if registry is not None:
        lacking = [missing(trace, registry)] + [missing_under_amp(trace, registry, half) for half in HALF]
    found = places(trace)
    print(f'{label:46}{sum(sum(c.values()) for c in found.values()):>11}', *(f'{len(x) or "none":>9}' for x in lacking),
          flush=True)
    for kernel, dtype in sorted(set(sum(lacking, []))):
        print(f'    {kernel} {dtype}: a GPU has {" ".join(sorted(on_gpu(registry, kernel))) or "no such kernel"}')
    if count:
        for place, kernels in found.items():
            most = ', '.join(f'{k} {n}' for k, n in kernels.most_common(4))
            print(f'    {place:42}{sum(kernels.values()):>11}   {most}')
    return sum(len(x) for x in lacking)


def check(args):
    """The sub-command `check`; returns 1 if a kernel is missing."""
    registry = None
    if args.registry:
        with open(args.registry, encoding='utf-8') as f:
            content = json.load(f)
        registry = content['kernels']
        print(f"{len(registry)} kernels of Paddle {content['paddle']} with CUDA {content['cuda']}")
    columns = () if registry is None else ('missing', *HALF)
    print(f'{"recipe":46}{"ops a step":>11}', *(f'{name:>9}' for name in columns))
    lacking = 0
    for label, config, overrides in recipes():
        if not args.recipe or any(text in label for text in args.recipe):
            trace = run_recipe(config, overrides)
            if registry is not None and trace.paddle != content['paddle']:
                raise PasslError(f"The registry is of Paddle {content['paddle']}, and here Paddle {trace.paddle} runs: "
                                 'kernels have other names there. Run `check` with the same version.')
            lacking += report(label, trace, registry, args.count)
    return int(lacking > 0)


def write_registry(args):
    """The sub-command `registry`."""
    import paddle
    kernels = read_registry(paddle.base.core._get_registered_phi_kernels())
    if not any('GPU' in devices for devices in kernels.values()):
        raise PasslError(f'Paddle {paddle.__version__} here is a CPU build: it has no kernel for a GPU. Run this where '
                         'paddlepaddle-gpu is installed (a GPU is not needed).')
    with open(args.output, 'w', encoding='utf-8') as f:
        json.dump({'paddle': paddle.__version__, 'cuda': str(paddle.version.cuda()), 'kernels': kernels}, f)
    print(f'{len(kernels)} kernels of Paddle {paddle.__version__} -> {args.output}')


def build_parser():
    parser = argparse.ArgumentParser(prog='gpu_kernels.py', description=__doc__.split('\n')[0], allow_abbrev=False)
    commands = parser.add_subparsers(dest='command', required=True)
    one = commands.add_parser('registry', help='write the kernels of the Paddle that is installed')
    one.add_argument('--output', metavar='JSON', required=True, help='file to write')
    two = commands.add_parser('check', help='run every recipe and hold its operators against a registry')
    two.add_argument('registry', metavar='JSON', nargs='?', help='what `registry` wrote; without it: counts only')
    two.add_argument('--count', action='store_true', help='also show the operators of a step hook by hook')
    two.add_argument('--recipe', metavar='TEXT', action='append', help='only recipes whose line holds TEXT; repeatable')
    return parser


def main(argv=None):
    args = build_parser().parse_args(argv)
    return guarded({'registry': write_registry, 'check': check}[args.command], args)


if __name__ == '__main__':
    sys.exit(main())
