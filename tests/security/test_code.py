"""No door to execution in passl/ and tools/ but those named here, each with its reason."""

import ast
import os

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MODULES = {'pickle', 'cPickle', 'dill', 'joblib', 'shelve', 'marshal', 'subprocess', 'importlib', 'runpy', 'code',
           'ctypes', 'imp', 'pty', 'commands', 'socket', 'urllib', 'http', 'requests', 'xml',
           'multiprocessing.connection'}
CALLS = {'eval', 'exec', 'compile', '__import__', 'input', 'breakpoint', 'getattr', 'setattr', 'globals', 'vars'}
ATTRIBUTES = {      # attribute -> the objects on which it is forbidden; None: all
    'system': {'os'}, 'popen': {'os'}, 'execv': {'os'}, 'spawnv': {'os'},
    'load': {'np', 'numpy', 'paddle', 'yaml', 'pickle', 'torch', 'joblib'},
    'loads': {'pickle', 'marshal'}, 'unsafe_load': None, 'full_load': None, 'load_all': {'yaml'}, 'extractall': None,
    'extract': {'tar', 'zip', 'archive', 'z'}, 'unpack_archive': None, 'literal_eval': None, 'format_map': None,
    'fromfile': {'np', 'numpy'}, 'genfromtxt': None, 'safe_load': {'yaml'}, 'set_flags': {'paddle'}, 'Unpickler': None}
# {file: {what: reason}}
ALLOWED = {
    'passl/__init__.py': {'importlib': 'a module of this package, by its name in the file'},
    'passl/utils/config/registry.py': {
        'importlib': 'code of the user, after consent (engine.run.permitted_imports), and installed entry points',
        'vars': 'whether a class defines a constructor'},
    'passl/cli.py': {'setattr': 'the streams of this process, by names in the file',
                     'importlib': 'modules of this package, by the table in the file'},
    'passl/datasets/labelled/checked.py': {'load': 'np.load(allow_pickle=False) of what was remembered'},
    'passl/transfer/probes/results.py': {'load': 'np.load(allow_pickle=False) of what this command has measured'},
    'passl/transfer/lost.py': {'ctypes': 'a number in memory that forked processes share'},
    'passl/transfer/paddledet/data.py': {'xml': 'escaping of texts that are written'},
    'passl/utils/weights/checkpoint.py': {'pickle': 'writing; reading goes through safe_pickle'},
    'passl/utils/paddle_env.py': {'ctypes': "mallopt of the C library, no outside input"},
    'passl/pictures/painter.py': {'subprocess': 'starts this very file, whose input is arrays of this process',
                                  'load': 'np.load(allow_pickle=False) of these arrays'},
    'passl/environment/child.py': {'subprocess': 'starts this very file, with names of checks'},
    'passl/environment/processes.py': {'subprocess': "starts pair.py of this package by Paddle's launcher"},
    'passl/environment/pair.py': {'ctypes': 'prctl of the C library'},
    'passl/environment/facts.py': {'subprocess': 'git describe and nvidia-smi, with fixed arguments',
                                   'importlib': 'versions of packages that are named in the file'},
    'passl/engine/device.py': {'set_flags': 'one flag by its name in the file: deterministic convolutions'},
    'passl/modules/cpu/onednn.py': {'ctypes': "the library inside Paddle's wheel",
                                'getattr': 'its functions, by names in this file'},
    'passl/transfer/probes/worth.py': {'vars': 'the flags as the parser has read them, of which some are filled in'},
    'passl/transfer/embedding/command.py': {'vars': 'the flags as the parser has read them'},
    'passl/transfer/probes/command.py': {'vars': 'the flags as the parser has read them, for the record'},
    'passl/datasets/base.py': {'vars': 'whether a class defines `load`; nothing is looked up by a name from outside'},
    'passl/utils/files.py': {'socket': 'the name of this machine'},
    'passl/utils/distributed/watch.py': {'socket': 'the name of this machine'},
    'passl/datasets/loader.py': {'ctypes': 'prctl of the C library'},
    'passl/datasets/labelled/voc_xml.py': {
        'xml': 'expat alone; a DOCTYPE, where entities are declared, is refused (test_voc_xml.py)'},
    'passl/datasets/builder.py': {'setattr': 'settings that all data sets have, from a table in the file'},
    'passl/datasets/pool.py': {'multiprocessing.connection': 'waiting for own workers'},
    'passl/datasets/worker_watch.py': {'multiprocessing.connection': 'waiting for the end of own workers'},
    'passl/transfer/weights/proof.py': {'importlib': 'versions of installed packages (importlib.metadata)'},
    'passl/transfer/weights/libraries.py': {'load': 'torch.load(weights_only=True) of the file that was just written'},
    'passl/transfer/paddledet/shim.py': {'importlib': 'asks whether PaddleDetection is installed; imports nothing'},
    'passl/transfer/paddledet/config.py': {
        'vars': "classes of PaddleDetection's registry, schedules and transforms, by names compared with them before"},
}
# getattr with a name from outside is a door; with one from the code it is none
GETATTR = {'passl/__init__.py': 'functions of this package, by names in the file',
           'passl/cli.py': 'the streams of this process, and functions by the table in the file',
           'passl/environment/arithmetic.py': 'names of switches in the file',
           'passl/environment/checks.py': 'names of checks in the file',
           'passl/environment/mixed_precision.py': 'float16 or bfloat16',
           'passl/engine/trainer.py': 'names of hook points, all in the file',
           'passl/modules/feature_queue.py': "the queue's name, given by the architecture",
           'passl/utils/options.py': 'destinations of the parser',
           'passl/transfer/paddleseg/run.py': 'destinations of the parser'}
TOOLS = {'subprocess', 'importlib', 'ctypes', 'multiprocessing.connection', 'getattr', 'setattr', 'vars', 'socket'}
# what only developers start
TOOL_FILES = ('tools/benchmark.py', 'tools/benchmarks/', 'tools/quickstart.py', 'tools/release/', 'tools/studies/')


def paths():
    for top in ('passl', 'tools'):
        for folder, _, files in os.walk(os.path.join(ROOT, top)):
            yield from (os.path.relpath(os.path.join(folder, f), ROOT) for f in files if f.endswith('.py'))


def parsed(path):
    with open(os.path.join(ROOT, path), encoding='utf-8') as f:
        return ast.parse(f.read(), path)


def doors(tree):
    """(line, what) of every door to execution in a file."""
    for node in ast.walk(tree):
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else \
                [node.module or ''] + [f'{node.module}.{a.name}' for a in node.names] if not node.level else []
            for name in names:
                first = name.split('.')[0]
                if first in MODULES or name in MODULES:
                    yield node.lineno, first if first in MODULES else name
        elif isinstance(node, ast.Call):
            function = node.func
            if isinstance(function, ast.Name) and function.id in CALLS:
                by_constant = function.id in ('getattr', 'setattr') and len(node.args) > 1 and known_text(node.args[1])
                if not by_constant:
                    yield node.lineno, function.id
            elif isinstance(function, ast.Attribute):
                owner = function.value.id if isinstance(function.value, ast.Name) else ''
                owners = ATTRIBUTES.get(function.attr, set())
                if owners is None or owner in owners:
                    yield node.lineno, function.attr
                if function.attr == 'format' and not isinstance(function.value, ast.Constant) and owner != 'self':
                    yield node.lineno, 'format with a pattern that is not in the code'
            for word in node.keywords:
                if word.arg == 'shell' or word.arg == 'allow_pickle' and getattr(word.value, 'value', True):
                    yield node.lineno, word.arg
                if word.arg == 'Loader' or word.arg == 'filter' and getattr(word.value, 'value', '') == 'fully_trusted':
                    yield node.lineno, word.arg


def known_text(node):
    """A text in the code, or an f-string with such a beginning (`layer{n}`): not a name from outside."""
    return isinstance(node, ast.Constant) or isinstance(node, ast.JoinedStr) and isinstance(node.values[0],
                                                                                            ast.Constant)


def test_no_door_but_those_listed():
    found, used = [], set()
    for path in sorted(paths()):
        for line, what in doors(parsed(path)):
            if what in ALLOWED.get(path, {}):
                used.add((path, what))
            elif what == 'getattr' and path in GETATTR:
                used.add((path, 'getattr'))
            elif not (what in TOOLS and path.startswith(TOOL_FILES)):
                found.append(f'{path}:{line} {what}')
    assert found == []
    listed = {(p, w) for p, entries in ALLOWED.items() for w in entries} | {(p, 'getattr') for p in GETATTR}
    assert listed - used == set(), 'no longer needed'


@pytest.mark.parametrize('code', [
    'eval(x)', 'exec(x)', 'import pickle', 'from pickle import load', 'import os\nos.system(x)',
    'np.load(x, allow_pickle=True)',
    'np.load(x)', 'yaml.load(x)', 'yaml.unsafe_load(x)', 'yaml.safe_load(x)', 'import subprocess', 'run(x, shell=True)',
    '__import__(x)', 'import importlib.util', 'from importlib import import_module', 'getattr(x, name)',
                                  'paddle.load(x)',
    'torch.load(x)', 'x.format(y)', 'tar.extractall(x)', 'zip.extract(x)', 'ast.literal_eval(x)',
                                  'def f():\n import ctypes',
    'getattr(x, f"{y}")', 'from multiprocessing.connection import Client', 'pickle.Unpickler(x)', 'import marshal'])
def test_the_rule_sees_each_door(code):
    assert list(doors(ast.parse(code)))


@pytest.mark.parametrize('code', ['getattr(x, "name", None)', 'getattr(x, f"layer{y}")', '"{}".format(x)',
                                  'model.eval()', 'json.load(x)',
                                  'load_file(x)', 'import os', 'from .safe_pickle import SafeUnpickler', 'np.load'])
def test_the_rule_leaves_the_rest_alone(code):
    assert not list(doors(ast.parse(code)))


def test_every_file_that_the_readers_need_is_free_of_doors():
    """Nothing that reads checkpoints, configs or lists has one, whatever the list above says."""
    readers = [f'weights/{n}' for n in ('safe_pickle', 'safe_arrays', 'safetensors_file', 'torch_reader', 'load')]
    readers += ['config/yaml_text', 'config/read']
    data = ('image_list', 'listing', 'path_list', 'packed', 'cifar', 'folder', 'image')
    wanted = {f'passl/utils/{n}.py' for n in readers} | {f'passl/datasets/{n}.py' for n in data}
    # image.py asks OpenCV for a constant by a name in the code, which is none; yaml's Dumper is no door
    assert {path: found for path in wanted if (found := list(doors(parsed(path))))} == {}
