"""Registries, building from a config node, and user code."""

import copy

import pytest

from passl.utils.config import registry as module
from passl.utils.errors import ConfigError, suggest
from passl.utils.config.registry import Registry, accepted_arguments, build_from_config, import_plugins


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
