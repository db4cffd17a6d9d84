"""A device that is not the CPU, for machines without an accelerator: fake.cc as a plug-in of Paddle 3's CPU wheel.

In this process, before anything imports Paddle:

    folder, reason = build()                        # folder None: it cannot be had, `reason` says why
    os.environ.update(environment())
    import paddle; paddle.set_device('fake:0')

In processes of their own, from a test:

    folder, reason = build()
    if reason: pytest.skip(reason)
    run([sys.executable, 'script.py'], processes=2)         # the script calls paddle.set_device('fake:0')
"""

import ctypes
import functools
import hashlib
import importlib.metadata
import importlib.util
import os
import shutil
import socket
import stat
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(HERE))
LIBRARY = 'libpaddle-fake.so'                   # Paddle loads every libpaddle*.so of CUSTOM_DEVICE_ROOT
COUNTERS = ('to_device', 'to_host', 'async_to_device', 'async_to_host', 'for_operators')


@functools.lru_cache(None)
def build():
    """Compile fake.cc, once per source and version of Paddle; Paddle is not imported.

    Returns:
        (folder for CUSTOM_DEVICE_ROOT, None), or (None, why there is none).
    """
    try:
        version = importlib.metadata.version('paddlepaddle')
    except importlib.metadata.PackageNotFoundError:
        return None, "a fake device needs Paddle's CPU wheel (paddlepaddle), which is not installed"
    if int(version.split('.')[0]) < 3:
        return None, f'a fake device needs Paddle 3 or newer; this is {version}'
    include = os.path.join(os.path.dirname(importlib.util.find_spec('paddle').origin), 'include')
    if not os.path.exists(os.path.join(include, 'paddle', 'phi', 'backends', 'device_ext.h')):
        return None, f'a fake device needs the header device_ext.h of Paddle, which is not below {include}'
    if not shutil.which('g++'):
        return None, 'a fake device needs g++ to be built, which is not installed'
    source = os.path.join(HERE, 'fake.cc')
    with open(source, 'rb') as f:
        key = hashlib.sha256(f.read() + include.encode() + version.encode()).hexdigest()[:16]
    folder = os.path.join(_cache(), key)
    library = os.path.join(folder, LIBRARY)
    if not os.path.exists(library):
        os.makedirs(folder, exist_ok=True)
        unfinished = f'{library}.{os.getpid()}.tmp'         # several test processes may build at once
        command = ['g++', '-O1', '-shared', '-fPIC', '-std=c++17', '-I', include, source, '-o', unfinished, '-ldl']
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            return None, f'the fake device could not be built: {done.stderr[-1500:]}'
        os.replace(unfinished, library)
    return folder, None


def _cache():
    """A folder for temporary files that only this user can write: what lies there is executed."""
    folder = os.path.join(tempfile.gettempdir(), f'passl_fake_device_{os.getuid()}')
    os.makedirs(folder, mode=0o700, exist_ok=True)
    status = os.lstat(folder)
    if stat.S_ISDIR(status.st_mode) and status.st_uid == os.getuid() and not status.st_mode & 0o022:
        return folder
    return tempfile.mkdtemp()


def environment(rank=0, ports=(0, 0), folder=None):
    """Environment variables with which Paddle finds the device, for process `rank` of `len(ports) - 1`.

    Args:
        ports: a free port of this machine for each process and one for their meeting (see `free_ports`).
        folder: where the processes of a job leave messages; the same for all.
    """
    root, reason = build()
    assert root, reason
    # a device without kernels has no views either
    env = {'CUSTOM_DEVICE_ROOT': root, 'FLAGS_use_stride_kernel': '0'}
    if folder is not None:
        env['FAKE_DEVICE_DIR'] = str(folder)
    size = len(ports) - 1
    if size > 1:
        env.update(PADDLE_DISTRI_BACKEND='xccl', PADDLE_XCCL_BACKEND='fake', FLAGS_selected_fakes='0')
        env.update(job_environment(rank, ports))
    return env


def job_environment(rank, ports):
    """What a launcher tells process `rank` of `len(ports) - 1`, on whatever device."""
    endpoints = [f'127.0.0.1:{p}' for p in ports]
    return {'PADDLE_TRAINER_ID': str(rank), 'PADDLE_TRAINERS_NUM': str(len(ports) - 1), 'PADDLE_MASTER': endpoints[-1],
            'PADDLE_CURRENT_ENDPOINT': endpoints[rank], 'PADDLE_TRAINER_ENDPOINTS': ','.join(endpoints[:-1])}


def free_ports(count):
    """`count` ports of this machine that nobody listens on."""
    sockets = [socket.socket() for _ in range(count)]
    for s in sockets:
        s.bind(('127.0.0.1', 0))
    ports = [s.getsockname()[1] for s in sockets]
    for s in sockets:
        s.close()
    return ports


def run(command, processes=1, device='fake', timeout=300, **variables):
    """Run `command` in so many processes from the project's folder; all must end with exit code 0.

    Args:
        device: 'fake', or 'cpu': a job on gloo, to compare with.
        variables: more environment variables.
    Returns:
        [standard output of each process].
    Raises:
        AssertionError: with what the processes wrote.
    """
    ports = free_ports(processes + 1)
    inherited = {k: v for k, v in os.environ.items()
                 if not k.startswith(('PADDLE_', 'FLAGS_', 'FAKE_DEVICE_', 'CUSTOM_DEVICE_'))}
    inherited.update(OMP_NUM_THREADS='1', PYTHONPATH=ROOT, **variables)
    with tempfile.TemporaryDirectory(prefix='fake_device_') as folder:
        started = []
        try:
            for rank in range(processes):
                own = environment(rank, ports, folder) if device == 'fake' else \
                    job_environment(rank, ports) if processes > 1 else {}
                files = [open(os.path.join(folder, f'{rank}.{kind}'), 'w+') for kind in ('out', 'err')]
                started.append((subprocess.Popen(list(map(str, command)), cwd=ROOT, env={**inherited, **own},
                                                 stdout=files[0], stderr=files[1]), *files))
            codes = _exit_codes([p for p, _, _ in started], timeout)
        finally:
            for p, _, _ in started:
                p.kill()
                p.wait()
        texts = [[_content(f) for f in files] for _, *files in started]
    assert all(code == 0 for code in codes), '\n'.join(
        f'--- process {r}: exit code {code}\n{out[-3000:]}\n{err[-3000:]}'
        for r, (code, (out, err)) in enumerate(zip(codes, texts)))
    return [out for out, _ in texts]


def _exit_codes(processes, timeout):
    """Wait until all have ended, or one with an error, for which the others would wait; None: it still runs."""
    end = time.monotonic() + timeout
    while True:
        codes = [p.poll() for p in processes]
        if None not in codes or any(codes) or time.monotonic() > end:
            return codes
        time.sleep(0.05)


def _content(file):
    with file:
        file.seek(0)
        return file.read()


def copies():
    """How often data went between host and device in this process so far: {name of COUNTERS: number}.

    The host waits for the copies 'to_device' and 'to_host'. Those 'for_operators', in either direction, are the fake's
    own: it has no kernels, so that every operator's operands go to the CPU and its results come back.
    """
    counts = (ctypes.c_long * len(COUNTERS))()
    ctypes.CDLL(os.path.join(build()[0], LIBRARY)).fake_counts(counts)        # the library that Paddle has loaded
    return dict(zip(COUNTERS, counts))
