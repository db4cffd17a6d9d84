"""The command line: exit codes, messages, and what is passed on."""

import importlib
import inspect
import os
import subprocess
import sys

import pytest

import passl
from passl import cli
from passl.utils.errors import ConfigError
from tests.engine.small import call, refused

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def run(*words):
    return subprocess.run([sys.executable, *words], cwd=ROOT, capture_output=True, text=True, timeout=300)


def raiser(error):
    def function(*_, **__):
        raise error
    return function


def test_guarded_exit_codes(capsys):
    assert cli.guarded(lambda: None) == 0
    assert cli.guarded(lambda: 3) == 3
    assert cli.guarded(raiser(ConfigError("'epochs' is -1; it must be 1 or more."))) == 2
    assert capsys.readouterr().err == "error: 'epochs' is -1; it must be 1 or more.\n"
    assert cli.guarded(raiser(KeyboardInterrupt())) == 130
    assert 'Traceback' not in capsys.readouterr().err


def test_faults_of_the_program_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        cli.guarded(lambda: 1 / 0)


def test_version_and_help(capsys):
    assert cli.main(['--version']) == 0
    assert capsys.readouterr().out == f'passl {passl.__version__}\n'
    assert cli.main(['--help']) == 0
    out = capsys.readouterr().out
    assert all(command in out for command in cli.COMMANDS)


@pytest.mark.parametrize('argv, words', [
    ([], ['usage: passl COMMAND']),
    (['trian'], ["unknown command 'trian'", "Did you mean 'train'?"]),
])
def test_wrong_command(argv, words, capsys):
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert all(w in err for w in words)


ENTRIES = {'extract-weight': 'extract_main', 'check-data': 'check_main'}      # the others are named as their command


@pytest.mark.parametrize('command', cli.COMMANDS)
def test_subcommands_have_help_and_a_function(command, capsys):
    with pytest.raises(SystemExit) as e:
        cli.main([command, '--help'])
    assert e.value.code == 0
    out = capsys.readouterr().out
    assert f'usage: passl {command}' in out
    with pytest.raises(SystemExit):
        getattr(cli, ENTRIES.get(command, command.replace('-', '_') + '_main'))(['--help'], prog=f'passl {command}')
    assert capsys.readouterr().out == out           # what tools/*.py call is this command
    module, name = cli.COMMANDS[command].run.split(':')
    run = getattr(importlib.import_module('passl.' + module), name)
    assert inspect.signature(run).bind('the parsed arguments')


@pytest.mark.parametrize('words', [('-m', 'passl'), ('tools/train.py',), ('tools/extract_weight.py',),
                                   ('tools/plot_log.py',), ('tools/report.py',), ('tools/export_weights.py',),
                                   ('tools/import_weights.py',), ('tools/env.py',), ('tools/passl2ppclas/convert.py',)])
def test_tools_start_and_help(words):
    done = run(*words, '--help')
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith('usage: ')


@pytest.mark.parametrize('argv, words', [
    (['train', '-c', 'configs/no_such.yaml'], ['error: ', 'no_such.yaml']),
    (['train', '-c', 'configs/densecl/densecl_r50.yaml', 'stray'], ['stray']),
    (['train', '--confg-file', 'x.yaml'], ['--config-file']),
    (['plot', 'no_such_run'], ['error: ', 'no_such_run']),
    (['env', '--chekc'], ['--check']),
])
def test_user_errors_are_one_block(argv, words, capsys):
    refused(call(cli.main, argv, capsys), *words)


def test_a_tool_ends_with_the_error_and_its_exit_code():
    done = run('tools/extract_weight.py', 'no_such.pdparams', '--output', 'x.pdparams')
    assert done.returncode == 2 and done.stderr.startswith('error: ') and 'no_such.pdparams' in done.stderr
    assert 'Traceback' not in done.stderr


def test_plot_writes_into_the_run_folder(run_dir, capsys):
    run_dir.mkdir()
    (run_dir / 'log.jsonl').write_text('{"mode": "train", "iteration": 1, "epoch": 1, "lr": 0.1, "loss": 7.0}\n')
    assert cli.main(['plot', str(run_dir)]) == 0
    assert (run_dir / 'loss.png').read_bytes()[:4] == b'\x89PNG'
    assert cli.main(['plot', str(run_dir / 'log.jsonl'), '--output', str(run_dir / 'x' / 'a.png')]) == 0
    assert (run_dir / 'x' / 'a.png').stat().st_size > 1000
