"""Settings for the processor: the rules, with files as the system would show them."""

import json
import os
import subprocess
import sys

import pytest

from passl.utils import paddle_env


def cpuinfo(tmp_path, vendor, flags):
    file = tmp_path / 'cpuinfo'
    one = f'processor\t: 0\nvendor_id\t: {vendor}\nmodel name\t: X\nflags\t\t: {flags}\n\n'
    file.write_text(one + one.replace(flags, 'of the second core'))
    return str(file)


@pytest.mark.parametrize('vendor, flags, path', [
    ('AuthenticAMD', 'fpu sse2 avx fma avx2', '5'),
    ('AuthenticAMD', 'fpu sse2 avx', None),                                 # would be an illegal instruction
    ('AuthenticAMD', 'fpu sse2 avx avx2', None),
    ('GenuineIntel', 'fpu sse2 avx fma avx2 avx512f', None),
    ('HygonGenuine', 'fpu avx fma avx2', None),
])
def test_maths_library_path(tmp_path, vendor, flags, path):
    found = paddle_env.cpu_flags(cpuinfo(tmp_path, vendor, flags))
    assert found == (vendor, set(flags.split()))
    assert paddle_env.maths_library_path(*found) == path


@pytest.mark.parametrize('text', [None, '', 'processor : 0\nFeatures : fp asimd\nCPU implementer : 0x41\n'])
def test_a_system_that_does_not_tell(tmp_path, text):
    if text is not None:
        (tmp_path / 'cpuinfo').write_text(text)
    found = paddle_env.cpu_flags(str(tmp_path / 'cpuinfo'))
    assert found == ('', set())
    assert paddle_env.maths_library_path(*found) is None


@pytest.mark.parametrize('own, files, quota', [
    (None, {}, None),                                                       # no /proc, no cgroups
    ('0::/\n', {'cpu.max': 'max 100000\n'}, None),
    ('0::/\n', {'cpu.max': '150000 100000\n'}, 1.5),
    ('0::/a/b\n', {'a/cpu.max': '200000 100000\n', 'a/b/cpu.max': '400000 100000\n'}, 2.0),         # the parent binds
    ('0::/a/b\n', {'a/cpu.max': 'max 100000\n', 'a/b/cpu.max': '50000 100000\n'}, 0.5),
    ('0::/unseen\n', {'cpu.max': '300000 100000\n'}, 3.0),                  # the namespace's root is the own group
    ('4:cpu,cpuacct:/d\n', {'cpu/d/cpu.cfs_quota_us': '250000\n', 'cpu/d/cpu.cfs_period_us': '100000\n'}, 2.5),
    ('4:cpu,cpuacct:/d\n', {'cpu/d/cpu.cfs_quota_us': '-1\n', 'cpu/d/cpu.cfs_period_us': '100000\n'}, None),
    ('4:memory:/d\n', {'cpu/cpu.cfs_quota_us': '100000\n', 'cpu/cpu.cfs_period_us': '50000\n'}, 2.0),
    ('0::/\n', {'cpu.max': 'rubbish'}, None),
    ('rubbish\n', {'cpu.max': '0 0'}, None),
])
def test_quota_of_a_container(tmp_path, own, files, quota):
    for name, text in files.items():
        file = tmp_path / 'fs' / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    if own is not None:
        (tmp_path / 'own').write_text(own)
    assert paddle_env.cpu_quota(str(tmp_path / 'fs'), str(tmp_path / 'own')) == quota


@pytest.mark.parametrize('affinity, quota, cores', [(8, None, 8), (8, 2.0, 2), (8, 1.5, 2), (8, 0.5, 1), (2, 4.0, 2)])
def test_usable_cores(monkeypatch, affinity, quota, cores):
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(affinity)), raising=False)
    monkeypatch.setattr(paddle_env, 'cpu_quota', lambda: quota)
    assert paddle_env.usable_cores() == cores


def test_usable_cores_without_affinity(monkeypatch):
    monkeypatch.delattr(os, 'sched_getaffinity', raising=False)
    monkeypatch.setattr(os, 'cpu_count', lambda: None)
    monkeypatch.setattr(paddle_env, 'cpu_quota', lambda: None)
    assert paddle_env.usable_cores() == 1


@pytest.mark.parametrize('environ, n', [
    ({}, 1), ({'PADDLE_TRAINERS_NUM': '4'}, 4), ({'PADDLE_TRAINERS_NUM': '8', 'PADDLE_LOCAL_SIZE': '4'}, 4),
    ({'PADDLE_LOCAL_SIZE': ''}, 1), ({'PADDLE_LOCAL_SIZE': 'x', 'PADDLE_TRAINERS_NUM': '2'}, 2),
    ({'PADDLE_LOCAL_SIZE': '0'}, 1),
])
def test_local_processes(environ, n):
    assert paddle_env.local_processes(environ) == n


@pytest.fixture
def fresh(monkeypatch):
    """tune_cpu as if it ran for the first time on an AMD with AVX2 and six cores; gives the environment."""
    monkeypatch.setattr(paddle_env, '_applied', {})
    monkeypatch.delitem(sys.modules, 'paddle', raising=False)
    for name in list(os.environ):
        if name.startswith(('OMP_', 'MKL_', 'MALLOC_', 'PADDLE_')):
            monkeypatch.delenv(name)
    monkeypatch.setattr(os, 'environ', dict(os.environ))
    monkeypatch.setattr(paddle_env, 'usable_cores', lambda: 6)
    monkeypatch.setattr(paddle_env, 'cpu_flags', lambda: ('AuthenticAMD', {'avx2', 'fma'}))
    monkeypatch.setattr(paddle_env, '_keep_freed_pages', lambda: True)
    return os.environ


def test_what_is_applied(fresh):
    assert paddle_env.tune_cpu() == {'OMP_NUM_THREADS': '6', 'MKL_DEBUG_CPU_TYPE': '5', 'malloc': 'keeps freed pages'}
    assert (fresh['OMP_NUM_THREADS'], fresh['MKL_DEBUG_CPU_TYPE']) == ('6', '5')
    fresh['OMP_NUM_THREADS'] = '2'
    assert paddle_env.tune_cpu()['OMP_NUM_THREADS'] == '6' and fresh['OMP_NUM_THREADS'] == '2'      # once per process


@pytest.mark.parametrize('processes, threads', [(2, '3'), (4, '1'), (60, '1')])
def test_local_processes_share_the_cores(fresh, processes, threads):
    fresh['PADDLE_LOCAL_SIZE'] = str(processes)
    assert paddle_env.tune_cpu()['OMP_NUM_THREADS'] == threads


def test_the_users_settings_stay(fresh):
    fresh.update(OMP_NUM_THREADS='5', MKL_DEBUG_CPU_TYPE='')
    assert paddle_env.tune_cpu() == {'malloc': 'keeps freed pages'}
    assert (fresh['OMP_NUM_THREADS'], fresh['MKL_DEBUG_CPU_TYPE']) == ('5', '')


def test_paddle_was_imported_before(fresh, monkeypatch):
    monkeypatch.setitem(sys.modules, 'paddle', object())
    before = dict(fresh)
    assert 'Paddle was imported before' in paddle_env.tune_cpu()['cpu_settings']
    assert fresh == before


@pytest.mark.parametrize('name', ['MALLOC_ARENA_MAX', 'GLIBC_TUNABLES'])
def test_the_users_allocator_settings_stay(monkeypatch, name):
    monkeypatch.setenv(name, '1')
    assert paddle_env._keep_freed_pages() is False


@pytest.mark.parametrize('platform', ['darwin', 'win32'])
def test_other_systems_keep_their_allocator(monkeypatch, platform):
    monkeypatch.setattr(sys, 'platform', platform)
    monkeypatch.setattr(paddle_env.ctypes, 'CDLL', lambda *a: pytest.fail('loaded'))
    assert paddle_env._keep_freed_pages() is False


def test_a_process_applies_before_it_imports_paddle(project_root):
    """In a process of its own: what Paddle sees at its import is what the log will say."""
    program = ('import json, os\n'
               'from passl.utils import paddle_env\n'
               'paddle_env.usable_cores = lambda: 3\n'
               'applied = paddle_env.tune_cpu()\n'
               'import sys\n'
               'print(json.dumps([applied, os.environ["OMP_NUM_THREADS"], "paddle" in sys.modules]))\n')
    environ = {k: v for k, v in os.environ.items() if not k.startswith(('OMP_', 'MKL_', 'MALLOC_', 'PADDLE_'))}
    out = subprocess.run([sys.executable, '-c', program], cwd=project_root, env=environ, capture_output=True, text=True,
                         check=True).stdout
    applied, threads, imported = json.loads(out)
    assert applied['OMP_NUM_THREADS'] == threads == '3' and not imported


def test_a_home_that_cannot_be_written_to(monkeypatch, tmp_path):
    """Paddle's import would end there; not even root can write to /proc."""
    monkeypatch.delitem(sys.modules, 'paddle', raising=False)
    monkeypatch.setenv('HOME', '/proc')
    with paddle_env._with_a_home():
        home = os.environ['HOME']
        assert home != '/proc' and os.path.isdir(home)
        os.makedirs(os.path.expanduser('~/.cache/paddle/dataset'))
    assert os.environ['HOME'] == '/proc' and not os.path.exists(home)
    monkeypatch.setenv('HOME', str(tmp_path))
    with pytest.raises(PermissionError), paddle_env._with_a_home():         # an error of the import stays one
        assert os.environ['HOME'] == str(tmp_path)
        raise PermissionError
