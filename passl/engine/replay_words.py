"""The report of `passl replay-step`, as lines of text."""

import math

import numpy as np

from ..utils.numerics import bad_count, describe_bad

_SHOWN = 8


def about(record, path):
    """Which step this is."""
    of = f", process {record['rank']} of {record['world_size']}" if record['world_size'] > 1 else ''
    scale = f", loss scale {record['scale']:g}" if record['scale'] else ''
    return [f"Step: iteration {record['iteration']}, epoch {record['epoch']}, lr {record['lr']:.3e}, seed "
            f"{record['seed']}{of}{scale}", f"File: '{path}'"]


def batch_lines(record):
    """Minimum, maximum and broken values of every field of the batch, and the images they are in."""
    lines = ['', 'Batch:']
    for micro, batch in enumerate(record['batches']):
        at = f'micro-batch {micro}, ' if len(record['batches']) > 1 else ''
        if batch is None:
            lines.append(f'  {at}left out of the file: it would have been too large')
            continue
        for number, x in enumerate(batch):
            nan, inf = bad_count(x)
            finite = x[np.isfinite(x)] if nan or inf else x
            limits = f'{finite.min():.4g} to {finite.max():.4g}' if finite.size else 'no finite value'
            lines.append(f'  {at}field {number} {list(x.shape)}: {limits}; {nan} nan, {inf} inf')
            if nan or inf:
                rows = [i for i in range(len(x)) if any(bad_count(x[i:i + 1]))]
                lines += [f'    in {image(record, micro, i)}' for i in rows[:_SHOWN]] + _more(rows)
    return lines


def image(record, micro, i):
    """An image in words: its name if it is known, and its place."""
    place = f'image {i}' + (f' of micro-batch {micro}' if len(record['batches']) > 1 else '')
    names = record.get('images')
    known = names is not None and micro < len(names) and i < len(names[micro])
    return f'{place}: {printable(names[micro][i])}' if known else f'{place} (its name is not in the file)'


def printable(text):
    """`text` on one line: names come from a file."""
    return text.encode('unicode_escape').decode() if not text.isprintable() else text


def loss_lines(record, outcome):
    """Every loss as recorded and as repeated."""
    lines = ['', 'Losses, as recorded and as repeated:']
    for micro, (then, now) in enumerate(zip(record['losses'], outcome.losses)):
        at = f'micro-batch {micro}, ' if len(record['losses']) > 1 else ''
        for name, value in then.items():
            again = None if now is None else now.get(name)
            broken = any(v is not None and not math.isfinite(v) for v in (value, again))
            lines.append(f"  {at}{printable(name)}: {value!r}, {'not repeated' if again is None else repr(again)}"
                         + ('   <- not finite' if broken else ''))
    return lines


def broken_lines(record):
    """Weights, queues and statistics that were broken when the step began."""
    state = record['state_dict']
    found = {printable(n): bad_count(np.asarray(v)) for n, v in state.items() if any(bad_count(np.asarray(v)))}
    moved = {n: c for n, c in found.items() if n.endswith(('._mean', '._variance'))}
    before = {n: c for n, c in found.items() if n not in moved}
    lines = ['', f"Weights and queues before the step: {describe_bad(before) if before else 'all finite'}"]
    if moved:
        lines.append(f'BN statistics, which the forward pass has moved: {describe_bad(moved)}')
    return lines


def layer_lines(seen, every=False):
    """The first layer whose output is not finite, and the largest finite values."""
    lines = ['', 'Forward pass (outputs of layers, in their order):']
    first = next((i for i, s in enumerate(seen) if s.nan or s.inf), None)
    if first is None:
        lines.append('  every output is finite')
    else:
        s = seen[first]
        before = f'; before it {first} outputs were finite, the last of {seen[first - 1].layer} with values up to ' \
                 f'{seen[first - 1].largest:.4g}' if first else '; it is the first layer of all'
        lines.append(f'  first that is not finite: {s.layer} ({s.nan} nan, {s.inf} inf){before}')
    # a container gives what its last layer gives: once is enough
    once = [s for i, s in enumerate(seen) if not i or s[1:] != seen[i - 1][1:]]
    shown = seen if every else sorted(once, key=lambda s: -s.largest)[:_SHOWN]
    lines.append(f"  largest finite values{', every layer' if every else ''}:")
    for s in shown:
        broken = f', {s.nan} nan, {s.inf} inf' if s.nan or s.inf else ''
        lines.append(f'    {s.layer}: {s.largest:.4g}{broken}')
    return lines


def gradient_lines(step, outcome):
    """The gradients that are not finite; the first of them on the way of the backward pass."""
    bad = outcome.bad_gradients
    lines = ['', f"Gradients: {describe_bad(bad, _SHOWN) if bad else 'all finite'}"]
    if bad:
        order = [n for n, _ in step.model.named_parameters() if n in bad]
        lines.append(f'  the nearest to the loss: {order[-1]}')
    if not step.exact:
        lines.append("  (of this process's own loss; in the run they were averaged over processes)")
    return lines


def scan_lines(record, found):
    """Which images break the step alone."""
    total = sum(len(b[0]) for b in record['batches'] if b is not None)
    lines = ['', f'Each of {total} images alone:']
    if len(found) == total:
        return lines + ['  every one breaks the step: not the images are the cause but weights, queues or the rate '
                        'before this step.']
    if not found:
        return lines + ['  none breaks the step: the cause is the batch as a whole (its BN statistics), or lies '
                        'outside of forward and backward.']
    return lines + [f'  {image(record, micro, i)}: {describe_bad(bad)}' for micro, i, bad in found]


def _more(rows):
    return [f'    and {len(rows) - _SHOWN} more'] if len(rows) > _SHOWN else []


def same_number(a, b):
    """Equal in bits, every nan counted as the same one."""
    return a == b or (a != a and b is not None and b != b)


def broken_losses(losses):
    """Names of those that are not finite, sorted."""
    return sorted({printable(k) for o in losses for k, v in (o or {}).items() if not math.isfinite(v)})


def verdict_lines(step, outcome, device, differing):
    """(whether the step came out as recorded, the lines that say so)."""
    record = step.record
    losses = all(now is not None and then.keys() == now.keys() and all(same_number(v, now[k]) for k, v in then.items())
                 for then, now in zip(record['losses'], outcome.losses))
    wrong = sorted(n for n in set(record['gradients']) | set(outcome.gradients)
                   if record['gradients'].get(n) != outcome.gradients.get(n))
    lines, compared = [], step.exact and step.whole
    same = losses and (not wrong or not compared)
    if not step.exact:
        lines.append(f"Only a part could be repeated: the run had {record['world_size']} processes, and the keys of a "
                     "process's images were encoded by all of them. The query's forward pass is the run's; keys were "
                     'encoded here alone, so losses may differ. To repeat everything: python -m '
                     f"paddle.distributed.launch --nproc_per_node {record['world_size']} tools/replay_step.py FILE")
    if not step.whole:
        lines.append('Only a part could be repeated: the file does not hold all micro-batches.')
    if same:
        what = f"all losses{f' and {len(outcome.gradients)} gradients' if compared else ''} equal, bit for bit"
        return True, lines + [f'Reproduced: {what}.']
    then, now = broken_losses(record['losses']), broken_losses(outcome.losses)
    differ = 'the losses differ.' if not losses else \
        f"the losses are equal, but {len(wrong)} of {len(record['gradients'])} gradients differ, the first being " \
        f'{printable(wrong[0])}.'
    lines.append(f'NOT reproduced as recorded: {differ}')
    if now:
        lines.append('The repeated step breaks too; ' + (
            f"the losses that are not finite are those of the run: {', '.join(now)}." if now == then else
            f"not finite are {', '.join(now)}, in the run {', '.join(then) or 'no losses'}."))
    elif outcome.bad_gradients:
        lines.append('The repeated step breaks too, in its gradients.')
    elif step.exact:
        lines.append(
            'The repeated step is finite throughout: what broke the run was not its forward and backward pass (a hook '
            'of your own, a device that computes wrongly, half precision that this device lacks).')
    else:
        lines.append("This process's part is finite throughout: look at the files of the others, or repeat everything.")
    if differing:
        lines.append('What differs from the run, and may change last bits: ' + '; '.join(differing))
    return False, lines
