"""The notebook's cells run one after the other, on few images and for seconds, and show what they promise."""

import json
import os
import re
import subprocess
import sys
import types

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PAGE = os.path.join(ROOT, 'docs', 'notebooks', 'first_steps.ipynb')


def cells():
    with open(PAGE, encoding='utf-8') as f:
        page = json.load(f)
    assert page['nbformat'] == 4
    return page['cells']


def test_outputs_are_not_kept():
    code = [c for c in cells() if c['cell_type'] == 'code']
    assert all(c['outputs'] == [] and c['execution_count'] is None for c in code)
    assert [c['metadata'] for c in code] == [{'tags': ['install']}] + [{}] * (len(code) - 1)


@pytest.mark.slow
def test_the_cells_run(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv('PYTHONPATH', ROOT)
    shown, programs = [], {'passl': [sys.executable, '-m', 'passl'], 'python': [sys.executable]}
    display = types.ModuleType('IPython.display')
    display.Image = lambda path: open(path, 'rb').read()
    display.display = shown.append
    shell_of = types.ModuleType('IPython')
    shell_of.version_info, shell_of.get_ipython = (8, 0), lambda: None          # matplotlib asks for them
    monkeypatch.setitem(sys.modules, 'IPython', shell_of)
    monkeypatch.setitem(sys.modules, 'IPython.display', display)

    def shell(line):
        program, *words = line.split()
        assert subprocess.call([*programs[program], *words]) == 0, line
    names = {'shell': shell}
    for cell in cells():
        if cell['cell_type'] != 'code' or 'install' in cell['metadata'].get('tags', ()):
            continue
        source = re.sub(r'^!(.*)$', r"shell(f'\1')", ''.join(cell['source']), flags=re.M)
        source, tiny = re.subn(r'IMAGES, HOURS = 400, 0\.1 ', 'IMAGES, HOURS = 20, 0.0005 ', source)
        exec(compile(source, PAGE, 'exec'), names)      # noqa: S102  our own page
    said = capfd.readouterr().out
    assert said.count('The plan, and why') == 2 and 'ResNet 512' in said and '(20, 512)' in said
    assert 'instead of random' in said and len(shown) == 2 and all(s.startswith(b'\x89PNG') for s in shown)
    assert os.path.getsize('output_dir/notebook/backbone.pth') > 40e6
    assert os.path.isfile('output_dir/notebook/run/report.html')
