"""What a training tells at its end: where the weights are, whether it learnt, how far they moved, what comes next.

`summary.json` in the run folder says the same for programs.
"""

import json
import math
import os
import sys
from typing import TYPE_CHECKING, Any, Mapping, Optional, Sequence

import numpy as np

from ..modeling import build_model
from ..utils import health
from ..utils.errors import PasslError
from ..utils.files import replace_text
from ..utils.language import language
from ..utils.logger import get_logger, read_json_lines
from ..utils.next_commands import NAMES
from ..utils.seed import seed_everything
from ..utils.weights import load_weights
from ..utils.weights.load import backbone_weights
from .checkpoint import numpy_state_dict

if TYPE_CHECKING:
    from .trainer import Trainer

SUMMARY = 'summary.json'
_WIDTH = 40                 # characters of the curve
_BARS, _PLAIN = '▁▂▃▄▅▆▇█', '_.-=+*#@'
_STEM = ('conv1', 'bn1', 'stem')        # one stage, under the first name
_WORDS = {
    'en': {'done': 'Done after N steps.', 'weights': 'weights', 'health': 'learnt?', 'loss': 'loss', 'moved': 'moved',
           'not judged': 'not judged', 'of': '(of the length of the weights at the start)', 'next': 'next:',
           'full': '(since the queue was full)'},
    'zh': {'done': '完成，共 N 步。', 'weights': '权重', 'health': '学到了吗', 'loss': '损失', 'moved': '变化',
           'not judged': '未作判断', 'of': '（相对于起点处权重的长度）', 'next': '接下来：',
           'full': '（自队列填满之后）'}}


def sparkline(values: Sequence[float], width: int = _WIDTH, bars: str = _BARS) -> str:
    """The course of `values` in at most `width` characters, from the lowest of `bars` to the highest; '' of nothing."""
    finite = np.asarray([v for v in values if math.isfinite(v)], float)
    if not len(finite):
        return ''
    means = np.asarray([part.mean() for part in np.array_split(finite, min(width, len(finite)))])
    span = means.max() - means.min()
    places = (means - means.min()) / span * (len(bars) - 1) if span > 0 else np.zeros(len(means))
    return ''.join(bars[int(round(p))] for p in places)


def _bars():
    """What standard output can show."""
    try:
        _BARS.encode(sys.stdout.encoding or 'ascii')
    except (LookupError, UnicodeEncodeError):
        return _PLAIN
    return _BARS


def stage_changes(start: Mapping[str, np.ndarray], end: Mapping[str, np.ndarray]) -> Optional[dict[str, float]]:
    """{stage: L2 norm of the change of its weights / that of the weights at the start}, in the order of `end`.

    A stage is the first part of a name ('layer1'); the stem's layers are 'conv1'. Running statistics, which are no
    weights, are left out. None if `start` is of another network.
    """
    sums: dict[str, list[float]] = {}
    for name, value in end.items():
        if name.endswith(('._mean', '._variance')):
            continue
        if name not in start or np.shape(start[name]) != np.shape(value):
            return None
        first = name.partition('.')[0]
        entry = sums.setdefault(_STEM[0] if first in _STEM else first, [0.0, 0.0])
        before = np.asarray(start[name], np.float64)
        entry[0] += float(((np.asarray(value, np.float64) - before) ** 2).sum())
        entry[1] += float((before ** 2).sum())
    return {stage: math.sqrt(change / of) if of else 0.0 for stage, (change, of) in sums.items()} or None


def start_weights(trainer: 'Trainer', load: Optional[str] = None) -> dict[str, np.ndarray]:
    """The backbone's weights before the first step: of the file `load`, of the config's, or drawn again from the seed.

    Raises:
        PasslError: a file is no longer what it was.
    """
    file = load or (trainer.cfg['model'].get('backbone') or {}).get('pretrained')
    if isinstance(file, str):
        return backbone_weights(load_weights(file), f"'{file}'")
    seed_everything(trainer.seed)               # the model is the first to draw, see build_trainer
    return numpy_state_dict(build_model(trainer.cfg['model']).backbone)


def judged(records: Sequence[dict[str, Any]]) -> tuple[Optional[str], dict[str, Any], Optional[str]]:
    """(code, figures, sentences) of a run's health, by the records of its log; (None, {}, None) if it is not known."""
    code, figures = health.verdict(list(records))
    return code, figures, health.told(code, figures, language()) if code else None


def write_summary(trainer: 'Trainer', weights: Optional[str], commands: Mapping[str, str],
                  load: Optional[str] = None, start_known: bool = True) -> None:
    """Log the end of a run for people, and write summary.json; on process 0. What fails is a warning.

    Args:
        weights: the file that the run was for.
        commands: of `utils.next_commands`.
        load: file with weights that the run started from, beside the config's.
        start_known: False where a resumed run does not tell what it started from.
    """
    assert trainer.run_dir is not None
    log = os.path.join(trainer.run_dir, 'log.jsonl')
    records = [r for r in read_json_lines(log) if r.get('mode') == 'train'] if os.path.isfile(log) else []
    code, figures, sentence = judged(records)
    stages = None
    try:
        if start_known:
            stages = stage_changes(start_weights(trainer, load), numpy_state_dict(trainer.model.backbone))
    except (PasslError, OSError, MemoryError) as e:
        get_logger().warning('How far the weights have moved is not known: %s', e)
    full = trainer.steps_to_fill
    losses = [r.get('loss') for r in records if r['iteration'] > full]
    get_logger().info('%s', summary_text(trainer.iteration, weights, sentence, losses, stages, commands, bool(full)))
    content = {'weights': weights, 'health': code, 'figures': figures, 'stages': stages,
               'next': dict(commands)}
    try:
        replace_text(os.path.join(trainer.run_dir, SUMMARY), json.dumps(content, indent=1, ensure_ascii=False) + '\n')
    except OSError as e:
        get_logger().warning("'%s' cannot be written: %s", os.path.join(trainer.run_dir, SUMMARY), e.strerror or e)


def _percent(share):
    return f'{100 * share:.{0 if share >= 0.1 else 1 if share >= 0.01 else 2}f}%'


def summary_text(steps: int, weights: Optional[str], sentence: Optional[str], losses: Sequence[Any],
                 stages: Optional[Mapping[str, float]], commands: Mapping[str, str],
                 queue: bool = False) -> str:
    """The end of a run in the user's language, one fact per line. `queue`: the losses are those after it was filled."""
    tongue = language()
    words = _WORDS[tongue]
    numbers = [float(v) for v in losses if isinstance(v, (int, float)) and math.isfinite(v)]
    facts = [('weights', weights or '-'), ('health', sentence or words['not judged'])]
    if numbers:
        facts.append(('loss', f'{numbers[0]:.3f} -> {numbers[-1]:.3f}  {sparkline(numbers, bars=_bars())}'
                      + f"  {words['full']}" * queue))
    if stages:
        moved = ', '.join(f'{stage} {_percent(share)}' for stage, share in stages.items())
        facts.append(('moved', f"{moved} {words['of']}"))
    lines = [words['done'].replace('N', str(steps))]
    lines += [f'  {_padded(words[key], [words[k] for k, _ in facts])}  {text}' for key, text in facts]
    lines += [f"  {words['next']}"]
    lines += [line for key, command in commands.items()
              for line in (f"    {NAMES[key][tongue == 'zh']}", f'      {command}')]
    return '\n'.join(lines)


def _padded(text, others):
    """`text` with spaces to the width of the widest; a Han character is two columns wide."""
    width = [sum(2 if ord(c) > 0x2e7f else 1 for c in t) for t in (text, *others)]
    return text + ' ' * (max(width) - width[0])
