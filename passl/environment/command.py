"""`passl env`: a block of facts for bug reports and, with --check, what works here and what does not."""

import argparse
import sys
from typing import Any, Iterable, Iterator, Optional, Sequence, Union

from ..utils.distributed import dist
from . import child, facts, processes
from .words import NO, NOT_HERE, OK, REFUSED

ASKED_OF_PADDLE = ('Paddle', 'built with', 'libraries', 'device', 'GPU', 'kernels', 'settings')
# names in `checks.CHECKS`
FIRST = ('versions', 'GPU generation', 'TF32', 'convolution', 'batch norm', 'ResNet-18 step', 'momentum update',
         'queue', 'contrastive loss', 'collapsed features')
AMP = ('AMP O1 float16', 'AMP O1 bfloat16', 'AMP O2 float16', 'AMP O2 bfloat16')
SPEED = ('small copies', 'speed of MoCo v2', 'speed of DenseCL')
GPU_ONLY, CPU_ONLY = AMP + SPEED + ('GPU generation', 'TF32'), ('mixed precision',)
CPU_WORDS = (('speed', 'measured on accelerators only; on a CPU see tools/benchmark.py'),)


def env(args: argparse.Namespace, device: Optional[str] = None,
        checks: Sequence[str] = FIRST + AMP + CPU_ONLY + SPEED) -> int:
    """Run what `passl env` was asked for; everything is written to stdout. Nothing is sent anywhere.

    Args:
        args: Namespace of `passl.utils.options.build_env_parser()`.
        device: Paddle's name of a device, instead of the one that a training would choose.
        checks: those to do, of FIRST, AMP, CPU_ONLY and SPEED.
    Returns:
        0, or 1 if --check found something that does not work.
    """
    if dist.rank() > 0:         # under a launcher: process 0 speaks for the machine
        return 0
    device = device or ('cpu' if args.no_cuda else '')
    found = tell_facts(device)
    if not args.check:
        return 0
    say('')
    outcomes = []
    for name, state, words in check(device, found, checks):
        say(f'{name:<19} {state:<9}{words}')
        outcomes.append((name, state, words))
    say('')
    for line in verdict(outcomes, found.get('device')):
        say(line)
    return int(any(state == NO for _, state, _ in outcomes))


def say(line: str) -> None:
    """Write a line at once, in whatever the console's encoding can show."""
    encoding = getattr(sys.stdout, 'encoding', None) or 'utf-8'
    sys.stdout.write(line.encode(encoding, 'replace').decode(encoding) + '\n')
    sys.stdout.flush()


def tell_facts(device: str) -> dict[str, Any]:
    """Write the block of facts.

    Returns:
        dict of what Paddle told: 'device', 'GPU', ... (missing: it told nothing), and 'failed': why it does not
        import, or None.
    """
    for name, function in facts.FIRST:
        tell(name, facts.told(function))
    found: dict[str, Any] = {'failed': None}
    reasons = []
    for name, value, failed in child.results('facts', device, ASKED_OF_PADDLE):
        if name == 'Paddle':
            found['failed'] = failed
        if failed not in reasons:
            tell(name, value if failed is None else f'does not import: {failed}' if name == 'Paddle' else
                 f'not known: {failed}')
        if failed is None:
            found[name] = value
        else:
            reasons.append(failed)
    for name, function in facts.LAST:
        tell(name, facts.told(function))
    return found


def tell(name: str, value: Union[str, Sequence[str], None]) -> None:
    """Write a fact: text, a list of texts (one line each), or None (nothing)."""
    for line in [value] if isinstance(value, str) else value or []:
        say(f'{name + ":":<14}{line}')


def check(device: str, found: dict[str, Any], checks: Iterable[str]) -> Iterator[tuple[str, str, str]]:
    """Do the checks; yields (name, state, words)."""
    if found['failed']:
        yield 'Paddle', NO, found['failed']
        return
    if 'device' not in found:
        yield from ((name, NO, failed) for name, _, failed in child.results('checks', device, ['versions']) if failed)
        return
    on_cpu, gpus = found['device'] == 'cpu', found.get('GPU')
    if on_cpu and device == '' and 'CUDA' in found.get('built with', ''):
        yield 'GPU', NO, ('this Paddle is built for GPUs, but sees none: trainings run on the CPU, like the checks '
                          'below. Look at nvidia-smi and CUDA_VISIBLE_DEVICES; in a container, at its flag --gpus. If '
                          'the CPU is meant: --no-cuda')
    names = [n for n in checks if n not in (GPU_ONLY if on_cpu else CPU_ONLY)]
    for name, outcome, failed in child.results('checks', device, names):
        yield (name, *outcome) if failed is None else (name, NO, failed)
    if on_cpu:
        yield from ((name, NOT_HERE, words) for name, words in CPU_WORDS)
    yield from processes.outcomes(device, on_cpu, len(gpus) if isinstance(gpus, list) else 0)


def verdict(outcomes: Sequence[tuple[str, str, str]], device: Optional[str]) -> list[str]:
    """Lines that say in words what works, what does not, and what to do."""
    states = {name: state for name, state, _ in outcomes}
    wrong = [(name, words) for name, state, words in outcomes if state == NO]
    if not device:
        return ['Verdict: nothing can run here.'] + [f'  {name}: {words}' for name, words in wrong]
    lines = [f"Verdict for the device {device}: "
             + (f'{len(wrong)} of {len(outcomes)} checks fail.' if wrong else 'all that was checked works.')]
    groups = (('Training in float32', FIRST), ('Mixed precision', AMP + CPU_ONLY),
              ('Several processes', processes.NAMES + ('two processes',)))
    for title, names in groups:
        seen = [(n, states[n]) for n in names if n in states]
        fail = [n for n, s in seen if s == NO]
        work = [n for n, s in seen if s == OK]
        refused = [n for n, s in seen if s == REFUSED]
        text = 'works' if work and not fail and not refused else '; '.join(
            f'{what}: {", ".join(part)}' for what, part in (('does not work', fail), ('refused at the start', refused),
                                                            ('works', work)) if part)
        lines.append(f'  {title}: {text or "not checked here"}.')
    if wrong:
        lines.append('What does not work, and what to do:')
        lines += [f'  {name}: {words}' for name, words in wrong]
        lines.append('For a bug report, paste all of the above.')
    return lines
