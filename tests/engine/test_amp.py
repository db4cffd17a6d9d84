"""Mixed precision: what is asked of Paddle, and where. (Paddle has none on the CPU, so its state is set here.) And on a
CPU, where it is the project's own."""

import contextlib
from types import SimpleNamespace

import paddle
import pytest

from passl.cli import train_main
from passl.engine import amp
from passl.engine.amp import LossScaler, build_amp
from passl.hooks.step_record import scale_of
from passl.modules.cpu import bfloat16
from passl.solver import OPTIMIZERS
from passl.utils.config import validate
from passl.utils.errors import ConfigError
from passl.utils.weights.checkpoint import load_file
from tests.modeling.tiny import contrast, views

from . import small


@pytest.fixture
def gpu(monkeypatch):
    """As on a GPU: auto_cast sets Paddle's state, and every request is kept in the list that this gives."""
    tracer, requests = paddle.base.framework._dygraph_tracer(), []

    @contextlib.contextmanager
    def auto_cast(enable=True, level='O1', **settings):
        requests.append((level if enable else 'O0', settings))
        before = tracer._amp_level, tracer._amp_dtype
        tracer._amp_level = getattr(paddle.base.core.AmpLevel, requests[-1][0])
        tracer._amp_dtype = settings.get('dtype', 'float16') if enable else 'float32'
        try:
            yield
        finally:
            tracer._amp_level, tracer._amp_dtype = before

    monkeypatch.setattr(paddle.amp, 'auto_cast', auto_cast)
    monkeypatch.setattr(paddle.amp, 'is_float16_supported', lambda: True)
    monkeypatch.setattr(paddle.amp, 'is_bfloat16_supported', lambda: True)
    monkeypatch.setattr(paddle.device.cuda, 'get_device_capability', lambda: (8, 0))
    return requests


def build(amp=None, **cfg):
    """build_amp as on a GPU (everything else stays on the CPU)."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(paddle, 'get_device', lambda: 'gpu:0')
        return build_amp({'use_amp': True, 'AMP': amp, **cfg})


@pytest.fixture(scope='module')
def densecl():
    return contrast()


def level_now():
    return str(paddle.base.framework._dygraph_tracer()._amp_level).split('.')[-1]


@pytest.mark.parametrize('level, dtype', [('O1', 'float16'), pytest.param(
    'O2', 'bfloat16', marks=pytest.mark.cpu_only('the fake device has no kernels in half precision'))])
def test_both_branches_run_in_half_precision_and_the_losses_do_not(gpu, densecl, level, dtype):
    auto_cast, _, _ = build({'level': level, 'dtype': dtype})
    seen, model = {}, densecl
    for name, part in (('query', model.encoder_q), ('key', model.encoder_k)):
        for i, place in enumerate(('backbone', 'neck')):
            part[i].register_forward_pre_hook(lambda *_, at=f'{name} {place}': seen.update({at: level_now()}))
    with auto_cast():
        out = model(*views())
    assert seen == dict.fromkeys(['query backbone', 'query neck', 'key backbone', 'key neck'], level)
    assert gpu[0][1]['dtype'] == dtype
    assert 'O0' in [asked for asked, _ in gpu[1:]]          # the losses
    assert level_now() == 'O0'
    assert all(v.dtype == paddle.float32 for k, v in out.items() if 'loss' in k)
    assert all(p.stop_gradient for p in model.encoder_k.parameters())


@pytest.mark.parametrize('amp, level, dtype', [
    (None, 'O1', 'float16'), ({'level': 'O2'}, 'O2', 'float16'), ({'dtype': 'bfloat16'}, 'O1', 'bfloat16'),
    ({'level': 'O1', 'auto_cast': {'level': 'O2', 'dtype': 'bfloat16'}}, 'O2', 'bfloat16')])
def test_settings_reach_paddle(gpu, amp, level, dtype):
    auto_cast, _, _ = build(amp)
    with auto_cast():
        assert level_now() == level
    assert gpu[0][1]['dtype'] == dtype


@pytest.mark.parametrize('cfg', [{'use_amp': False}, {'use_amp': False, 'amp': {'level': 'O2'}},
                                 {'amp': {'auto_cast': {'enable': False}}}])
def test_switched_off(gpu, cfg):
    auto_cast, scaler, decorate = build(**cfg)
    with auto_cast():
        assert level_now() == 'O0'
    assert not gpu and not scaler.is_enable() and decorate(None, 'optimizer') == 'optimizer'


def test_the_key_encoder_keeps_float32_weights(gpu, densecl, monkeypatch):
    decorated = []
    monkeypatch.setattr(paddle.amp, 'decorate', lambda models, optimizers, level, dtype:
                        (decorated.append((models, level, dtype)), (models, optimizers))[1])
    optimizer = paddle.optimizer.AdamW(0.1, parameters=densecl.encoder_q.parameters())
    for level in ('O1', 'O2'):
        build({'level': level, 'dtype': 'bfloat16'})[2](densecl, optimizer)
    assert decorated == [(densecl.encoder_q, 'O2', 'bfloat16')]


def test_only_float16_needs_a_scaled_loss(gpu, monkeypatch):
    asked = []
    monkeypatch.setattr(amp, 'LossScaler', lambda **settings: asked.append(settings))
    for dtype in ('float16', 'bfloat16'):
        build({'dtype': dtype, 'scale_loss': 128})
    assert asked == [{'enable': True, 'init_loss_scaling': 128.0}, {'enable': False, 'init_loss_scaling': 128.0}]


@pytest.mark.parametrize('use_amp', [False, True])
def test_an_operator_in_both_lists_is_refused_even_where_it_is_not_used(use_amp):
    lists = {'custom_white_list': ['a', 'b'], 'custom_black_list': ['b', 'c']}
    with pytest.raises(ConfigError, match="'AMP.auto_cast': b is in"):
        build_amp({'use_amp': use_amp, 'AMP': {'auto_cast': lists}})


@pytest.mark.parametrize('amp, words', [
    ({'dtype': 'fp16'}, "'AMP.dtype' must be one of float16, bfloat16, not 'fp16'"),
    ({'level': 'O3'}, "'AMP.level' must be one of O1, O2, not 'O3'"),
    ({'auto_cast': {'dtype': 'half'}}, "'AMP.auto_cast.dtype' must be one of"),
    ({'levle': 'O1'}, "no key 'levle'.*Did you mean 'level'")])
def test_wrong_settings_of_a_file_are_refused_before_anything_is_built(amp, words, tmp_path):
    with pytest.raises(ConfigError, match=words):
        validate(small.moco(str(tmp_path), use_amp=True, AMP=amp))


@pytest.mark.parametrize('dtype, way_out', [('float16', 'use_amp: false'), ('bfloat16', 'Use float16')])
def test_a_type_that_the_device_does_not_have_is_refused(gpu, monkeypatch, dtype, way_out):
    """Or a GPU on which Paddle would train on in float32."""
    words = f"'AMP.dtype' is {dtype}, which this device does not support.*{way_out}"
    monkeypatch.setattr(paddle.amp, f'is_{dtype}_supported', lambda: False)
    with pytest.raises(ConfigError, match=words):
        build({'dtype': dtype})
    monkeypatch.setattr(paddle.amp, f'is_{dtype}_supported', lambda: True)
    enough, lacking = {'float16': [(7, 0), (6, 1)], 'bfloat16': [(8, 6), (7, 5)]}[dtype]
    monkeypatch.setattr(paddle.device.cuda, 'get_device_capability', lambda: enough)
    build({'dtype': dtype})
    monkeypatch.setattr(paddle.device.cuda, 'get_device_capability', lambda: lacking)
    with pytest.raises(ConfigError, match=words):
        build({'dtype': dtype})


@pytest.mark.parametrize('dtype', ['float16', 'bfloat16'])
@pytest.mark.parametrize('level', ['O1', 'O2'])
@pytest.mark.parametrize('name', ['Momentum', 'SGD', 'Adam', 'AdamW', 'RMSProp', 'LarsMomentumOptimizer'])
def test_o2_is_refused_where_paddle_has_no_update_for_it(gpu, monkeypatch, dtype, level, name):
    """What remains is what the registry of Paddle 2.6.2's GPU kernels holds: no momentum in bfloat16."""
    monkeypatch.setattr(paddle.amp, 'decorate', lambda models, optimizers, **_: (models, optimizers))
    layer = paddle.nn.Linear(2, 2)
    decorate = build({'level': level, 'dtype': dtype})[2]
    optimizer = OPTIMIZERS.get(name)(0.1, parameters=layer.parameters())
    no_kernel = ('RMSProp', 'LarsMomentumOptimizer') + ('Momentum',) * (dtype == 'bfloat16')
    if level == 'O1' or name not in no_kernel:
        assert decorate(layer, optimizer) is optimizer
        return
    with pytest.raises(ConfigError, match=f'O2 with {dtype} and optimizer {name}.*AMP.level: O1, or one of .*AdamW'):
        decorate(layer, optimizer)


def test_an_overflow_is_survived_with_every_numpy(capsys):
    """Paddle's message takes the float of its scale, of shape [1]: a TypeError from NumPy 2.4 on."""
    scaler = LossScaler(enable=False)           # there is none on the CPU: switched on below
    scaler.__dict__.update(_enable=True, _scale=paddle.to_tensor([1024.0]), _decr_every_n_nan_or_inf=1, _decr_ratio=0.5,
                           _decr_count=0, _cache_found_inf=True, _cache_founf_inf=True)     # 3.x and 2.6
    scaler._update()
    assert scaler._scale.shape == [1] and scaler._scale.numpy().tolist() == [512.0]
    trainer = SimpleNamespace(scaler=SimpleNamespace(is_enable=lambda: True,
                                                     state_dict=lambda: {'scale': scaler._scale.numpy()}))
    assert scale_of(trainer) == 512.0


# --- on a CPU --------------------------------------------------------------------------------------------------------

@pytest.fixture
def cpu(monkeypatch):
    """set(why_not): as on a CPU that has units for bfloat16 (''), or that has none."""
    monkeypatch.setattr(paddle, 'get_device', lambda: 'cpu')
    return lambda why_not: monkeypatch.setattr(bfloat16, 'why_not', lambda: why_not)


def on_cpu(amp, caplog):
    """(whether bfloat16 is on within the context, what the log says)."""
    caplog.clear()
    with caplog.at_level('INFO', 'passl'):
        auto_cast, scaler, decorate = build_amp({'use_amp': True, 'AMP': amp})
    assert not scaler.is_enable() and decorate(None, 'optimizer') == 'optimizer' and level_now() == 'O0'
    with auto_cast():
        inside = bfloat16.is_on()
    assert not bfloat16.is_on()
    return inside, caplog.text


def test_bfloat16_on_a_cpu(cpu, caplog):
    cpu('')
    inside, said = on_cpu({'dtype': 'bfloat16'}, caplog)
    assert inside and 'ResNets compute in bfloat16, everything else in float32.' in said
    assert 'WARNING' not in said
    for more, unused in (({'level': 'O2'}, 'AMP.level: O2: only on a GPU'),
                         ({'auto_cast': {'custom_white_list': ['relu']}}, 'AMP.auto_cast.custom_white_list: only on')):
        inside, said = on_cpu({'dtype': 'bfloat16', **more}, caplog)
        assert inside and unused in said and 'here weights stay float32' in said


@pytest.mark.parametrize('amp, why_not, words', [
    (None, '', 'AMP.dtype is float16; on a CPU only bfloat16 can be had: -o AMP.dtype=bfloat16'),
    ({'dtype': 'bfloat16'}, 'it has no units', '(it has no units); training in float32.')])
def test_a_cpu_that_keeps_float32_says_why(cpu, caplog, amp, why_not, words):
    cpu(why_not)
    inside, said = on_cpu(amp, caplog)
    assert not inside and 'use_amp: true has no effect on this CPU (' in said and words in said


def test_switched_off_on_a_cpu_too(cpu, caplog):
    cpu('')
    assert on_cpu({'dtype': 'bfloat16', 'auto_cast': {'enable': False}}, caplog) == (False, '')


@pytest.mark.cpu_only('kernels of oneDNN')
@pytest.mark.skipif(bool(bfloat16.why_not()), reason=bfloat16.why_not() or 'usable')
def test_a_run_in_bfloat16_resumes_to_the_same_bits(tmp_path, make_images):
    """2 steps, and 1 with 1 that starts from its file; the file is float32."""
    make_images(tmp_path / 'flat', 8, size=40)
    cfg = small.densecl(str(tmp_path), use_amp=True, AMP={'dtype': 'bfloat16'}, epochs=None, total_iters=2,
                        model={'backbone': {'name': 'ShortResNet', 'depth': 18}, 'neck': {'in_channels': 512}},
                        checkpoint={'interval': 1, 'by_epoch': False})
    for name, length, flags in (('whole', 2, []), ('parts', 1, []), ('parts', 2, ['--resume', 'auto']),
                                ('float32', 1, ['-o', 'use_amp=false'])):
        path = small.write_config({**cfg, 'total_iters': length}, name)
        assert train_main(['-c', path, *flags]) == 0
    whole, parts = (tmp_path / 'out' / name / 'iter_2.pdparams' for name in ('whole', 'parts'))
    small.assert_same_state(whole, parts)
    half, full = (load_file(tmp_path / 'out' / name / 'iter_1.pdparams')['state_dict'] for name in ('whole', 'float32'))
    assert all(v.dtype == full[k].dtype for k, v in half.items())
    assert any((v != full[k]).any() for k, v in half.items())
