"""`passl env`: facts are found one by one, without Paddle too, and nothing else is told."""

import argparse
import os
import subprocess
import sys

import pytest

from passl.environment import command, facts, paddle_facts, words
from passl.utils.errors import ConfigError
from passl.utils.paddle_env import memory_limit

NAMES = ['PASSL', 'Python', 'Paddle wheel', 'Paddle', 'NumPy', 'OpenCV', 'Pillow', 'protobuf', 'OS', 'C library',
         'driver', 'CPU', 'cores', 'memory', '/dev/shm', 'disk', 'text']


def env_command(project_root, *flags, **variables):
    return subprocess.run([sys.executable, 'tools/env.py', *flags], cwd=project_root, capture_output=True, text=True,
                          env=dict(os.environ, **variables), timeout=300)


def lines_of(text):
    """{name: [values]} of the block."""
    found = {}
    for line in text.split('\n\n')[0].splitlines():
        name, _, value = line.partition(':')
        found.setdefault(name, []).append(value.strip())
    return found


def test_the_block(project_root):
    done = env_command(project_root, MKL_DEBUG_CPU_TYPE='5', PADDLE_API_KEY='hidden1', AWS_SECRET='hidden2',
                       PADDLE_MASTER='etcd://me:hidden3@host:1', HOME_TOKEN='hidden4')
    assert done.returncode == 0, done.stderr
    found = lines_of(done.stdout)
    import cv2
    import numpy
    import paddle
    assert set(NAMES + ['built with', 'device', 'kernels', 'settings', 'variables']) <= set(found)
    assert found['NumPy'] == [numpy.__version__] and found['OpenCV'] == [cv2.__version__]
    assert found['Paddle'][0].startswith(paddle.__version__) and found['Paddle'][0].endswith('imports')
    assert found['device'] == ['cpu'] and 'not known' not in done.stdout
    assert 'MKL_DEBUG_CPU_TYPE=5' in found['variables'] and 'PADDLE_API_KEY=(not shown)' in found['variables']
    assert 'PADDLE_MASTER=etcd://(not shown)@host:1' in found['variables']
    assert 'hidden' not in done.stdout and 'AWS' not in done.stdout and 'HOME' not in done.stdout
    assert len(done.stdout.splitlines()) < 45


def stub(folder, source):
    """The folder, with a Paddle that runs `source` when it is imported."""
    (folder / 'paddle').mkdir()
    (folder / 'paddle' / '__init__.py').write_text(source + '\n')
    return str(folder)


def test_without_paddle(project_root, tmp_path):
    """In the process of a user: no fact but Paddle's own needs it."""
    done = env_command(project_root, PYTHONPATH=stub(tmp_path, "raise ModuleNotFoundError('no', name='paddle')"))
    assert set(NAMES) <= set(lines_of(done.stdout)), done.stdout + done.stderr
    assert done.returncode == 0 and 'PaddlePaddle is not installed' in done.stdout
    assert 'not known' not in done.stdout and done.stderr == ''


@pytest.mark.parametrize('source, words', [
    ("raise OSError('libnccl.so.2: cannot open shared object file: No such file or directory')",
     'libnccl.so.2 was not found: install it'),
    ("raise ImportError('libcudart.so.11.0: cannot open shared object file')", 'libcudart.so.11.0 was not found'),
    ('import os, signal; os.kill(os.getpid(), signal.SIGSEGV)', 'signal SIGSEGV'),
    ("import sys; sys.exit(3)", 'exit code 3'),
    ("__version__ = '2.5.0'", '2.6.2'),
])
def test_without_a_paddle_that_imports(tmp_path, monkeypatch, capsys, source, words):
    """Facts and check end with words, whatever the import does."""
    monkeypatch.setenv('PYTHONPATH', stub(tmp_path, source))
    assert command.env(argparse.Namespace(check=True, no_cuda=False)) == 1
    said = capsys.readouterr().out
    found = lines_of(said)
    assert set(NAMES) <= set(found), said
    assert found['NumPy'][0][0].isdigit() and found['memory'][0].partition(' ')[0] != 'not'
    assert 'Verdict: nothing can run here.' in said and words in said and 'Traceback' not in said


def test_a_fact_that_fails_says_why():
    def fails():
        raise PermissionError(13, 'Permission denied', '/proc/x')
    assert facts.told(fails) == "not known: PermissionError: [Errno 13] Permission denied: '/proc/x'"
    assert facts.told(lambda: 'yes') == 'yes'
    assert facts.module('no_such_module_at_all') == 'not installed'


def test_a_broken_package(tmp_path, monkeypatch):
    (tmp_path / 'broken_cv.py').write_text("raise ImportError('libGL.so.1: cannot open shared object file')")
    (tmp_path / 'needs_more.py').write_text('import no_such_module_at_all')
    monkeypatch.syspath_prepend(tmp_path)
    assert 'opencv-python-headless' in facts.module('broken_cv')
    assert facts.module('needs_more').startswith("does not import: ModuleNotFoundError: No module named 'no_such")


def test_variables():
    environ = {'FLAGS_x': '1', 'NCCL_DEBUG': 'INFO', 'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '2',
               'OMP_OTHER': '1', 'MY_PADDLE_X': '1', 'PATH': '/x', 'PADDLE_AUTH': 'x', 'MKL_X': 'y' * 100,
               'PADDLE_PASS': 'x'}
    assert facts.variables(environ) == [
        'CUDA_VISIBLE_DEVICES=', 'FLAGS_x=1', 'MKL_X=' + 'y' * 77 + '...', 'NCCL_DEBUG=INFO', 'OMP_NUM_THREADS=2',
        'PADDLE_AUTH=(not shown)', 'PADDLE_PASS=(not shown)']
    assert facts.variables({'PATH': '/x'}) == 'none that changes a run'


def test_wheels_that_overwrite_each_other(monkeypatch):
    monkeypatch.setattr(facts, 'version_of', {'paddlepaddle': '3.3.1', 'paddlepaddle-gpu': '2.6.2'}.get)
    assert facts.paddle_wheel().startswith('paddlepaddle 3.3.1 and paddlepaddle-gpu 2.6.2 - they overwrite')
    monkeypatch.setattr(facts, 'version_of', lambda name: None)
    assert facts.paddle_wheel().startswith("none: in the clone pip install -e '.[cpu]'")


def test_the_commit(tmp_path):
    (tmp_path / '.git').mkdir()
    assert 'commit not known' in facts.passl(str(tmp_path))
    assert facts.passl(str(tmp_path / 'elsewhere')).endswith(', installed')


@pytest.mark.parametrize('script, answer', [
    ('echo 535.104.05; echo 535.104.05', '535.104.05'), ('exit 9', 'nvidia-smi fails'),
    ('sleep 30', 'no answer for 10 s')])
def test_the_driver(tmp_path, monkeypatch, script, answer):
    tool = tmp_path / 'nvidia-smi'
    tool.write_text(f'#!/bin/sh\n{script.replace("sleep", "exec sleep")}\n')
    tool.chmod(0o755)
    monkeypatch.setenv('PATH', str(tmp_path), prepend=os.pathsep)
    real = facts.run
    monkeypatch.setattr(facts, 'run', lambda *command: real(*command, limit=0.5 if 'sleep' in script else 10))
    assert answer in facts.driver()
    monkeypatch.setenv('PATH', str(tmp_path / 'none'))
    assert facts.driver() == 'no nvidia-smi'


@pytest.mark.parametrize('files, own, limit', [
    ({'a/memory.max': '4294967296\n', 'a/b/memory.max': 'max\n'}, '0::/a/b\n', 2**32),
    ({'memory/d/memory.limit_in_bytes': '1073741824\n'}, '9:memory:/d\n', 2**30),
    ({'memory/d/memory.limit_in_bytes': '9223372036854771712\n'}, '9:memory:/d\n', None),
    ({}, None, None)])
def test_memory_of_a_container(tmp_path, files, own, limit):
    for name, text in files.items():
        (tmp_path / 'fs' / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / 'fs' / name).write_text(text)
    if own:
        (tmp_path / 'own').write_text(own)
    assert memory_limit(str(tmp_path / 'fs'), str(tmp_path / 'own')) == limit


@pytest.mark.parametrize('number, text', [(8600, '8.6.0'), (21602, '2.16.2'), (90100, '9.1.0'), (2804, '2.8.4'),
                                          ('8.6.0', '8.6.0'), ('False', 'False')])
def test_versions_as_nvidia_codes_them(number, text):
    assert paddle_facts.dotted(number) == text


@pytest.mark.parametrize('error, parts', [
    (ConfigError("'a' is 1;\n it must be 2."), ["'a' is 1; it must be 2."]),
    (RuntimeError('\n\n-----\nC++ Traceback (most recent call last):\n-----\n0 a\n1 b\n\n----------------------\n'
                  'Error Message Summary:\n----------------------\nResourceExhaustedError: Out of memory error on GPU '
                  '0. Cannot allocate 2GB (at /paddle/x.cc:84)\n'),
     ['RuntimeError: ResourceExhaustedError: Out of memory error on GPU 0. Cannot allocate 2GB - ', 'nvidia-smi']),
    (TypeError('only 0-dimensional arrays can be converted to Python scalars'), ["'numpy<2.4'", 'bfloat16']),
    (KeyError(), ['KeyError']), (ValueError('x ' * 500), ['x ...'])])
def test_errors_in_words(error, parts):
    text = words.in_words(error)
    assert '\n' not in text and 'C++' not in text and len(text) < 400
    assert all(p in text for p in parts), text


def test_what_to_do_about_an_unknown_error():
    assert words.in_words(ValueError('odd'), 'Report it.') == 'ValueError: odd - Report it.'
    assert 'Report it' not in words.in_words(TypeError('only 0-dimensional arrays can be converted to'), 'Report it.')


def test_the_last_error_of_a_log():
    log = ('I0101 start\nTraceback (most recent call last):\n  File "x"\nValueError: (InvalidArgument) use wrong place '
           '(at /paddle/x.cc:340)\nI0101 end\nFatalError: `Termination signal` is detected\n')
    assert words.last_error(log) == 'ValueError: (InvalidArgument) use wrong place'
    assert words.last_error('one\n\ntwo\n') == 'two' and words.last_error('') == ''
