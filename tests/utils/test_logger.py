"""The logger, log.txt and JSON lines."""

import io
import json
import logging
import math
import re
import sys

import numpy as np
import pytest

from passl.utils import logger as module
from passl.utils.logger import JsonLines, get_logger, read_json_lines, setup_logger, warn_for_all


def test_console_and_file_get_one_line_each(tmp_path, capsys):
    logger = setup_logger(tmp_path / 'new' / 'run')
    logger.info('hello %d 数据', 3)
    logger.debug('not shown')
    text = (tmp_path / 'new' / 'run' / 'log.txt').read_text(encoding='utf-8')
    assert text.endswith('INFO: hello 3 数据\n') and text.count('\n') == 1
    assert capsys.readouterr().out == text
    assert logger is get_logger() and logger.name == 'passl'


def own_handlers():
    return [h for h in get_logger().handlers if getattr(h, 'passl_owned', False)]


def test_a_handler_on_the_root_does_not_double_lines(capsys):
    root = logging.StreamHandler(sys.stdout)
    logging.getLogger().addHandler(root)
    try:
        setup_logger().info('once')
    finally:
        logging.getLogger().removeHandler(root)
    assert capsys.readouterr().out.count('once') == 1


def test_second_setup_replaces_the_first_and_appends(tmp_path, capsys):
    setup_logger(tmp_path / 'a').info('one')
    setup_logger(tmp_path / 'b').info('two')
    setup_logger(tmp_path / 'a').info('three')
    assert capsys.readouterr().out.count('\n') == 3
    lines = (tmp_path / 'a' / 'log.txt').read_text().splitlines()
    assert [line.rsplit(' ', 1)[1] for line in lines] == ['one', 'three']
    assert len(own_handlers()) == 2


def test_a_foreign_handler_is_kept():
    mine = logging.NullHandler()
    get_logger().addHandler(mine)
    setup_logger()
    setup_logger()
    assert mine in get_logger().handlers and len(own_handlers()) == 1
    get_logger().removeHandler(mine)


def test_other_ranks_report_warnings_only(tmp_path, capsys):
    logger = setup_logger(tmp_path, rank=3)
    logger.info('quiet')
    warn_for_all('quiet: process 0 says so')
    logger.warning('loud')
    text = (tmp_path / 'log.txt').read_text()
    assert 'quiet' not in text and text.endswith('WARNING: [rank 3] loud\n')
    assert capsys.readouterr().out == text


def test_process_0_says_what_all_find(capsys):
    setup_logger()
    warn_for_all('100 % of it')
    assert capsys.readouterr().out.endswith('WARNING: 100 % of it\n')


def test_lines_do_not_tear_a_bar(monkeypatch):
    from tqdm import tqdm
    screen = io.StringIO()          # one terminal for the bar and the lines
    monkeypatch.setattr(sys, 'stdout', screen)
    monkeypatch.setattr(sys, 'stderr', screen)
    with tqdm(total=2, file=screen, mininterval=0, desc='bar') as bar:
        bar.update()
        setup_logger().info('line')
    before_line = screen.getvalue().split('[20')[0]
    assert before_line.endswith('\r')       # the bar was cleared first
    assert ' INFO: line\n' in screen.getvalue()


def test_json_lines_are_flushed_one_by_one(tmp_path):
    path = tmp_path / 'new' / 'log.jsonl'
    log = JsonLines(path)
    log.write({'mode': 'train', 'iteration': 1, 'loss': 0.1})
    assert path.read_text() == '{"mode": "train", "iteration": 1, "loss": 0.1}\n'     # before close
    log.close()
    with JsonLines(path) as log:
        log.write({'mode': 'val'})
    assert read_json_lines(path) == [{'mode': 'train', 'iteration': 1, 'loss': 0.1}, {'mode': 'val'}]


def test_json_values_keep_their_meaning(tmp_path):
    path = tmp_path / 'log.jsonl'
    with JsonLines(path) as log:
        log.write({'a': float('nan'), 'b': float('inf'), 'c': [-math.inf, (1, None)], 'd': np.float32(0.5),
                   'e': np.int64(3), 'f': np.arange(2), 'g': np.float64('nan'), 'h': 'nan?', 'i': True,
                   'j': np.float32('-inf')})
    line, = path.read_text().splitlines()
    strict = json.loads(line, parse_constant=lambda name: pytest.fail(f'{name} is not JSON'))
    assert strict == {'a': 'nan', 'b': 'inf', 'c': ['-inf', [1, None]], 'd': 0.5, 'e': 3, 'f': [0, 1],
                      'g': 'nan', 'h': 'nan?', 'i': True, 'j': '-inf'}
    assert math.isnan(float(strict['a']))


def test_a_line_torn_by_a_kill_stays_alone(tmp_path, caplog):
    path = tmp_path / 'log.jsonl'
    path.write_text('{"iteration": 1}\n{"iterat')
    with JsonLines(path) as log:
        log.write({'iteration': 2})
    assert read_json_lines(path) == [{'iteration': 1}, {'iteration': 2}]
    assert 'line 2 is damaged' in caplog.text


def test_an_object_that_is_no_json_writes_nothing(tmp_path):
    with JsonLines(tmp_path / 'l') as log:
        with pytest.raises(TypeError):
            log.write({'x': object()})
    assert (tmp_path / 'l').read_text() == ''


def test_a_terminal_gets_the_time_and_the_short_text(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, 'on_terminal', lambda: True)
    log = setup_logger(tmp_path)
    log.info('all %d figures', 7, extra={'short': '100% short'})
    log.info('plain %s', 'text')
    log.warning('doubt')
    stamp = r'\d\d:\d\d:\d\d '
    shown, written = capsys.readouterr().out.splitlines(), (tmp_path / 'log.txt').read_text().splitlines()
    for line, want in zip(shown, ('100% short', 'plain text', 'WARNING: doubt')):
        assert re.fullmatch(stamp + re.escape(want), line), line
    assert [line.split('] ')[1] for line in written] == ['INFO: all 7 figures', 'INFO: plain text', 'WARNING: doubt']
    assert len(shown) == 3


@pytest.mark.parametrize('terminal, want', [
    (True, ['before', 'ERROR: c', 'after']), (False, ['before', *'abc', 'after'])])
def test_quiet_is_a_terminal_only(terminal, want, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(module, 'on_terminal', lambda: terminal)
    log = setup_logger(tmp_path)
    log.info('before')
    with module.quiet_terminal():
        log.info('a')
        log.warning('b')
        log.error('c')
    log.info('after')
    out = capsys.readouterr().out.splitlines()
    assert [line.split(' ', 1)[1] if terminal else line.rsplit(' ', 1)[1] for line in out] == want
    assert len((tmp_path / 'log.txt').read_text().splitlines()) == 5
