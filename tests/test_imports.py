"""The import rule of docs/DESIGN.md, and what must be importable without Paddle."""

import ast
import functools
import graphlib
import os
import subprocess
import sys

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PARTS = {'modeling.backbones', 'modeling.necks', 'modeling.heads', 'modeling.dense'}
MAY_IMPORT = {      # each package, itself included implicitly
    'utils': set(),
    'modules': {'utils'},
    'modules.cpu': {'modules', 'utils'},
    'pictures': {'datasets', 'modules', 'utils'},
    'hooks': {'pictures', 'utils'},
    'datasets': {'modules', 'utils'},
    'solver': {'modules', 'utils'},
    'modeling.backbones': {'modules', 'utils'},
    'modeling.necks': {'modules', 'utils'},
    'modeling.heads': {'modules', 'utils'},
    'modeling.dense': {'modules', 'utils'},
    'modeling.architectures': PARTS | {'modules', 'utils'},
    'modeling': PARTS | {'modeling.architectures', 'modules', 'utils'},
    'engine': {'hooks', 'datasets', 'solver', 'modeling', 'modules', 'modules.cpu', 'utils',
               'modeling.architectures'} | PARTS,
}
MAY_IMPORT['transfer'] = MAY_IMPORT['environment'] = MAY_IMPORT['engine'] | {'engine', 'pictures'}
MAY_IMPORT['report'] = {'transfer', 'utils'}        # the tables of `passl evaluate`
MAY_IMPORT['planning'] = MAY_IMPORT['transfer'] | {'transfer', 'report'}
MAY_IMPORT['pictures.command'] = MAY_IMPORT['transfer'] | {'transfer'}
# within utils the three rooms know the small rest, and not each other; of the rest only these know a room
ROOMS = {'config', 'weights', 'distributed'}
KNOW_A_ROOM = {'run_log': 'config', 'checkpoint': 'weights', 'registry': 'config', 'dist': 'distributed'}


def package_of(module):
    """'passl.modeling.heads.clas_head' -> 'modeling.heads'; '' for passl itself and its command line."""
    parts = module.split('.')[1:]
    two = '.'.join(parts[:2])
    return two if two in MAY_IMPORT else parts[0] if parts and parts[0] in MAY_IMPORT else ''


def walk(node):
    """As ast.walk, without what only a type checker reads."""
    yield node
    for child in ast.iter_child_nodes(node):
        if not (isinstance(child, ast.If) and ast.unparse(child.test) == 'TYPE_CHECKING'):
            yield from walk(child)


def project_imports(tree, module, is_package):
    """Absolute names of the passl modules that a file imports, at any depth of the code."""
    for node in walk(tree):
        if isinstance(node, ast.Import):
            yield from (a.name for a in node.names if a.name.split('.')[0] == 'passl')
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ''
            if node.level:
                stem = module.split('.')[:len(module.split('.')) - node.level + is_package]
                base = '.'.join(stem + ([base] if base else []))
            if base.split('.')[0] == 'passl':
                # `from ..utils import dist` imports utils.dist, `from ..utils.dist import rank` too
                yield from (f'{base}.{a.name}' for a in node.names)


@functools.cache
def sources():
    """[(module, whether it is a package, its tree)] of passl."""
    found = []
    for folder, _, files in os.walk(os.path.join(ROOT, 'passl')):
        for name in sorted(f for f in files if f.endswith('.py')):
            path = os.path.join(folder, name)
            module = os.path.relpath(path, ROOT)[:-3].replace(os.sep, '.')
            with open(path, encoding='utf-8') as f:
                found.append((module.replace('.__init__', ''), name == '__init__.py', ast.parse(f.read(), path)))
    return found


def test_imports_point_one_way():
    wrong = []
    for module, is_package, tree in sources():
        here = package_of(module)
        for target in project_imports(tree, module, is_package):
            there = package_of(target)
            if target != 'passl.__version__' and here and there != here and there not in MAY_IMPORT[here]:
                wrong.append(f'{module} imports {target}')
    assert wrong == []


def wrong_within_utils(module, targets):
    """Those of `targets` that a module of passl.utils may not import."""
    here = module.split('.')[2] if module.count('.') > 1 else None
    rooms = {t.split('.')[2]: t for t in targets if t.split('.')[1] == 'utils' and t.split('.')[2] in ROOMS}
    return [t for room, t in rooms.items() if room not in (here, KNOW_A_ROOM.get(here))]


def test_the_rooms_of_utils_do_not_know_each_other():
    assert [(m, t) for m, is_package, tree in sources() if package_of(m) == 'utils'
            for t in wrong_within_utils(m, project_imports(tree, m, is_package))] == []
    assert wrong_within_utils('passl.utils.weights.load', ['passl.utils.errors.X', 'passl.utils.config.read']) == \
        ['passl.utils.config.read']
    assert wrong_within_utils('passl.utils.errors', ['passl.utils.weights.load']) == ['passl.utils.weights.load']


def test_the_former_place_of_dist_is_the_same_module():
    """So that a name replaced there is replaced."""
    from passl.utils import dist as former
    from passl.utils.distributed import dist
    assert former is dist


def test_no_circle():
    """Not even one that an import inside a function would hide. (An import for types alone makes none.)"""
    files = sources()
    names = {module for module, _, _ in files}
    graph = {module: {t if t in names else t.rpartition('.')[0] for t in project_imports(tree, module, is_package)}
             - {module} for module, is_package, tree in files}
    graphlib.TopologicalSorter(graph).prepare()
    graph['passl.utils.errors'].add('passl.utils.distributed.watch')
    with pytest.raises(graphlib.CycleError):
        graphlib.TopologicalSorter(graph).prepare()


def test_the_rule_sees_a_wrong_import():
    tree = ast.parse('def f():\n    from ..engine import trainer\n    from . import hook\n')
    assert list(project_imports(tree, 'passl.hooks.log', False)) == ['passl.engine.trainer', 'passl.hooks.hook']
    tree = ast.parse('from ..utils.paddle_env import require_paddle\nimport passl.engine')
    assert list(project_imports(tree, 'passl.hooks', True)) == ['passl.utils.paddle_env.require_paddle', 'passl.engine']
    assert package_of('passl.engine.trainer') == 'engine' and 'engine' not in MAY_IMPORT['hooks']
    tree = ast.parse('if TYPE_CHECKING:\n    from ..engine import trainer\nif True:\n    from . import hook\n')
    assert list(project_imports(tree, 'passl.hooks.log', False)) == ['passl.hooks.hook']


def without_types(node, front=''):
    """Names of the public functions and methods below `node` (none within functions) that lack an annotation."""
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.ClassDef):
            yield from without_types(child, f'{front}{child.name}.')
        elif not isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield from without_types(child, front)          # a function in an `if` or a `try`
        elif not child.name.startswith('_') or child.name in ('__init__', '__call__'):
            a = child.args
            given = [x for x in (*a.posonlyargs, *a.args, *a.kwonlyargs, a.vararg, a.kwarg) if x is not None]
            if front and given and given[0].arg in ('self', 'cls'):
                del given[0]
            if child.returns is None or any(x.annotation is None for x in given):
                yield front + child.name


def test_public_functions_are_annotated():
    """All but what PaddleDetection registers: it checks a config's values against these annotations itself."""
    left = [f"{module.replace('.', '/')}{'/__init__' * is_package}.py: {name}"
            for module, is_package, tree in sources() for name in without_types(tree)
            if not (module.endswith('paddledet.modules') and name.endswith('.__init__'))]
    assert left == [], '\n'.join(left)


def test_a_missing_annotation_is_seen():
    tree = ast.parse('def fine(a: int, *b: int, c: int = 0) -> None: ...\n'
                     'def _own(a): ...\n'
                     'def no_return(): ...\n'
                     'try:\n    def keyword(*, a) -> None: ...\n'
                     'finally: ...\n'
                     'class A:\n'
                     '    def __init__(self, a): ...\n'
                     '    def fine(self) -> None:\n        def within(a): ...\n'
                     '    @staticmethod\n    def static(a) -> None: ...\n'
                     '    class B:\n        def rest(self, **a) -> None: ...\n')
    assert list(without_types(tree)) == ['no_return', 'keyword', 'A.__init__', 'A.static', 'A.B.rest']


def test_only_two_rooms_touch_paddle_distributed():
    found = set()
    for module, _, tree in sources():
        for node in ast.walk(tree):
            names = [a.name for a in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom) and not node.level:
                names = [f'{node.module}.{a.name}' for a in node.names]
            if isinstance(node, ast.Attribute) and node.attr == 'distributed':
                names = [ast.unparse(node)]
            if any(n == 'paddle.distributed' or n.startswith('paddle.distributed.') for n in names):
                found.add(module)
    assert found == {'passl.utils.distributed.world', 'passl.utils.distributed.exchange'}


def test_package_code_neither_prints_nor_evaluates():
    found = []
    for module, _, tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Call) and getattr(node.func, 'id', None) in ('print', 'eval', 'exec'):
                found.append(f'{module}:{node.lineno} {node.func.id}')
    assert found == []


HIDE_PADDLE = """
import sys

class Hide:
    def find_spec(self, name, path=None, target=None):
        if name.split('.')[0] == 'paddle':
            raise ModuleNotFoundError("No module named 'paddle'", name='paddle')

sys.meta_path.insert(0, Hide())
"""


def without_paddle(code, *argv):
    return subprocess.run([sys.executable, '-c', HIDE_PADDLE + code, *argv], cwd=ROOT, text=True,
                          capture_output=True, timeout=120)


EACH_ALONE = """
import importlib, traceback
for name in sys.argv[1:]:
    for known in [m for m in sys.modules if m.split('.')[0] == 'passl']:
        del sys.modules[known]
    try:
        importlib.import_module(name)
        print(name, 'fine', 'paddle' in sys.modules)
    except Exception as e:
        print(name, str(e).replace(chr(10), ' '))
"""


def test_importable_without_paddle():
    modules = ['passl', 'passl.cli', 'passl.utils.config', 'passl.utils.config.schema', 'passl.utils.options',
               'passl.utils.config.registry', 'passl.utils.errors', 'passl.utils.weights.checkpoint',
               'passl.utils.weights', 'passl.utils.weights.extract', 'passl.transfer.weights.command',
               'passl.environment.command', 'passl.report', 'passl.utils.health', 'passl.utils.language',
               'passl.utils.logger', 'passl.pictures.curves', 'passl.pictures.painter', 'passl.pictures.options',
               'passl.utils.misc']
    done = without_paddle(EACH_ALONE, *modules)
    assert done.stdout.splitlines() == [f'{m} fine False' for m in modules], done.stdout + done.stderr


def test_what_needs_paddle_says_how_to_install_it():
    packages = [f'passl.{p}' for p in ('modules', 'modeling', 'solver', 'datasets', 'engine')]
    lines = without_paddle(EACH_ALONE, *packages).stdout.splitlines()
    assert [line.split()[0] for line in lines] == packages
    assert all('PaddlePaddle is not installed' in line and "pip install -e '.[cpu]'" in line
               and 'paddlepaddle-gpu' in line for line in lines), lines


def test_a_model_does_not_reach_the_kernels_of_a_cpu():
    code = 'import sys, passl.modeling.architectures.densecl, passl.hooks; from passl.modules import kernels; ' \
           'found = lambda: ["passl.modules.cpu" in sys.modules, *sorted(kernels._choosers)]; print(*found()); ' \
           'import passl.engine; print(*found())'
    done = subprocess.run([sys.executable, '-c', code], cwd=ROOT, text=True, capture_output=True)
    assert done.stdout.splitlines() == ['False', 'True exp_ resnet'], done.stderr


def test_command_line_without_paddle():
    version = without_paddle('from passl.cli import main; sys.exit(main())', '--version')
    assert version.returncode == 0 and version.stdout.startswith('passl ')
    train = without_paddle('from passl.cli import main; sys.exit(main())', 'train', '-c',
                           'configs/densecl/densecl_r50.yaml')
    assert train.returncode == 2 and 'Traceback' not in train.stderr
    assert train.stderr.startswith('error: PaddlePaddle is not installed')
