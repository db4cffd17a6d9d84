"""tools/release/gpu_kernels.py: what it reads from Paddle's log, and what it calls missing."""

import json

import pytest

from passl.utils.errors import PasslError
from tests.test_docs import module_of

tool = module_of('tools/release/gpu_kernels.py')
AT = 'I1129 04:03:21.780557  5132 '


def key(api, kernel, dtype='float32', file='api.cc'):
    """The two lines of an operator, the second as Paddle 3 breaks it."""
    return [f'{AT}{file}:90682] {api} API kernel key: [CPU, NCHW, {dtype}]\n',
            f'{AT}{file}:90689] {kernel} kernel: {{"input":[\n', f'\tbackend: CPU,  layout: NCHW,  dtype: {dtype}\n',
            ']}\n']


def log(*in_forward):
    """Three steps: `in_forward` within auto_cast in the second of them, one operator in each backward pass."""
    lines = ['@@ paddle 2.6.2\n', '@@ white float16 conv2d,matmul\n', '@@ white bfloat16 conv2d\n', '@@ outside\n',
             *key('full', 'full', 'int64')]
    for step in range(3):
        lines += [f'@@ step {step}\n', '@@ amp 1\n'] + (list(in_forward) if step == 1 else [])
        lines += ['@@ amp 0\n', '@@ in OptimizerHook.train_forward_end\n',
                  *key('relu_grad', 'relu_grad', file='backward_api.cc'), '@@ in forward\n', '@@ outside\n']
    return lines + ['@@ done\n']


FORWARD = [*key('conv2d', 'conv2d'), *key('relu', 'relu'), *key('relu', 'relu'), *key('assign_out_', 'assign', 'int64'),
           f'\tIN {key("add", "add")[0]}', key('add', 'add')[1],       # joined to an unfinished line
           f'{AT}prepared_operator.cc:291] Dynamic mode PrepareImpl - kernel name: check_finite_and_unscale | kernel '
           'key: (CPU, Undefined(AnyLayout), float32) | kernel: {"input":["CPU, NCHW, float32"]\n']
REGISTRY = {'conv2d': {'CPU': ['float32'], 'GPUDNN': ['float16', 'float32']}, 'full': {'GPU': ['int64']},
            'relu': {'GPU': ['bfloat16', 'float16', 'float32']}, 'relu_grad': {'GPU': ['float16', 'float32']},
            'assign': {'CPU': ['int64'], 'GPU': ['int64']}, 'add': {'CPU': ['float32'], 'GPU': ['float32']},
            'check_finite_and_unscale': {'GPU': ['float32']}}


def test_operators_are_counted_by_step_and_place():
    trace = tool.parse(log(*FORWARD))
    assert tool.places(trace) == {
        'forward': {'conv2d': 1, 'relu': 2, 'assign': 1, 'add': 1, 'check_finite_and_unscale': 1},
        'OptimizerHook.train_forward_end': {'relu_grad': 1}}
    assert tool.places(trace, 0) == {'OptimizerHook.train_forward_end': {'relu_grad': 1}}
    assert trace.paddle == '2.6.2' and trace.white == {'float16': {'conv2d', 'matmul'}, 'bfloat16': {'conv2d'}}
    assert trace.ops[-1, 'outside', False, 'full', 'int64'] == 1
    assert trace.ops[1, 'forward', True, 'relu', 'float32'] == 2


def without(kernel, dtype=None):
    """REGISTRY without a kernel, or without one type of its GPU kernels."""
    out = json.loads(json.dumps(REGISTRY))
    for device in list(out[kernel]) if dtype else ():
        out[kernel][device] = [t for t in out[kernel][device] if t != dtype or device == 'CPU']
    return out if dtype else {k: v for k, v in out.items() if k != kernel}


@pytest.mark.parametrize('registry, lacking', [
    (REGISTRY, []), (without('assign'), [('assign', 'int64')]), (without('add', 'float32'), [('add', 'float32')]),
    (without('conv2d', 'float32'), [('conv2d', 'float32')]), (without('full', 'int64'), [('full', 'int64')])])
def test_a_kernel_that_only_the_cpu_has_is_missing(registry, lacking):
    assert tool.missing(tool.parse(log(*FORWARD)), registry) == lacking


@pytest.mark.parametrize('registry, half, lacking', [
    (REGISTRY, 'float16', []),                                      # add has no float16: it stays in float32
    (without('conv2d', 'float16'), 'float16', [('conv2d', 'float16')]),
    (without('relu_grad', 'float16'), 'float16', [('relu_grad', 'float16')]),
    (REGISTRY, 'bfloat16', [('conv2d', 'bfloat16'), ('relu_grad', 'bfloat16')])])
def test_half_precision(registry, half, lacking):
    assert tool.missing_under_amp(tool.parse(log(*FORWARD)), registry, half) == lacking


def test_outside_auto_cast_half_precision_asks_for_nothing():
    lines = [line for line in log(*FORWARD) if line != '@@ amp 1\n']
    assert tool.missing_under_amp(tool.parse(lines), without('conv2d', 'float16'), 'float16') == []


@pytest.mark.parametrize('lines, words', [
    ([], '0 operators in 0 steps'),
    ([line for line in log() if 'kernel' not in line], '0 operators in 3 steps'),
    ([line for line in log() if line != '@@ step 2\n'], 'in 2 steps'),
    (log()[:-1], 'and an end'),
    (log(key('add', 'add')[0]), 'not understood.*relu_grad API kernel key'),            # a key without its kernel
    (log(key('add', 'add')[1]), 'not understood.*add kernel'),
    (log(f'{AT}api.cc:1] add API kernel key: <CPU|NCHW|float32>\n'), 'not understood.*<CPU'),
    ([line.replace('API kernel key: [', 'API kernel key (') for line in log()], 'not understood')])
def test_a_log_that_is_not_understood_is_an_error(lines, words):
    with pytest.raises(PasslError, match=words):
        tool.parse(lines)


def test_the_registry_is_read_from_paddles_own_texts():
    texts = {'b': ['(GPU, Undefined(AnyLayout), float32)', '(CPU, Undefined(AnyLayout), float32)',
                   '(GPU, Undefined(AnyLayout), bool)'], 'a': ['(ONEDNN, ONEDNN, int8)']}
    assert tool.read_registry(texts) == {'a': {'ONEDNN': ['int8']},
                                         'b': {'CPU': ['float32'], 'GPU': ['bool', 'float32']}}
    with pytest.raises(PasslError, match="entry 'GPU float32' of 'a'"):
        tool.read_registry({'a': ['GPU float32']})


def test_the_exit_code_and_the_table_tell_what_is_missing(tmp_path, monkeypatch, capsys):
    trace = tool.parse(log(*FORWARD))
    monkeypatch.setattr(tool, 'run_recipe', lambda config, overrides: trace)
    monkeypatch.setattr(tool, 'HALF', ('float16',))
    path = tmp_path / 'gpu.json'

    def check(registry, version='2.6.2', *flags):
        path.write_text(json.dumps({'paddle': version, 'cuda': '11.8', 'kernels': registry}))
        return tool.main(['check', str(path), '--recipe', 'moco_v2_r50', *flags]), capsys.readouterr()

    code, said = check(REGISTRY)
    assert code == 0 and 'moco/moco_v2_r50.yaml' in said.out and '7      none      none' in said.out
    code, said = check(without('add', 'float32'))
    assert code == 1 and 'add float32: a GPU has no such kernel' in said.out
    code, said = check(REGISTRY, '3.3.1')
    assert code == 2 and 'registry is of Paddle 3.3.1, and here Paddle 2.6.2 runs' in said.err
    assert tool.main(['check', '--count', '--recipe', 'moco_v2_r50']) == 0
    assert 'relu 2, conv2d 1' in capsys.readouterr().out


def test_every_shipped_recipe_is_checked():
    labels = [label for label, _, _ in tool.recipes()]
    for name in ('densecl/densecl_r50', 'densecl/densecl_r50_coco', 'moco/moco_v1_r50', 'moco/moco_v2_r50',
                 'moco/moco_clas_r50', 'simclr/simclr_r50'):
        assert f'{name}.yaml' in labels
    for switch in ('grad_clip', 'bn_splits', 'recompute', 'use_multi_tensor'):
        assert f'densecl/densecl_r50.yaml + {switch}' in labels
    assert not any('_base_' in label or 'transfer' in label for label in labels)


@pytest.mark.slow
def test_a_recipe_is_traced_along_the_branches_of_a_gpu():
    found = tool.places(tool.run_recipe('densecl/densecl_r18_demo.yaml'))
    halves, views, layers = 2, 2, 20            # model.bn_splits: 2
    assert found['forward']['conv2d'] == found['forward']['batch_norm'] == halves * views * layers
    assert found['OptimizerHook.train_forward_end']['conv2d_grad'] == halves * layers
    assert found['forward']['max'] == 2          # the shifted sums of both losses; regions need no matching
    assert 'HealthHook.train_iter_end' in found and 'isfinite' in found['HealthHook.train_iter_end']      # check: log
    assert found['MomentumUpdateHook.train_iter_begin'] == {'merged_adam': 1}
