"""Which unknown names of a pickle may stand for objects, and which say that the file is no weights.

Nothing is called either way. Refusing is a warning to the user: other readers of the same file do call what it names.
"""

import sys

# Python's own library and what runs or reads programs: its names are functions and classes that act.
_ACTING = {*getattr(sys, 'stdlib_module_names', ()),
           # not known to Python 3.9 in this way, of Python 2, and of libraries
           'builtins', 'os', 'posix', 'nt', 'sys', 'subprocess', 'shutil', 'socket', 'ctypes', 'importlib', 'runpy',
           'code', 'codecs', 'operator', 'functools', 'pickle', 'marshal', 'pty', 'pdb', 'timeit', 'webbrowser', 'io',
           'tempfile', 'platform', 'types', 'inspect', 'multiprocessing', 'threading', 'asyncio', 'concurrent',
           'signal', 'urllib', 'http', 'ftplib', 'smtplib', 'imaplib', 'xmlrpc', 'zipimport', 'pkgutil', 'bdb',
           'cProfile', 'profile', 'trace', 'doctest', 'unittest', 'venv', 'ensurepip', 'idlelib', 'distutils',
           'lib2to3', 'logging', 'gc', 'atexit', 'ast', 'dis', 'weakref', 'contextlib', 'collections', 'copy',
           'copyreg', 'dataclasses', 'posixpath', 'ntpath', 'genericpath', 'queue', 'select', 'selectors',
           'datetime', 'pathlib', 'argparse', 'decimal', 'fractions', 'uuid', 'random', 're', 'typing', 'enum',
           'itertools', '_operator', '_io', '_posixsubprocess', '_thread', '_pickle', '_codecs', 'antigravity',
           '__builtin__', 'commands', 'cPickle', 'copy_reg', 'urllib2', 'popen2', 'exceptions',
           'numpy', 'torch', 'paddle', 'tensorflow', 'jax', 'scipy', 'pandas', 'sklearn', 'joblib', 'dill',
           'cloudpickle', 'torchvision', 'onnx', 'onnxruntime', 'pip', 'setuptools', 'pkg_resources', 'wheel', 'pytest',
           '_pytest', 'IPython', 'fsspec', 'requests', 'yaml', 'cv2', 'PIL'}
# classes in there that hold values
_VALUES = {
    'argparse': {'Namespace'}, 'collections': {'deque', 'UserDict', 'UserList', 'ChainMap'},
    'copyreg': {'_reconstructor', '__newobj__', '__newobj_ex__'}, 'copy_reg': {'_reconstructor', '__newobj__'},
    'datetime': {'datetime', 'date', 'time', 'timedelta', 'timezone'}, 'decimal': {'Decimal'},
    'fractions': {'Fraction'}, 'types': {'SimpleNamespace'}, 'uuid': {'UUID', 'SafeUUID'}, 're': {'_compile'},
    'zoneinfo': {'ZoneInfo', 'ZoneInfo._unpickle'}, 'random': {'Random'},
    'torch': {'float16', 'float32', 'float64', 'bfloat16', 'int8', 'int16', 'int32', 'int64', 'uint8', 'bool',
              'float', 'half', 'double', 'long', 'complex64', 'complex128', 'strided', 'channels_last'},
    **{name: {'int', 'float', 'str', 'bytes', 'bytearray', 'bool', 'complex', 'list', 'object', 'range', 'slice',
              'long', 'xrange', 'unicode', 'type'}
       for name in ('builtins', '__builtin__')}}
for _module in ('pathlib', 'pathlib._local'):
    _VALUES[_module] = {'Path', 'PosixPath', 'WindowsPath', 'PurePath', 'PurePosixPath', 'PureWindowsPath'}
_VALUE_MODULES = ('torch.optim', 'numpy.random')


def is_data(module: str, name: str) -> bool:
    """Whether `module.name`, which the reader does not know, may stand in a weight file as an opaque value."""
    if name in _VALUES.get(module, ()):
        return True
    if '.' in name and any(part in _ACTING for part in name.split('.')):        # by way of a module that imports it
        return False
    return module.startswith(_VALUE_MODULES) or module.partition('.')[0] not in _ACTING
