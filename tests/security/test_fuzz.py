"""The fuzzing of `fuzz.py` in small: the same inputs on every run."""

import logging
import random

import pytest

hypothesis = pytest.importorskip('hypothesis')
from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from . import fuzz  # noqa: E402

EXAMPLES = {'config': 100, 'overrides': 50, 'yaml': 200}      # the slower ones; 300 of the others
QUIET = {'image'}               # libraries write to the terminal; tests/datasets has what is said about broken images


@pytest.mark.parametrize('name', [n for n in fuzz.TARGETS if n not in QUIET])
def test_a_value_or_an_error_of_ours(name, tmp_path, caplog):
    target, ran = fuzz.TARGETS[name](str(tmp_path)), EXAMPLES.get(name, 300)
    with caplog.at_level(logging.CRITICAL, 'passl'):
        accepted = sum(target.once(target.make(random.Random(seed))) for seed in range(ran))
    assert accepted < ran or name == 'log'


@given(st.binary(max_size=200))
@settings(max_examples=150, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_bytes(tmp_path_factory, data):
    for name in ('pickle', 'safetensors'):
        folder = tmp_path_factory.getbasetemp() / f'bytes_{name}'
        folder.mkdir(exist_ok=True)
        target = ANY.setdefault(name, None) or fuzz.TARGETS[name](str(folder))
        ANY[name] = target
        target.once(data)
        target.once(b'\x80\x04' + data)


ANY = {}
TREES = st.recursive(st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
                     lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner,
                                                                                 max_size=4),
                     max_leaves=20)


@given(TREES)
@settings(max_examples=100, derandomize=True, database=None, deadline=None, suppress_health_check=list(HealthCheck))
def test_trees_come_back_from_yaml_or_are_refused(tree):
    from passl.utils.errors import PasslError
    from passl.utils.config.yaml_text import parse_yaml, to_yaml
    try:
        back = parse_yaml(to_yaml(tree), 'x')
    except PasslError:
        return
    assert back == tree or 'nan' in repr(tree)


def test_the_invariant_can_fail(tmp_path, monkeypatch):
    """With Python's own unpickler in place of the reader the same inputs do execute something."""
    import pickle

    def unsafe(path):
        with open(path, 'rb') as f:
            return pickle.load(f)
    monkeypatch.setattr(fuzz, 'load_file', unsafe)
    monkeypatch.chdir(tmp_path)
    target, broken = fuzz.TARGETS['pickle'](str(tmp_path)), 0
    for seed in range(60):
        data = target.make(random.Random(seed))
        if b'system' in data or b'open' in data or b'load' in data:
            continue                    # the real thing would run here
        try:
            target.once(data)
        except Exception:
            broken += 1
    assert broken > 10


def test_longer_run(capsys, tmp_path):
    assert fuzz.main(['--seconds', '1', '--seed', '1', '--only', 'list file', '--keep', str(tmp_path / 'k')]) == 0
    out = capsys.readouterr().out
    assert 'list file' in out and 'executions' in out and not (tmp_path / 'k').exists()
