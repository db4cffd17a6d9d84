"""Facts that Paddle must be asked for; run in a process of its own (see `child`), where it may hang or crash."""

import os
from typing import Any, Optional, Union

from ..utils.paddle_env import tune_cpu
from .words import in_words

# What Paddle does not say itself below version 3: the machine code in its wheel on PyPI, read with the wheel's file.
# There is no intermediate code (PTX) in it, so a newer generation has none at all.
PYPI_GPU = ('2.6.2', '11.8')
PYPI_GPU_CODE = (61, 70, 75, 80, 86)


def import_of_paddle() -> str:
    """'imports in N s'; raises what the import raises."""
    import paddle
    return f'{paddle.__version__} ({str(getattr(paddle.version, "commit", ""))[:10]}), imports'


def built_with() -> str:
    import paddle
    v = paddle.version
    if not paddle.is_compiled_with_cuda():
        others = [kind for kind in ('xpu', 'rocm') if getattr(paddle, f'is_compiled_with_{kind}', bool)()]
        return f"{', '.join(others) or 'CPU'} build" + plugins()
    code = machine_code()
    nccl = f', NCCL {dotted(v.nccl())}' if hasattr(v, 'nccl') else ''
    return (f"CUDA {v.cuda()}, cuDNN {dotted(v.cudnn())}{nccl}, machine code "
            f"{', '.join(map(capability, code)) if code else 'not told'}")


def plugins() -> str:
    """Devices that come as plug-ins of Paddle, as text."""
    import paddle
    ask = getattr(paddle.device, 'get_all_custom_device_type', None)
    names = ask() if ask else []
    return f", plug-ins: {', '.join(names)}" if names else ''


def libraries() -> Optional[str]:
    """The versions that are found when Paddle loads them; None for a CPU build."""
    import paddle
    if not paddle.is_compiled_with_cuda():
        return None
    found: list[str] = []
    core: Any = paddle.base.core
    for name, ask in (('cuDNN', paddle.device.get_cudnn_version), ('NCCL', lambda: core.nccl_version())):
        try:
            version = ask()
            found.append(f"{name} {dotted(version) if version else 'not found'}")
        except Exception as e:
            found.append(f'{name} not found ({in_words(e)})')
    return '; '.join(found)


def dotted(number: Union[int, str]) -> str:
    """8600 -> '8.6.0', 21602 -> '2.16.2', 90100 -> '9.1.0', as NVIDIA codes versions; texts with dots stay."""
    if not str(number).isdigit():
        return str(number)
    n = int(number)
    high = 10000 if n >= 10000 else 1000
    return f'{n // high}.{n % high // 100}.{n % 100}'


def machine_code() -> list[int]:
    """[61, 80, ...]: GPU generations that this Paddle has machine code for; [] if it does not tell."""
    import paddle
    ask = getattr(paddle.version, 'cuda_archs', None)
    codes = [int(c) for c in (ask() or [])] if ask else []
    if not codes and (paddle.__version__, str(paddle.version.cuda())) == PYPI_GPU:
        codes = list(PYPI_GPU_CODE)
    return codes


def capability(code: int) -> str:
    """86 -> '8.6'."""
    return f'{code // 10}.{code % 10}'


def gpus() -> Union[str, list[str], None]:
    """One line per GPU."""
    import paddle
    if not paddle.is_compiled_with_cuda():
        return None
    lines = []
    for i in range(paddle.device.cuda.device_count()):
        p = paddle.device.cuda.get_device_properties(i)
        lines.append(f'{i}: {p.name}, compute capability {p.major}.{p.minor}, {p.total_memory / 2**30:.1f} GiB')
    return lines or 'none that Paddle sees'


def kernels() -> str:
    """Which kernels a ResNet takes on the CPU."""
    from ..modules import cpu
    return f'on the CPU {cpu.convolutions()}'


def settings() -> str:
    """What the project has set for the processor."""
    applied = {'OMP_NUM_THREADS': os.environ.get('OMP_NUM_THREADS'), **tune_cpu()}
    return ', '.join(f'{k}={v}' for k, v in applied.items())


FACTS = {'Paddle': import_of_paddle, 'built with': built_with, 'libraries': libraries, 'GPU': gpus, 'kernels': kernels,
         'settings': settings}
