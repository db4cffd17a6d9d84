"""What a run folder tells, gathered for the page. Nothing in it is trusted: other programs may have written there."""

import base64
import glob
import json
import os
import re
from dataclasses import dataclass, field
from typing import Any, Optional, Sequence

from ..utils.errors import DataError, listed
from ..utils.health import advice, sentence, verdict
from ..utils.run_log import Records, chance_of, read_config_text, read_log

LOG, STATUS, SUMMARY = 'log.jsonl', 'status.json', 'summary.json'
CODES = {       # of passl/utils/health.py: what the bands and labels call them
    'healthy': ('healthy', '健康'), 'filling': ('queue fills', '队列填充中'),
    'position': ('by position', '靠位置'), 'shortcut': ('shortcut', '捷径'),
    'collapsing': ('collapsing', '坍缩'), 'guessing': ('guessing', '猜测')}
UNJUDGED = {'code': None, 'advice': ('', ''),
            'words': ('Not judged: the log is too short, or was written without health figures.',
                      '未作判断：日志太短，或写日志时没有健康指标。')}
KINDS = 'views', 'matches', 'maps', 'neighbours', 'schedule'         # of pictures, in the order of the page
MAX_PICTURE = 2**20         # bytes; those of a run have less than 300 KB
_HEAD = re.compile(r'INFO: (PASSL [^\n]*)')
_DATA = re.compile(r'(\d+) images; batch (\d+) in all')
_LONGEST = 2**24            # characters of a file that are read


@dataclass
class Run:
    """One run folder: its name in the report, the log's records by mode, and plain facts for the page."""

    folder: str
    name: str
    log: dict[str, Records]
    config_text: str
    config: dict[str, Any]
    status: dict[str, Any]
    summary: dict[str, Any]
    head: list[str] = field(default_factory=list)
    warnings: list[str] = field(default_factory=list)
    data: Optional[tuple[int, int]] = None

    @property
    def train(self) -> Records:
        return self.log['train']

    @property
    def chance(self) -> Optional[tuple[int, float]]:
        """(K, loss of guessing)"""
        return chance_of(self.config)

    @property
    def iterations(self) -> int:
        return max(records[-1]['iteration'] for records in self.log.values() if records)


def read_runs(folders: Sequence[str]) -> list[Run]:
    """The runs of the folders (or of their log.jsonl), each once, with names that tell them apart.

    Raises:
        DataError: a folder without a log, or with an empty one; the folders below that have one are named.
    """
    places = [os.path.dirname(f) or '.' if os.path.basename(f) == LOG else os.path.normpath(f) for f in folders]
    places = list({os.path.realpath(p): p for p in places}.values())
    for place in places:
        if not os.path.isfile(os.path.join(place, LOG)):
            below = sorted(os.path.dirname(p) for p in glob.glob(os.path.join(glob.escape(place), '**', LOG),
                                                                 recursive=True))
            hint = f'Below it these are run folders: {listed(below)}.' if below else \
                'Give the folder that a training has written.'
            raise DataError(f"'{place}' is no run folder: it holds no {LOG}. {hint}")
    return [_read(place, name) for place, name in zip(places, _names(places))]


def _names(places):
    """The last parts of the paths, as many as tell them apart."""
    parts = [os.path.abspath(p).split(os.sep)[1:] or ['/'] for p in places]
    length = next(n for n in range(1, max(map(len, parts)) + 1) if len({tuple(p[-n:]) for p in parts}) == len(parts))
    return [clean('/'.join(p[-length:])) for p in parts]


def _read(place, name):
    run = Run(place, name, read_log(os.path.join(place, LOG)), *read_config_text(place), read_json(place, STATUS),
              read_json(place, SUMMARY))
    run.config_text = clean(run.config_text)
    try:
        with open(os.path.join(place, 'log.txt'), encoding='utf-8', errors='replace') as f:
            for line in f.read(_LONGEST).splitlines():
                _note(run, clean(line))
    except OSError:
        pass
    return run


def _note(run, line):
    """Take from a line of log.txt what the page tells."""
    head, data = _HEAD.search(line), _DATA.search(line)
    if head and head[1] not in run.head:
        run.head.append(head[1])
    if data:
        run.data = int(data[1][:15]), int(data[2][:15])
    if (' WARNING: ' in line or ' ERROR: ' in line) and line not in run.warnings:
        run.warnings = (run.warnings + [line[:1000]])[-30:]


def clean(text: Any) -> str:
    """A text without what HTML cannot hold: control characters and halves of characters."""
    text = str(text).encode('utf-8', 'replace').decode('utf-8')
    return re.sub(r'[\x00-\x08\x0b-\x1f\x7f-\x9f]', '\N{REPLACEMENT CHARACTER}', text)


def read_json(folder: str, name: str) -> dict[str, Any]:
    """Content of a JSON file; {} if it is missing, damaged or something else."""
    try:
        with open(os.path.join(folder, name), encoding='utf-8', errors='replace') as f:
            content = json.loads(f.read(_LONGEST))
    except (OSError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def at(config: Any, *keys: Any) -> Any:
    """The value at a place of nested mappings and lists, or None."""
    for key in keys:
        if isinstance(config, dict):
            config = config.get(key)
        elif isinstance(config, list) and isinstance(key, int) and key < len(config):
            config = config[key]
        else:
            return None
    return config


def judged(run: Run) -> dict[str, Any]:
    """{'code', 'words', 'advice'}: the verdict on a run. The only place that asks passl/utils/health.py."""
    code, figures = verdict(run.train)
    if code not in CODES:
        return UNJUDGED
    en, zh = (sentence(code, figures, language) for language in ('en', 'zh'))
    return {'code': code, 'words': (f'{en[:1].upper()}{en[1:]}.', f'{zh}。'),
            'advice': tuple(advice(code, figures, language) for language in ('en', 'zh'))}


def pictures(run: Run, per_kind: int) -> list[dict[str, Any]]:
    """[{'kind', 'shots': [(iteration or None, data URI)]}] of <run>/pictures: first, middle and last of each kind."""
    found: dict[str, list[tuple[int, str]]] = {}
    for path in sorted(glob.glob(os.path.join(glob.escape(run.folder), 'pictures', '*.png'))):
        name = re.fullmatch(rf"({'|'.join(KINDS)})(?:_(\d{{1,15}}))?\.png", os.path.basename(path))
        if name:
            found.setdefault(name[1], []).append((int(name[2]) if name[2] else -1, path))
    rows = []
    for kind in KINDS:
        every = sorted(found.get(kind, []))
        chosen = [every[i] for i in sorted({round(k * (len(every) - 1) / max(1, per_kind - 1))
                                            for k in range(per_kind)})] if every and per_kind > 1 else every[-1:]
        shots = [(step if step >= 0 else None, data) for step, path in chosen for data in [_data_uri(path)] if data]
        rows += [{'kind': kind, 'shots': shots}] if shots else []
    return rows


def _data_uri(path):
    """A PNG as text; None for what is none, or is far larger than ours."""
    try:
        with open(path, 'rb') as f:
            content = f.read(MAX_PICTURE + 1)
    except OSError:
        return None
    good = content.startswith(b'\x89PNG\r\n\x1a\n') and len(content) <= MAX_PICTURE
    return 'data:image/png;base64,' + base64.b64encode(content).decode() if good else None
