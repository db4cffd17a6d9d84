"""Registries, building from a config node, and user code."""

import copy
import math
from typing import Any, Literal, Optional, Union

import pytest

from passl.utils.config import kinds
from passl.utils.config import registry as module
from passl.utils.errors import ConfigError, suggest
from passl.utils.config.registry import Registry, accepted_arguments, build_from_config, import_plugins, settings_of


class Net:
    def __init__(self, depth, width=1, *, part=None):
        self.depth, self.width, self.part = depth, width, part


class Anything:
    def __init__(self, **settings):
        self.settings = settings


@pytest.fixture
def nets():
    table = Registry('backbone')
    table.register(Net)
    table.register(Anything)
    return table


def message(call, *args, **kwargs):
    with pytest.raises(ConfigError) as caught:
        call(*args, **kwargs)
    return str(caught.value)


def test_register_as_decorator_call_and_under_a_name():
    table = Registry('hook')

    @table.register()
    class A:
        pass

    @table.register
    class B:
        pass

    @table.register(name='Other')
    class C:
        pass

    def function():
        pass

    assert table.register(function) is function
    assert table.names() == ['A', 'B', 'Other', 'function']
    assert table.get('A') is A and table.get('B') is B and table.get('Other') is C
    assert 'C' not in table and 'Other' in table
    assert repr(table) == 'Registry(hook: A, B, Other, function)'


def test_a_name_is_taken_once(nets):
    assert nets.register(Net) is Net          # the same class again is no conflict
    assert "backbone 'Net' is registered twice" in message(nets.register, Anything, name='Net')


def test_a_miss_names_the_nearest_or_all(nets):
    assert message(nets.get, 'Nett') == "Unknown backbone 'Nett'. Did you mean 'Net'?"
    assert message(nets.get, 'zzz') == "Unknown backbone 'zzz'. Known: Anything, Net."
    assert message(Registry('neck').get, 'x') == "Unknown neck 'x'. Nothing is known here."
    assert suggest('zzz', map(str, range(30)), limit=2) == 'Known: 0, 1, ... (30 in all).'


def test_accepted_arguments():
    assert accepted_arguments(Net) == ({'depth', 'width', 'part'}, {'depth'}, False)
    assert accepted_arguments(Anything) == (set(), set(), True)
    assert accepted_arguments(lambda a, *rest, b: 0) == ({'a', 'b'}, {'a', 'b'}, False)


def test_build_passes_arguments_and_given_parts(nets):
    cfg = {'name': 'Net', 'depth': 50}
    before = copy.deepcopy(cfg)
    net = build_from_config(cfg, nets, part='built')
    assert (net.depth, net.width, net.part) == (50, 1, 'built') and cfg == before
    assert build_from_config({'name': 'Anything', 'x': 1}, nets, y=2).settings == {'x': 1, 'y': 2}


@pytest.mark.parametrize('cfg, text', [
    ({'name': 'Net', 'depht': 50},
     "'model.backbone.depht': Net has no setting 'depht'. Did you mean 'depth'?"),
    ({'name': 'Net', 'depth': 50, 'part': 1}, "'model.backbone.part': Net has no setting 'part'."),
    ({'name': 'Net'}, "'model.backbone': Net needs depth. Add it below 'model.backbone'."),
    ({'name': 'Nte'}, "'model.backbone.name': Unknown backbone 'Nte'. Did you mean 'Net'?"),
    ({'depth': 50}, "'model.backbone' needs a 'name'. Known: Anything, Net."),
    ('Net', "'model.backbone' must be a mapping with a 'name', not 'Net'."),
    (None, "'model.backbone' must be a mapping with a 'name', not None."),
])
def test_build_errors(nets, cfg, text):
    assert message(build_from_config, cfg, nets, 'model.backbone', part='given').startswith(text)


def test_given_parts_are_not_missing(nets):
    assert build_from_config({'name': 'Net'}, nets, depth=3).depth == 3


def test_custom_imports_from_a_file_and_a_module(tmp_path, monkeypatch):
    monkeypatch.setattr(module.metadata, 'entry_points', lambda: {})
    import builtins
    (tmp_path / 'own.py').write_text(
        'import builtins\nbuiltins.own_loads = getattr(builtins, "own_loads", 0) + 1\n')
    try:
        import_plugins('own.py', base_dir=str(tmp_path))
        import_plugins(['own.py', 'json'], base_dir=str(tmp_path))
        assert builtins.own_loads == 1          # once per process: registering twice would be an error
    finally:
        del builtins.own_loads
    import_plugins(None)
    text = message(import_plugins, ['nobody.py'], base_dir=str(tmp_path))
    assert f"no file '{tmp_path / 'nobody.py'}'" in text and 'relative to the config' in text
    assert "no module 'no_such_module_here'" in message(import_plugins, ['no_such_module_here'])


def test_a_custom_file_that_fails_may_be_mended_and_imported_again(tmp_path, monkeypatch):
    monkeypatch.setattr(module.metadata, 'entry_points', lambda: {})
    (tmp_path / 'own.py').write_text('raise ValueError("mine")')
    with pytest.raises(ValueError, match='mine'):
        import_plugins(['own.py'], base_dir=str(tmp_path))
    (tmp_path / 'own.py').write_text('x = 1  # mended')
    import_plugins(['own.py'], base_dir=str(tmp_path))


def test_installed_entry_points_are_loaded(monkeypatch):
    loaded = []

    class EntryPoint:
        def load(self):
            loaded.append(True)

    class New:
        def select(self, group):
            return [EntryPoint()] if group == 'passl.plugins' else []

    for table in (New(), {'passl.plugins': [EntryPoint()], 'other': [None]}):
        monkeypatch.setattr(module.metadata, 'entry_points', lambda table=table: table)
        import_plugins()
    assert loaded == [True, True]


# ------------------------------------------------------------------------------------------ kinds of settings

@pytest.mark.parametrize('kind, good, bad, rule', [
    (kinds.Count, [1, 10**9], [0, -1, 1.0, True, '1', None], 'a whole number of 1 or more'),
    (kinds.Whole, [0, 7], [-1, 0.0, False], 'a whole number of 0 or more'),
    (kinds.Flag, [True, False], [0, 1, 'true', None], 'true or false'),
    (kinds.Share, [0, 0.5, 1], [-0.1, 1.1, True, math.nan, '0.5'], 'a number from 0 to 1'),
    (kinds.Positive, [1e-9, 3], [0, -1, math.inf, math.nan], 'a number above 0'),
    (kinds.Within, [0.5], [0, 1], 'a number above 0 and below 1'),
    (kinds.Text, ['a'], ['', ' ', 1], 'text (in quotes if it looks like a number)'),
    (Optional[kinds.Count], [None, 1], [0, 'x'], 'a whole number of 1 or more, or null'),
    (Union[kinds.Positive, kinds.Texts], [2, ['a'], []], ['a', 0], 'a number above 0 or a list of texts'),
    (Literal['auto', 'off'], ['auto'], ['on', False, None],
     'one of auto, off (YAML reads a bare on or off as true or false: write it in quotes)'),
    (Literal['auto', 'off', False], ['off', False], [0, True], 'one of auto, off, false'),
    (Literal[0, 1], [0, 1], [False, True, 1.0], 'one of 0, 1'),
    (bool, [True], [1], 'true or false'), (int, [-3], [1.5, True], 'a whole number'),
    (float, [1, 2.5], [True, math.nan, '1'], 'a number'),
    (str, ['x'], [1], 'text (in quotes if it looks like a number)'),
    (Optional[dict], [{}, None], [[]], 'a mapping, or null')])
def test_what_kinds_accept(kind, good, bad, rule):
    check = kinds.check_of(kind)
    assert check.rule == rule
    assert [v for v in good if not check.accepts(v)] == [] == [v for v in bad if check.accepts(v)]


@pytest.mark.parametrize('kind', [Any, object, Optional[object], list, 'text', None, Union[int, list]])
def test_other_annotations_say_nothing(kind):
    assert kinds.check_of(kind) is None


def test_annotations_of_own_parts_are_checked():
    registry = Registry('part')

    @registry.register()
    class Plain:
        def __init__(self, rate: float, steps: 'int' = 3, odd: 'NowhereDefined' = None, **more):     # noqa: F821
            self.given = rate, steps, odd, more

    built = build_from_config({'name': 'Plain', 'rate': 1, 'odd': 'any', 'extra': [1]}, registry, 'part')
    assert built.given == (1, 3, 'any', {'extra': [1]})
    for key, value, rule in (('rate', '0.1', 'a number'), ('rate', None, 'a number')):
        with pytest.raises(ConfigError, match=f"'part.{key}' must be {rule}, not {value!r}"):
            build_from_config({'name': 'Plain', 'rate': 1, **{key: value}}, registry, 'part')


def test_settings_that_a_constructor_hands_on():
    from passl.datasets.builder import DATASETS
    settings, anything = settings_of(DATASETS.get('ImageNet'))
    assert list(settings)[:3] == ['dataroot', 'return_label', 'classes'] and 'max_bad' in settings and not anything
    assert settings['return_label'].default is False                # its own, not that of ImageFolder
    with pytest.raises(ConfigError, match="'d.max_bat': ImageNet has no setting 'max_bat'. Did you mean 'max_bad'"):
        build_from_config({'name': 'ImageNet', 'dataroot': 'x', 'max_bat': 1}, DATASETS, 'd')
