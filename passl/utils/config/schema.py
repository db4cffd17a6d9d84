"""The structural keys of a config: what they mean, what they take, and the check of a whole config.

`SCHEMA` below is the one table; messages, defaults, `-o` and `describe()` are made from it.
A `Section` with `free=True` describes a component: it has a `name` from a registry and any
further settings, which the component's constructor checks when it is built.
A structural key that is null counts as not given.
"""

import json
from typing import Annotated, Any, Iterable, Iterator, Literal, NamedTuple, Sequence, Union

from ..errors import ConfigError, suggest
from .kinds import AboveOne, Check, Count, Flag, Positive, Shape, Text, Texts, Whole, Within, check_of, whole_from

NO_DEFAULT = object()


class Key(NamedTuple):
    """A key with a plain value, of one of the kinds."""
    kind: Any
    doc: str
    default: Any = NO_DEFAULT
    required: bool = False

    @property
    def check(self) -> Check:
        """What the kind means."""
        found = check_of(self.kind)
        assert found is not None, self.kind
        return found


class Section(NamedTuple):
    """A key whose value is a mapping; `many`: a list of such mappings. `default`: used when missing.
    `short`: text is allowed, too, and stands for a mapping with that `name`."""
    doc: str
    keys: dict
    free: bool = False
    many: bool = False
    default: Any = NO_DEFAULT
    required: bool = False
    short: bool = False


def component(doc: str, default_name: Any = NO_DEFAULT, many: bool = False, required: bool = False,
              short: bool = False, **keys: Any) -> Section:
    """Section of a registered part: `name` and any settings of its constructor."""
    name = Key(Text, 'registered name', default_name, required=default_name is NO_DEFAULT)
    return Section(doc, dict(name=name, **keys), free=True, many=many, required=required, short=short)


def _dataloader(what):
    return Section(f'data of {what}', {
        'dataset': component('data set; its settings are those of the class (dataroot, transforms, ...)',
                             required=True),
        'sampler': Section('batches', {
            'name': Key(Text, 'sampler class; may be left out'),
            'batch_size': Key(Count, 'samples per process and step', required=True),
            'shuffle': Key(Flag, 'new order in every epoch'),
            'drop_last': Key(Flag, 'leave out an incomplete last batch')}, required=True),
        'loader': Section('worker processes', {
            'num_workers': Key(Whole, 'processes that read images; 0: none'),
            'use_shared_memory': Key(Flag, 'hand batches over through /dev/shm; not given: if there is room'),
            'transport': Key(Literal['auto', 'uint8', 'float32'], 'how images leave the workers; auto: uint8 on an '
                             'accelerator, which then normalises them'),
            'prefetch_factor': Key(Count, 'batches each worker prepares ahead'),
            'persistent_workers': Key(Flag, 'keep the workers between epochs'),
            'timeout': Key(Whole, 'seconds without a batch after which the run stops (1800); 0: no limit')}),
        'num_workers': Key(Whole, 'the same as loader.num_workers, which wins')})


_LEVEL = Key(Literal['O1', 'O2'], 'O1: mixed; O2: nearly all in half precision')
SCHEMA = Section('config', {
    'epochs': Key(Count, 'length of the training in epochs (or total_iters)'),
    'total_iters': Key(Count, 'length of the training in steps (or epochs)'),
    'output_dir': Key(Text, 'the run folder is <output_dir>/<name of the config file>', 'output_dir'),
    'timestamp': Key(Flag, "add the time to the run folder's name", False),
    'seed': Key(Whole, 'seed of all random numbers; 0 is a seed too', 0),
    'device': Key(Literal['cpu', 'gpu', 'xpu', 'npu'],
                  'null: the accelerator if there is one, else the CPU', None),
    'deterministic': Key(Flag, 'GPU: the same step gives the same bits, by slower kernels (how much slower is not '
                         'measured); a CPU does so in any case', False),
    'dist_timeout': Key(Annotated[int, whole_from(10)], 'several processes: seconds within which a step, a save or an '
                        'evaluation must end; then the job is ended', 1800),
    'image_shape': Key(Shape, 'input of the exported model'),
    'save_inference_dir': Key(Text, 'folder for --export'),
    'infer_add_softmax': Key(Flag, 'exported model ends with a softmax'),
    'model': component('architecture; its settings are those of the class',
                       backbone=component('backbone'), neck=component('neck'), head=component('head'),
                       correspondence=component('where positives of the dense loss come from', short=True),
                       negatives=component('where negatives of the dense loss come from', short=True)),
    'dataloader': Section('data', {'train': _dataloader('the training'),
                                   'val': _dataloader('the evaluation')}),
    'optimizer': component(
        'optimizer; its settings are those of the class',
        grad_clip=component('gradient clipping; null: none', 'ClipGradByGlobalNorm'),
        exclude_from_weight_decay=Key(Texts, 'parts of parameter names that get no weight decay')),
    'lr_scheduler': component('learning rate; T_max, milestones, warm-up are in epochs'),
    'optimizer_config': component('backward and step', 'OptimizerHook'),
    'momentum_config': component('momentum update of the key encoder', 'MomentumUpdateHook'),
    'timer_config': component('step times', 'IterTimerHook'),
    'lr_config': component('when the learning rate is stepped', 'LRSchedulerHook'),
    'health_config': component('what stops a run whose numbers are nan or inf', 'HealthHook'),
    'log_config': component('log lines', 'LogHook'),
    'collapse_config': component('the verdict on whether a training learns', 'CollapseHook'),
    'best_config': component('what is measured of checkpoints (50 of a run at most), and best.pdparams', 'BestHook'),
    'expected': component('what is known of the recipe beforehand, compared with the run', 'ExpectedHook'),
    'visual_config': component('VisualDL, and pictures of the run', 'VisualHook'),
    'checkpoint': component('checkpoints', 'CheckpointHook'),
    'custom_config': component('further hooks, for example EvaluateHook', many=True),
    'custom_imports': Key(Union[Text, Texts], 'own code: .py files (relative to the config) or modules'),
    'use_amp': Key(Flag, 'automatic mixed precision', False),
    'AMP': Section('mixed precision, used if use_amp is true', {
        'level': _LEVEL._replace(default='O1'),
        'dtype': Key(Literal['float16', 'bfloat16'], 'type of the half precision', 'float16'),
        'auto_cast': Section('settings of paddle.amp.auto_cast', {
            'enable': Key(Flag, 'use auto_cast'),
            'level': _LEVEL, 'dtype': Key(Literal['float16', 'bfloat16'], 'type of the half precision'),
            'custom_white_list': Key(Texts, 'operators to run in half precision'),
            'custom_black_list': Key(Texts, 'operators to keep in float32')}),
        'scale_loss': Key(Positive, 'initial scale of the loss'),
        'use_dynamic_loss_scaling': Key(Flag, 'adapt the scale during the run'),
        'incr_ratio': Key(AboveOne, 'factor that raises it'),
        'decr_ratio': Key(Within, 'factor that lowers it'),
        'incr_every_n_steps': Key(Count, 'good steps before it is raised'),
        'decr_every_n_nan_or_inf': Key(Count, 'bad steps before it is lowered')}, default={}),
})


def structural_keys(section: Section = SCHEMA, path: str = '') -> Iterator[tuple[str, Union[Key, Section]]]:
    """All (dotted path, Key or Section) of the table, depth first."""
    for name, spec in section.keys.items():
        full = f'{path}.{name}'.lstrip('.')
        yield full, spec
        if isinstance(spec, Section):
            yield from structural_keys(spec, f'{full}.0' if spec.many else full)


def unknown_key(name: str, path: str, section: Section, also: Iterable[str] = ()) -> str:
    """The sentence for a key `name` that `section` at `path` does not have."""
    where = f"'{path}'" if path else 'The config'
    elsewhere = [p for p, _ in structural_keys() if p.rpartition('.')[2] == name and name != 'name']
    if elsewhere:
        return f"{where} has no key '{name}'. It belongs to '{elsewhere[0]}'."
    return f"{where} has no key '{name}'. {suggest(name, set(section.keys) | set(also))}"


def _in_full(value, section):
    return {'name': value} if section.short and isinstance(value, str) else value


def check_section(value: Any, section: Section = SCHEMA, path: str = '') -> list[str]:
    """List of sentences, one per mistake in `value`, which stands at `path`."""
    if section.many and isinstance(value, (list, tuple)):
        one = section._replace(many=False)
        return [m for i, v in enumerate(value) for m in check_section(v, one, f'{path}.{i}')]
    value = _in_full(value, section)
    if not isinstance(value, dict) or section.many:
        kind = 'list of mappings' if section.many else 'mapping'
        kind += " with a 'name'" if section.free else ''
        kind += ', or the name alone' if section.short else ''
        return [f"'{path}' must be a {kind}, not {value!r}."]
    mistakes = [unknown_key(k, path, section) for k in value
                if k not in section.keys and not section.free]
    for name, spec in section.keys.items():
        full = f'{path}.{name}'.lstrip('.')
        if value.get(name) is None:
            if spec.required:
                mistakes.append(f"'{full}' is missing: {spec.doc}.")
        elif isinstance(spec, Section):
            mistakes += check_section(value[name], spec, full)
        elif not spec.check.accepts(value[name]):
            mistakes.append(f"'{full}' must be {spec.check.rule}, not {value[name]!r}.")
    return mistakes


def defaults_of(value: Any, section: Section) -> Any:
    """New mapping: `value` with the defaults of missing keys; what is not in the table is kept."""
    if section.many:
        return [defaults_of(v, section._replace(many=False)) for v in value]
    filled, value = {}, _in_full(value, section)
    for name, spec in section.keys.items():
        given = value.get(name)
        if given is None and spec.default is not NO_DEFAULT:
            given = spec.default
        if given is not None and isinstance(spec, Section):
            filled[name] = defaults_of(given, spec)
        elif given is not None or name in value or spec.default is not NO_DEFAULT:
            filled[name] = given
    order = list(value) + [k for k in filled if k not in value]
    return {k: filled[k] if k in filled else value[k] for k in order}


def describe() -> str:
    """Markdown table of all structural keys, for the documentation."""
    lines = ['| key | value | default | meaning |', '|---|---|---|---|']
    for path, spec in structural_keys():
        if isinstance(spec, Section):
            rule = ('list of mappings' if spec.many else 'mapping') + (' with a `name`' if spec.free else '')
            rule += ', or the name' if spec.short else ''
            default = ''
        else:
            rule = spec.check.rule
            default = '' if spec.default is NO_DEFAULT else f'`{json.dumps(spec.default)}`'
        lines.append(f'| `{path}` | {rule} | {"required" if spec.required else default} | {spec.doc} |')
    return '\n'.join(lines) + '\n'


def raise_for(mistakes: Sequence[str], prefix: str = '') -> None:
    """ConfigError with all `mistakes`, if there are any."""
    if len(mistakes) == 1:
        raise ConfigError(prefix + mistakes[0])
    if mistakes:
        raise ConfigError(f'{prefix}{len(mistakes)} mistakes:\n' + '\n'.join(f'  - {m}' for m in mistakes))
