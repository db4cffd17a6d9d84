"""The pages: both languages agree, links lead somewhere, and the tools take the commands shown."""

import glob
import importlib.util
import os
import re
import shlex

import pytest

from passl.pictures.options import build_plot_parser, build_visualize_parser
from passl.planning.command import build_pretrain_parser
from passl.report.page import build_report_parser
from passl.transfer.embedding.command import build_embed_parser
from passl.transfer.probes.options import build_evaluate_parser
from passl.transfer.weights.command import build_export_parser, build_import_parser
from passl.transfer.paddleseg.options import build_seg_parser
from passl.transfer.paddledet.command import build_transfer_det_parser
from passl.utils.config import load_config
from passl.utils.errors import PasslError
from passl.utils.options import build_check_parser, build_env_parser, build_extract_parser, build_train_parser

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATTERNS = ('README*.md', 'SECURITY*.md', 'CONTRIBUTING*.md', 'docs/*.md', 'configs/**/*.md')
PAGES = sorted({os.path.relpath(f, ROOT) for p in PATTERNS
                for f in glob.glob(os.path.join(ROOT, p), recursive=True)})
ENGLISH = [p for p in PAGES if not p.endswith('_ch.md')]
FENCE = re.compile(r'^```(\w*)\n(.*?)^```$', re.M | re.S)
LINK = re.compile(r'\]\(([^)\s]+)\)')
CJK = re.compile(r'[\u4e00-\u9fff]')
VISUALIZE = 'tools/visualize.py'
STUDY = 'tools/studies/small_crops/study.py'
PARSERS = {'tools/train.py': build_train_parser, 'tools/pretrain.py': build_pretrain_parser,
           'tools/extract_weight.py': build_extract_parser, 'tools/plot_log.py': build_plot_parser,
           'tools/report.py': build_report_parser,
           'tools/check_data.py': build_check_parser,
           'tools/env.py': build_env_parser,
           'tools/evaluate.py': build_evaluate_parser, 'tools/embed.py': build_embed_parser,
           'tools/export_weights.py': build_export_parser, 'tools/import_weights.py': build_import_parser,
           'tools/transfer_seg.py': build_seg_parser,
           'tools/transfer_det.py': build_transfer_det_parser,
           'tools/pack_dataset.py': lambda: module_of('tools/pack_dataset.py').build_parser(),
           'tools/benchmark.py': lambda: module_of('tools/benchmark.py').build_parser(),
           STUDY: lambda: module_of(STUDY).build_parser(),
           'tools/release/gpu_kernels.py': lambda: module_of('tools/release/gpu_kernels.py').build_parser(),
           VISUALIZE: build_visualize_parser}
LAUNCH_FLAGS = {'--gpus', '--devices', '--nproc_per_node', '--master', '--nnodes', '--rank', '--log_dir'}


def module_of(path):
    """A tool as a module, to get at its parser."""
    spec = importlib.util.spec_from_file_location('tool_under_test', os.path.join(ROOT, path))
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read(page):
    with open(os.path.join(ROOT, page), encoding='utf-8') as f:
        return f.read()


def twin(page):
    return page[:-len('.md')] + '_ch.md'


def prose(text):
    """The page without its code blocks."""
    return FENCE.sub('', text)


def headings(text):
    return re.findall(r'^(#+) .+$', prose(text), re.M)


def slug(heading):
    """GitHub's anchor of a heading."""
    return re.sub(r'[^\w\- ]', '', heading.lower()).strip().replace(' ', '-')


def commands():
    """(page, command) of every line in a bash block."""
    return [(page, line) for page in PAGES for kind, block in FENCE.findall(read(page)) if kind == 'bash'
            for line in block.replace('\\\n', ' ').splitlines() if line.strip()]


def test_every_page_has_a_twin():
    assert len(ENGLISH) >= 11
    assert sorted(twin(p) for p in ENGLISH) == sorted(p for p in PAGES if p.endswith('_ch.md'))


@pytest.mark.parametrize('page', ENGLISH)
def test_languages_agree(page):
    english, chinese = read(page), read(twin(page))
    assert headings(english) == headings(chinese)
    assert FENCE.findall(english) == FENCE.findall(chinese)
    rows = [len(re.findall(r'^\|', prose(t), re.M)) for t in (english, chinese)]
    assert rows[0] == rows[1], 'tables of different length'
    # each page leads to the same pages, in its own language; the switch at the top leads to the twin
    links = [[link.replace('_ch.md', '.md') for link in LINK.findall(t)] for t in (english, chinese)]
    assert links[0] == links[1]
    assert [x for x in LINK.findall(english) if '_ch.md' in x] == [os.path.basename(twin(page))]
    to_english = [x for x in LINK.findall(chinese) if x.endswith('.md') and '_ch.md' not in x]
    assert to_english == [os.path.basename(page)]
    assert not CJK.search(prose(english).replace('简体中文', ''))
    assert len(CJK.findall(chinese)) > 60
    # a figure that stands in one language stands in the other
    assert sorted(set(re.findall(r'\d+\.\d+', english))) == sorted(set(re.findall(r'\d+\.\d+', chinese)))


@pytest.mark.parametrize('page', [p for p in PAGES if 'SETTINGS' not in p])
def test_no_paragraph_stands_twice(page):
    paragraphs = [p for p in re.split(r'\n\s*\n', prose(read(page))) if len(p) > 60]
    assert sorted(paragraphs) == sorted(set(paragraphs))


@pytest.mark.parametrize('page', [twin(p) for p in ENGLISH])
def test_chinese_text_has_chinese_punctuation(page):
    """Beside a Han character, and between other words of a line that has one; thousands, code, links' targets and
    comments stay as they are."""
    text = re.sub(r'`[^`]*`|\]\([^)\s]*\)|<!--.*?-->|https?://\S+', 'x', prose(read(page)), flags=re.S)
    assert re.findall(r'.{0,20}(?:[\u4e00-\u9fff][,;:!?(]|[,;:!?][\u4e00-\u9fff]).{0,20}', text) == []
    mixed = '\n'.join(line for line in text.splitlines() if CJK.search(line))
    assert re.findall(r'.{0,20}[\w)%](?:[,;](?=\w)(?<!\d,(?=\d{3}\b))|[,;:]$).{0,20}', mixed, re.M) == []


@pytest.mark.parametrize('page', PAGES)
def test_links_lead_somewhere(page):
    for link in LINK.findall(read(page)):
        if re.match(r'\w+:', link):
            continue
        path, _, anchor = link.partition('#')
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(ROOT, target)), f'{page}: {link}'
        if anchor:
            known = [slug(h) for h in re.findall(r'^#+ (.+)$', prose(read(target)), re.M)]
            assert anchor in known, f'{page}: {link}'


@pytest.mark.parametrize('page', PAGES)
def test_files_named_in_the_text_exist(page):
    for path in re.findall(r'`((?:passl|tools|configs|tests)/[\w/.]+\.(?:py|sh|yaml|md))`', read(page)):
        assert os.path.isfile(os.path.join(ROOT, path)), f'{page}: {path}'
    listed = re.findall(r'^\| `(\w+\.yaml)` \|', read(page), re.M) if page.startswith('configs') else []
    for name in listed:
        assert os.path.isfile(os.path.join(ROOT, os.path.dirname(page), name)), f'{page}: {name}'
    for path in re.findall(r'`((?:densecl|moco|simclr)/\w+\.yaml)`', read(page)):
        assert os.path.isfile(os.path.join(ROOT, 'configs', path)), f'{page}: {path}'


def check_launcher(words):
    """The launcher's own flags, before the script."""
    for word in words:
        if word.startswith('-'):
            assert word.split('=')[0] in LAUNCH_FLAGS, f'launcher flag {word}'


def check(command):
    """Parse a shown command with the parser of the tool that it starts."""
    words = shlex.split(command)
    if words[0] == 'passl':
        words = ['python', f'tools/{words[1]}.py'] + words[2:]
    if words[:2] == ['docker', 'build']:
        return os.path.isfile(os.path.join(ROOT, words[words.index('-f') + 1]))
    script = next((w for w in words if w.startswith('tools/')), None)
    if script is None:
        return False
    assert os.path.isfile(os.path.join(ROOT, script)), script
    at = words.index(script)
    if 'paddle.distributed.launch' in words:
        check_launcher(words[words.index('paddle.distributed.launch') + 1:at])
    rest = words[at + 1:]
    if script not in PARSERS or rest == ['--help']:
        return script in PARSERS or script.endswith('.sh')
    args = PARSERS[script]().parse_args(rest)
    if script == 'tools/train.py':
        if args.config_file.startswith('runs/'):            # what `passl pretrain` has written
            return True
        assert args.config_file.startswith('configs/')
        load_config(os.path.join(ROOT, args.config_file), args.override)
        # without a GPU the launcher takes a number of processes, with one it takes their numbers
        assert ('--nproc_per_node' in words) <= args.no_cuda
    return True


@pytest.mark.parametrize('page, command', commands())
def test_commands_are_ones_that_the_tools_take(page, command):
    first, *rest = shlex.split(command)
    if first == 'make':
        assert set(rest) <= set(re.findall(r'^(\w+):', read('Makefile'), re.M)), f'{page}: {command}'
        return
    assert check(command) or first in ('pip', '.', 'tail', 'visualdl') or command.startswith(
        ('python -m venv', 'python -c "import paddle', 'docker run')), f'{page}: nobody checks: {command}'


def test_the_check_sees_mistakes():
    for wrong in ('python tools/train.py -c configs/densecl/none.yaml',
                  'python tools/train.py -c configs/densecl/densecl_r50.yaml -o epoch=3',
                  'python tools/train.py --confg configs/densecl/densecl_r50.yaml',
                  'python tools/extract_weight.py a.pdparams', 'passl env --chekc',
                  'python -m paddle.distributed.launch --backend gloo tools/train.py '
                  '-c configs/moco/moco_v2_r50.yaml'):
        with pytest.raises((SystemExit, PasslError, AssertionError)):
            check(wrong)


@pytest.mark.parametrize('page', ['docs/OWN_DATA.md', 'docs/Train_DenseCL_model.md'])
def test_yaml_blocks_are_configs(page, tmp_path):
    blocks = [block for kind, block in FENCE.findall(read(page)) if kind == 'yaml']
    assert blocks
    for block in blocks:
        path = tmp_path / 'block.yaml'
        path.write_text(block, encoding='utf-8')
        assert load_config(str(path))


def test_readme_shows_the_recipe_and_the_two_commands():
    for page in ('README.md', 'README_ch.md'):
        lines = [line for p, line in commands() if p == page]
        assert 'bash tools/quickstart.sh' in lines and 'bash tools/run_tests.sh' in lines
        recipe = ' '.join(lines)
        for word in ('densecl_r50.yaml', 'extract_weight.py', '--pretrained', '--evaluate-only'):
            assert word in recipe
        assert read(page).count('<!-- measured:start -->') == read(page).count('<!-- measured:end -->') == 1


def test_the_dockerfile_copies_what_an_installation_reads():
    copied = ' '.join(re.findall(r'^COPY (.+) \S+$', read('docker/Dockerfile.gpu'), re.M)).split()
    assert all(os.path.exists(os.path.join(ROOT, name)) for name in copied)
    assert {'setup.py', 'setup.cfg', 'README.md', 'LICENSE', 'passl', 'tools', 'configs'} == set(copied)


@pytest.mark.parametrize('language, name', [('en', 'SETTINGS.md'), ('ch', 'SETTINGS_ch.md')])
def test_the_page_of_settings_is_what_the_code_checks(language, name):
    tool = module_of('tools/release/settings_page.py')
    assert tool.page(language) == read(f'docs/{name}'), 'run: python tools/release/settings_page.py'


def test_every_setting_of_ours_has_a_rule_and_a_meaning():
    rows = re.findall(r'^\| `([\w.]+)` \| (.*) \| (.*) \| (.*) \|$', read('docs/SETTINGS.md'), re.M)
    assert len(rows) > 150
    free = {'transforms', 'view_trans1', 'view_trans2'}             # lists of parts
    assert [key for key, rule, _, meaning in rows if not meaning or not (rule or key in free)] == []


PASSL_OF_PYPI = r"""pip install [^\n|;&`]*(?<![\w./])['"]?passl(?![\w./])"""


def test_what_is_to_be_installed_is_not_another_project():
    """`pip install passl` fetches a package of 2021; of this project's extras all that are named exist."""
    with open(os.path.join(ROOT, 'setup.py'), encoding='utf-8') as f:
        known = set(re.findall(r"^        '(\w+)': \[", f.read(), re.M))
    assert {'cpu', 'seg', 'regions', 'dev'} <= known
    named, wrong = set(), []
    for folder in ('', 'passl', 'docs', 'configs', 'tools', 'docker', '.ci'):
        for path in glob.glob(os.path.join(ROOT, folder, '**/*' if folder else '*'), recursive=bool(folder)):
            if not os.path.isfile(path) or not path.endswith(('.py', '.md', '.yaml', '.yml', '.sh', '.gpu', 'run')):
                continue
            with open(path, encoding='utf-8') as f:
                text = f.read()
            wrong += [f'{path}: {found}' for found in re.findall(PASSL_OF_PYPI, text)]
            for extras in re.findall(r"'\.\[(\w+(?:,\w+)*)\]'", text):
                named.update(extras.split(','))
    assert re.search(PASSL_OF_PYPI, "pip install 'passl[cpu]'") and re.search(PASSL_OF_PYPI, 'pip install -U passl')
    assert wrong == [] and {'cpu', 'regions', 'seg', 'onnx', 'gpu', 'test', 'dev'} <= named <= known
