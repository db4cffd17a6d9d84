"""Compare the dense losses at small crops on real photographs: see --help, and docs/BENCHMARKS.md.

    python tools/studies/small_crops/study.py --data data --output output_dir/small_crops

The same command again goes on where it was stopped. The table so far is in results.md, drawn in results.png, and
everything in results.json.
"""

import argparse
import json
import os
import shlex
import subprocess
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.dirname(os.path.dirname(os.path.dirname(HERE)))
sys.path[:0] = [ROOT, os.path.dirname(os.path.dirname(HERE))]       # a clone works uninstalled

from studies.small_crops import prepare, table  # noqa: E402

from passl.cli import guarded  # noqa: E402
from passl.utils.config.yaml_text import parse_yaml  # noqa: E402
from passl.utils.errors import PasslError  # noqa: E402
from passl.utils.files import replace_text  # noqa: E402


class StudyError(PasslError):
    """A command of the study failed, or its folder holds another study."""


def build_parser():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0], allow_abbrev=False)
    parser.add_argument('--data', metavar='DIR', required=True, help='folder that holds clothing10, ccp59 and nuclei')
    parser.add_argument('--output', metavar='DIR', default='output_dir/small_crops', help='default: %(default)s')
    parser.add_argument('--study', metavar='FILE', default=os.path.join(HERE, 'study.yaml'),
                        help='arms, stages and probes (default: study.yaml beside the program)')
    parser.add_argument('-o', dest='override', metavar='KEY=VALUE', action='append', default=[],
                        help='a setting of all trainings, such as use_amp=true; repeatable')
    return parser


class Run:
    """One training of the study: an arm, settings that it varies, a seed."""

    def __init__(self, arm, seed, vary, study):
        self.arm, self.seed, self.study = arm, seed, study
        spec = study['arms'][arm]
        self.config = spec['config']
        self.set = {**(spec.get('set') or {}), **vary}
        self.steps = self.set.get('total_iters', study['steps'])
        self.name = '_'.join([arm, *(f'{k.rpartition(".")[2]}{v}' for k, v in vary.items()), f's{seed}'])

    def overrides(self, data, made, images):
        """What -o gives the training: data, schedule, settings of the arm."""
        part = 'dataloader.train.dataset.'
        own = {part + 'dataroot': data, part + 'list_file': f'{made}/pool.txt'}
        if self.config == 'supervised':
            own = {part + 'dataroot': f'{data}/clothing10/train'}
        if self.set.get('model.correspondence') == 'Regions':
            own[part + 'regions.cache'] = f'{made}/regions.bin'
        per_epoch = images // self.set.get('dataloader.train.sampler.batch_size', self.study['batch'])
        whole = max(self.steps, self.study['steps'])        # a shorter run is the beginning of one of that length
        return {'total_iters': self.steps, 'seed': self.seed, 'lr_scheduler.T_max': whole / per_epoch,
                'lr_scheduler.warmup_steps': self.study['warmup'] / per_epoch, **own, **self.set}


class Study:
    """The folder of a study and what is done in it."""

    def __init__(self, args):
        with open(args.study, encoding='utf-8') as f:
            self.study = parse_yaml(f.read(), args.study)
        self.data, self.out, self.more = os.path.abspath(args.data), os.path.abspath(args.output), args.override
        self.made = os.path.join(self.out, 'data')
        self.runs, self.probed = [], []        # Runs; names of those with figures
        self.shown = 0                         # so many of the runs are measured and written down
        self.starts = {f'random_s{k}': f'random:{k}' for k in range(self.study['starts'])}
        self.images = prepare.prepare(self.data, self.made, self.study['classes'])
        self.labelled = len(prepare.files_below(self.data, prepare.POOL[:1]))

    def place(self, *parts):
        path = os.path.join(self.out, *parts)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        return path

    def do_all(self):
        """Every run of every stage, each measured as soon as it is trained; those of former times together."""
        self.measure_start()
        for stage in self.study['stages']:
            if any(arm.startswith('best') for arm in stage['arms']):
                self.show()
            for run in self._runs_of(stage):
                if run.name in [r.name for r in self.runs]:         # a former stage has it
                    continue
                new = self.train(run)
                self.runs.append(run)
                if stage.get('probe', True):
                    self.probed.append(run.name)
                if new:
                    self.show()
                    self._tell(run)
        self.show()

    def show(self):
        """Measure and write down what is not yet."""
        if self.shown != len(self.runs):
            self.shown = len(self.runs)
            self.probe()
            table.write(self, *(self.place(f'results.{end}') for end in ('json', 'md', 'png')))

    def _runs_of(self, stage):
        arms = [self._best(int(a[4:])) if a.startswith('best') else a for a in stage['arms']]
        return [Run(arm, seed, vary, self.study) for vary in stage.get('vary', [{}]) for seed in stage['seeds']
                for arm in dict.fromkeys(arms)]

    def _best(self, place):
        """The name of the candidate with the `place`-th highest figure of the first column."""
        seen = {r.arm: table.figure(self.figures(), r.name, self.study['columns'][0])['mean'] for r in self.runs
                if r.name == f'{r.arm}_s0' and r.arm in self.study['candidates']}
        return sorted(seen, key=seen.get, reverse=True)[place - 1]

    # training
    def train(self, run):
        """Train, take the backbone out, count true matches; False if all that is done already."""
        weights, note = self.place('weights', f'{run.name}.pdparams'), self.place('notes', f'{run.name}.json')
        images = self.labelled if run.config == 'supervised' else self.images
        given = {**run.overrides(self.data, self.made, images), 'output_dir': os.path.join(self.out, 'runs', run.name)}
        words = [f'{k}={json.dumps(v) if isinstance(v, bool) else v}' for k, v in given.items()] + self.more
        if os.path.isfile(note):
            with open(note, encoding='utf-8') as f:
                done = json.load(f)
            if done['settings'] != words:
                raise StudyError(f'{run.name} in {self.out} was trained with other settings: give another --output.')
            return False
        self.command('tools/train.py', '-c', os.path.join(HERE, f'{run.config}.yaml'), '--no-cuda',
                     '--resume', 'auto', *(w for word in words for w in ('-o', word)))
        folder = os.path.join(self.out, 'runs', run.name, run.config)
        matched = {}
        if run.config != 'supervised':
            for step in self.study['match_at']:
                if os.path.isfile(os.path.join(folder, f'iter_{step}.pdparams')):
                    matched[step] = self.matched(os.path.join(folder, f'iter_{step}.pdparams'), run.set)
        self.command('tools/extract_weight.py', os.path.join(folder, 'latest.pdparams'), '--output', weights,
                     '--prefix', 'backbone', '--remove_prefix', '--overwrite')
        replace_text(note, json.dumps({'settings': words, 'true_matches': matched}))
        for name in os.listdir(folder):         # some 100 MB each
            if name.endswith('.pdparams'):
                os.unlink(os.path.join(folder, name))
        return True

    def command(self, *words):
        """Run a tool of the project."""
        sys.stdout.write('$ ' + ' '.join(shlex.quote(w) for w in ('python', *words)) + '\n')
        sys.stdout.flush()
        code = subprocess.call([sys.executable, *words], cwd=ROOT)
        if code:
            raise StudyError(f'The study stops here: the command above ended with exit code {code}. The same command '
                             'of the study goes on from this point.')

    def matched(self, weights, settings):
        """What `matches.measure` tells on the photographs that are held out, in crops as in training."""
        from studies.small_crops import matches

        from passl.datasets import build_dataset
        from passl.utils.config import load_config
        words = [f'dataloader.train.dataset.dataroot={self.data}',
                 f'dataloader.train.dataset.list_file={self.made}/held_out.txt']
        crops = 'dataloader.train.dataset.transforms'
        words += [w for w in [*(f'{k}={v}' for k, v in settings.items()), *self.more] if w.startswith(crops)]
        cfg = load_config(os.path.join(HERE, 'densecl.yaml'), words)
        dataset = build_dataset(cfg['dataloader']['train']['dataset'])
        dataset.carry(('places',))
        return matches.measure(weights, dataset)

    def measure_start(self):
        """True matches of the random start."""
        note = self.place('notes', 'random.json')
        if not os.path.isfile(note):
            replace_text(note, json.dumps({'true_matches': {0: self.matched('random', {})}}))

    # probes
    def probe(self):
        """All probes of all runs so far; `passl evaluate` measures only what is new."""
        names = [*self.starts, *self.probed]
        weights = [*self.starts.values(), *(self.place('weights', f'{n}.pdparams') for n in self.probed)]
        for probe, text in self.study['probes'].items():
            words = [w.replace('{data}', self.data).replace('{made}', self.made) for w in shlex.split(text)]
            self.command('tools/evaluate.py', *words, '--weights', *weights, '--names', *names, '--no-cuda',
                         '--output', self.place('probes', probe), '--cache-gb', '2')

    def figures(self):
        """{probe: rows of its comparison.json}."""
        found = {}
        for probe in self.study['probes']:
            path = self.place('probes', probe, 'comparison.json')
            if os.path.isfile(path):
                with open(path, encoding='utf-8') as f:
                    found[probe] = json.load(f)['rows']
        return found

    def note(self, name):
        with open(self.place('notes', f'{name}.json'), encoding='utf-8') as f:
            return json.load(f)

    def log(self, run):
        """The training records of a run's log."""
        from passl.utils.logger import read_json_lines
        records = read_json_lines(os.path.join(self.out, 'runs', run.name, run.config, 'log.jsonl'))
        return [r for r in records if r.get('mode') == 'train']

    def _tell(self, run):
        """A line of status.txt."""
        figures = [table.cell(table.figure(self.figures(), run.name, c)) for c in self.study['columns']]
        names = [table.title(c) for c in self.study['columns']]
        minutes = table.minutes(self.log(run))
        with open(self.place('status.txt'), 'a', encoding='utf-8') as f:
            f.write(f'{run.name}: {minutes:.0f} minutes, {60 * minutes / run.steps:.2f} s per step; '
                    + '; '.join(f'{n} {c}' for n, c in zip(names, figures)) + '\n')


def main(argv=None):
    """The command; returns its exit code."""
    args = build_parser().parse_args(argv)
    return guarded(lambda: Study(args).do_all())


if __name__ == '__main__':
    sys.exit(main())
