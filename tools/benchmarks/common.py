"""What the benchmarks share: interleaved timing, figures with spread, the machine, and the tables.

Needs neither Paddle nor PyTorch, so that it can drive workers of both.
"""

import os
import platform
import statistics
import subprocess
import time

from passl.utils.paddle_env import usable_cores


def interleave(cases, rounds, warmup=1):
    """Seconds of every call of every case, in turns, so that a busy machine disturbs all alike.

    Args:
        cases: {name: callable without arguments}; a callable may return its own figure of seconds.
        rounds: measured calls of each case; warmup: calls before them that are not kept.
    Returns:
        {name: list of `rounds` seconds}.
    """
    times = {name: [] for name in cases}
    for turn in range(warmup + rounds):
        for name, call in cases.items():
            start = time.perf_counter()
            own = call()
            seconds = own if isinstance(own, float) else time.perf_counter() - start
            if turn >= warmup:
                times[name].append(seconds)
    return times


def summary(values):
    """{'median', 'low', 'high', 'n'}: the median and the quartiles of `values`."""
    low, high = (statistics.quantiles(values, n=4, method='inclusive')[i] for i in (0, 2)) if len(values) > 1 \
        else (values[0], values[0])
    return {'median': statistics.median(values), 'low': low, 'high': high, 'n': len(values)}


def ratio(times, base):
    """As `summary`, of the ratios turn by turn: a slow turn of the machine slows both sides.

    Args:
        times, base: lists of equal length from one `interleave`.
    """
    return summary([a / b for a, b in zip(times, base)])


def text(figure, digits=3, unit=''):
    """'1.234 (1.2 - 1.3)' of a `summary`."""
    return f"{figure['median']:.{digits}f}{unit} ({figure['low']:.{digits}f} - {figure['high']:.{digits}f})"


def table(header, rows):
    """A Markdown table."""
    lines = ['| ' + ' | '.join(map(str, header)) + ' |', '|' + '---|' * len(header)]
    return '\n'.join(lines + ['| ' + ' | '.join(map(str, row)) + ' |' for row in rows])


def machine():
    """{'processor', 'cores', 'memory_gib', 'system', 'python', versions of what is installed}."""
    import importlib.metadata as metadata
    facts = {'processor': platform.processor() or platform.machine(), 'cores': usable_cores(),
             'system': platform.platform(), 'python': platform.python_version()}
    try:
        with open('/proc/cpuinfo') as f:
            facts['processor'] = next(line.split(':', 1)[1].strip() for line in f if line.startswith('model name'))
        with open('/proc/meminfo') as f:
            facts['memory_gib'] = round(int(f.readline().split()[1]) / 2**20, 1)
    except (OSError, StopIteration):
        pass
    for package in ('paddlepaddle', 'paddlepaddle-gpu', 'numpy', 'opencv-python', 'Pillow', 'torch', 'torchvision'):
        try:
            facts[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            pass
    try:
        here = os.path.dirname(os.path.abspath(__file__))
        facts['commit'] = subprocess.run(['git', '-C', here, 'rev-parse', '--short', 'HEAD'], capture_output=True,
                                         text=True, timeout=10).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        pass
    return facts
