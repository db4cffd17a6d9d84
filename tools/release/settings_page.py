#!/usr/bin/env python
"""Writes docs/SETTINGS.md and docs/SETTINGS_ch.md: every key of a config and every setting of every part.

    python tools/release/settings_page.py

Keys come from the table of structural keys, settings from the annotations of constructors, which are what is checked
when a part is built, and their meaning from the docstrings. A test compares the pages with what this makes.
"""

import inspect
import json
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.path.insert(0, ROOT)

from passl.datasets.builder import COMMON, DATASETS                         # noqa: E402
from passl.datasets.preprocess.builder import TRANSFORMS                    # noqa: E402
from passl.engine import builder as _engine                                 # noqa: E402, F401  all parts are registered
from passl.hooks.builder import HOOKS                                       # noqa: E402
from passl.modeling.architectures.builder import MODELS                     # noqa: E402
from passl.modeling.backbones.builder import BACKBONES                      # noqa: E402
from passl.modeling.dense.builder import CORRESPONDENCES, NEGATIVES         # noqa: E402
from passl.modeling.heads.builder import HEADS                              # noqa: E402
from passl.modeling.necks.builder import NECKS                              # noqa: E402
from passl.solver.builder import LRSCHEDULERS, OPTIMIZERS                   # noqa: E402
from passl.transfer.probes import best as _best                            # noqa: E402, F401  ProbeHook
from passl.utils.config.kinds import check_of                               # noqa: E402
from passl.utils.config.registry import settings_of                         # noqa: E402
from passl.utils.config.schema import describe                              # noqa: E402

PARTS = [('Models', '模型', 'model', MODELS), ('Backbones', '骨干网络', 'model.backbone', BACKBONES),
         ('Correspondences', '稠密损失的正样本', 'model.correspondence', CORRESPONDENCES),
         ('Negatives', '稠密损失的负样本', 'model.negatives', NEGATIVES),
         ('Necks', '投影头', 'model.neck', NECKS), ('Heads', '损失与分类头', 'model.head', HEADS),
         ('Data sets', '数据集', 'dataloader.train.dataset', DATASETS),
         ('Transforms', '数据变换', 'dataloader.train.dataset.transforms', TRANSFORMS),
         ('Optimizers', '优化器', 'optimizer', OPTIMIZERS), ('Schedules', '学习率策略', 'lr_scheduler', LRSCHEDULERS),
         ('Hooks', '钩子', 'custom_config', HOOKS)]
# built from sections of their own
GIVEN = {'backbone', 'neck', 'head', 'correspondence', 'negatives', 'parameters', 'grad_clip'}
WORDS = {
    'en': dict(title='Settings', switch='**English** | [简体中文](SETTINGS_ch.md)', intro=(
        'Every key of a config file, and every setting of the parts that it names. Made from the code by\n'
        '`tools/release/settings_page.py`: the rules are those that are checked when a config is read and a part is\n'
        'built. A setting stands beside the `name` of its part, for example `model.K` or `checkpoint.interval`;\n'
        '`-o KEY=VALUE` sets one from the command line.'),
        keys='Keys of a config', at='At `{}`.', row='| setting | value | default | meaning |',
        base='Settings of `{}` too.',
        paddle="Paddle's own class; its settings are in Paddle's documentation."),
    'ch': dict(title='设置', switch='[English](SETTINGS.md) | **简体中文**', intro=(
        '配置文件的全部键，以及其中各个部件的全部设置。本页由 `tools/release/settings_page.py` 从代码生成：\n'
        '所列规则就是读取配置、构建部件时检查的规则。设置写在部件的 `name` 旁边，\n'
        '例如 `model.K` 或 `checkpoint.interval`；也可以在命令行用 `-o KEY=VALUE` 设置。\n'
        '“含义”一栏取自代码中的说明，为英文。'),
        keys='配置的键', at='位于 `{}`。', row='| 设置 | 取值 | 默认值 | 含义 |', base='另有 `{}` 的设置。',
        paddle='Paddle 自带的类，其设置见 Paddle 的文档。')}


def meanings(cls):
    """{argument: text} of the section 'Args:' of a docstring."""
    found, names, section = {}, [], False
    for line in inspect.cleandoc(vars(cls).get('__doc__') or '').splitlines():
        entry = re.match(r' {4}([\w]+(?:, \w+)*): (.+)', line)
        if line in ('Args:', 'Attributes:'):
            section = True
        elif section and line and not line.startswith(' '):
            break
        elif section and entry:
            names = entry[1].split(', ')
            found.update({name: entry[2] for name in names})
        elif section and names and line.startswith(' ' * 8):
            found.update({name: f'{found[name]} {line.strip()}' for name in names})
    return found


def meaning(cls, name):
    """What the class or the next of its bases says of an argument; 'see X' only where nobody says more."""
    said = [meanings(c).get(name) for c in cls.__mro__ if c.__module__.startswith('passl.')]
    said = [s for s in said if s]
    return next((s for s in said if not s.startswith('see ')), said[0] if said else '')


def cell(text):
    return text.replace('|', '\\|').replace('\n', ' ')


def plain(value):
    return value._asdict() if hasattr(value, '_asdict') else value


def default_of(setting):
    if setting.default is inspect.Parameter.empty:
        return 'required'
    return f'`{json.dumps(setting.default)}`'


def part(cls, name, known, words):
    """The lines of one part: what it is, and a table of the settings that are its own."""
    first = inspect.cleandoc(cls.__doc__ or '').split('\n\n')[0].replace('\n', ' ')
    lines = ['', f'### {name}', '']
    settings = settings_of(cls)[0].values()
    if all(s.owner.__module__.startswith('paddle') for s in settings) and settings:
        return lines + [words['paddle']]
    rows, bases = [], []
    for setting in settings:
        owner = setting.owner.__qualname__.split('.')[0]
        if setting.name in GIVEN or (cls.__module__.startswith('passl.solver.opt') and setting.name == 'learning_rate'):
            continue
        if owner != name and owner in known:
            bases += [owner] if owner not in bases else []
            continue
        check = check_of(setting.kind)
        rule = check.rule if check else ''
        rows.append(f'| `{setting.name}` | {cell(rule)} | {cell(default_of(setting))} | '
                    f'{cell(meaning(cls, setting.name))} |')
    if name == 'ImageDataset':
        rows += [f'| `{key}` | {check_of(kind).rule} | `{json.dumps(plain(getattr(cls, key)))}` | '
                 f'{cell(meaning(cls, key))} |' for key, kind in COMMON.items()]
    lines.append(first)
    if bases:
        lines += ['', ' '.join(words['base'].replace('{}', base) for base in bases)]
    return lines + (['', words['row'], '|---|---|---|---|', *rows] if rows else [])


def page(language):
    """The text of the page in 'en' or 'ch'."""
    words = WORDS[language]
    lines = [f"# {words['title']}", '', words['switch'], '', words['intro'], '', f"## {words['keys']}", '']
    table = describe().rstrip('\n').splitlines()
    lines += [words['row'].replace('setting', 'key').replace('设置', '键'), *table[1:]]
    for english, chinese, where, registry in PARTS:
        lines += ['', f"## {english if language == 'en' else chinese}", '', words['at'].replace('{}', where)]
        classes = {name: registry.get(name) for name in registry.names()
                   if registry.get(name).__module__.partition('.')[0] in ('passl', 'paddle')}
        shared = {c.__name__: c for cls in classes.values() for c in cls.__mro__
                  if c.__name__ in ('ImageDataset', 'Hook') and c.__module__.startswith('passl.')}
        for name, cls in [*shared.items(), *classes.items()]:
            lines += part(cls, name, {*shared, *classes}, words)
    return '\n'.join(lines) + '\n'


def main():
    """Write both pages."""
    for language, name in (('en', 'SETTINGS.md'), ('ch', 'SETTINGS_ch.md')):
        with open(os.path.join(ROOT, 'docs', name), 'w', encoding='utf-8') as f:
            f.write(page(language))


if __name__ == '__main__':
    main()
