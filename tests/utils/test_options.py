"""Command lines: what the flags give, and what a wrong one says."""

import pytest

from passl.utils.options import build_extract_parser, build_train_parser


def refuse(parser, argv, capsys):
    """stderr of a refused command line; checks the exit code."""
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(argv)
    assert caught.value.code == 2
    return capsys.readouterr().err


def test_defaults():
    args = build_train_parser().parse_args(['-c', 'a.yaml'])
    assert vars(args) == dict(config_file='a.yaml', override=[], resume=None, load=None, pretrained=None,
                              evaluate_only=False, export=None, val_interval=None, no_cuda=False,
                              overwrite=False, allow_changes=False, allow_imports=False)
    assert vars(build_extract_parser().parse_args(['x', '--output', 'y'])) == dict(
        checkpoint='x', output='y', prefix='backbone', remove_prefix=False, overwrite=False)


def test_all_flags():
    args = build_train_parser().parse_args(
        '--config-file a.yaml -o a.b=1 --override c.0=-2 --resume auto --load l --pretrained p '
        '--evaluate-only --val-interval 3 --no-cuda --overwrite --allow-changes --allow-imports'.split())
    assert vars(args) == dict(config_file='a.yaml', override=['a.b=1', 'c.0=-2'], resume='auto', load='l',
                              pretrained='p', evaluate_only=True, export=None, val_interval=3, no_cuda=True,
                              overwrite=True, allow_changes=True, allow_imports=True)
    assert build_train_parser().parse_args(['-c', 'a', '--export', 'e']).export == 'e'
    for flag in ('--remove_prefix', '--remove-prefix'):
        args = build_extract_parser().parse_args(['x', '--output', 'y', '--prefix', 'encoder_k.0', flag])
        assert (args.prefix, args.remove_prefix) == ('encoder_k.0', True)


def test_overrides_of_one_call_do_not_leak_into_the_next():
    parser = build_train_parser()
    parser.parse_args(['-c', 'a', '-o', 'x=1'])
    assert parser.parse_args(['-c', 'a']).override == []


@pytest.mark.parametrize('argv, parts', [
    ([], ['-c/--config-file is required', 'usage: passl train [-h] -c FILE']),
    (['--confg-file', 'a'], ["unknown flag '--confg-file'", "Did you mean '--config-file'?"]),
    (['-c', 'a', '--evaluate_only'], ["Did you mean '--evaluate-only'?"]),
    (['-c', 'a', '--res', 'x'], ["unknown flag '--res'", "'--resume'"]),
    (['-c', 'a', '--val-intervall=3'],
     ["unknown flag '--val-intervall=3'", "Did you mean '--val-interval'?"]),
    (['-c', 'a', '--zzz'], ["unknown flag '--zzz'", 'Known: ', '--export']),
    (['-c', 'a', 'stray', '--resume', 'x'], ["stray word 'stray': it belongs to no flag"]),
    (['-c', 'a', '-o', 'x=1', 'y=2'], ["stray word 'y=2'", '-o y=2']),
    (['-c', 'a', '-o', 'x'], ["'x' is not of the form key.key=value"]),
    (['-c', 'a', '-o', '=x'], ["'=x' is not of the form key.key=value"]),
    (['-c'], ['-c/--config-file: expected one argument']),
    (['-c', ''], ['the value is empty']),
    (['-c', 'a', '--resume'], ['--resume: expected one argument']),
    (['-c', 'a', '--val-interval', '0'], ["--val-interval: '0' is not a whole number of 1 or more"]),
    (['-c', 'a', '--val-interval', '1.5'], ["'1.5' is not a whole number of 1 or more"]),
    (['-c', 'a', '--evaluate-only', '--export', 'x'], ['not allowed with argument']),
])
def test_wrong_train_command_lines(argv, parts, capsys):
    err = refuse(build_train_parser('passl train'), argv, capsys)
    for part in parts + ['passl train: error: ']:
        assert part in err


@pytest.mark.parametrize('argv, part', [
    (['--output', 'y'], 'CKPT is required'),
    (['x'], '--output is required'),
    (['x', '--outptu', 'y'], "Did you mean '--output'?"),
    (['x', '--output', 'y', 'z'], "stray word 'z'"),
    (['x', '--output', 'y', '--prefix', ''], 'the value is empty'),
])
def test_wrong_extract_command_lines(argv, part, capsys):
    assert part in refuse(build_extract_parser(), argv, capsys)


@pytest.mark.parametrize('build', [build_train_parser, build_extract_parser])
def test_help_explains_every_flag(build, capsys):
    parser = build('my prog')
    with pytest.raises(SystemExit) as caught:
        parser.parse_args(['--help'])
    text = capsys.readouterr().out
    assert caught.value.code == 0 and text.startswith('usage: my prog') and 'examples:' in text
    assert all(flag in text for flag in parser.flags())
    assert all(action.help for action in parser._actions)
    assert '[-c FILE]' not in text
