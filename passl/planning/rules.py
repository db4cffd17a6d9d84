"""Rules of thumb: from the images, the device and the time that there is to the settings of a pre-training.

Every rule is one function that gives a value and the reason, in words. docs/PRETRAIN.md has the table with sources.
"""

from typing import Any, NamedTuple, Optional

from ..utils.errors import DataError
from ..utils.misc import CELL, power_of_two

FEWEST = 8                      # images: below, no batch has enough of them to contrast
_MANY = 500_000                 # images from which on ImageNet's rate is the rule
_LARGEST_QUEUE, _DECIDED_BY = 65536, 256
_FEW_STEPS = 200                # docs/BENCHMARKS.md: after 100 steps of the study matches had hardly moved


class Facts(NamedTuple):
    """What the plan depends on.

    images: how many there are; side: their short side in pixels, of the small ones (10th percentile).
    device: 'cpu', or the name of an accelerator; memory: bytes that one process may use there.
    processes: of the job, one per device; cores: per process.
    half: 'float16', 'bfloat16' or None: the half precision that is fast there.
    depth: of the backbone; started: from weights that know something already.
    roots: folders that hold the images, if masks beside them are left out; masks: how many those are.
    """
    images: int
    side: int
    device: str
    memory: int
    processes: int = 1
    cores: int = 1
    half: Optional[str] = None
    depth: int = 50
    started: bool = False
    roots: tuple[str, ...] = ()
    masks: int = 0


class Choice(NamedTuple):
    """A setting: `what` for people, `key` for the writer of the config, and why it is so."""
    what: str
    key: str
    value: Any
    why: str


def crop_side(facts: Facts) -> tuple[int, str]:
    """Side of the views in pixels, a multiple of 32."""
    wanted = 112 if facts.device == 'cpu' else 224
    side = min(wanted, max(112, facts.side // CELL * CELL))
    cells = -(-side // CELL)
    grid = f'{cells} x {cells} cells'
    if side == 224:
        return side, f'{grid}, as in the paper'
    if side > facts.side:
        return side, f'{grid}; the images have some {facts.side} px and are enlarged, since fewer cells teach nothing'
    if facts.device == 'cpu':
        return side, f'{grid}; a quarter of the work of 224 px, which a CPU can do'
    return side, f'{grid}; the short side of small images is {facts.side} px'


def bytes_per_image(facts: Facts, side: int) -> int:
    """Activations of one image with both views, an estimate: docs/PERFORMANCE.md counts 93 MB for ResNet-50 at 224."""
    share = {18: 0.25, 34: 0.33, 50: 1.0, 101: 1.5, 152: 2.1}.get(facts.depth, 1.0)
    return int(93e6 * share * (side / 224) ** 2 * (0.5 if facts.half and facts.device != 'cpu' else 1))


def batch(facts: Facts, side: int) -> tuple[int, str]:
    """Images per process and step."""
    wanted = 64 if facts.device == 'cpu' else max(32, _DECIDED_BY // facts.processes)
    room = power_of_two(0.65 * facts.memory / bytes_per_image(facts, side))
    enough = power_of_two(facts.images / 2 / facts.processes)
    size = min(wanted, room, enough)
    if size == enough < min(wanted, room):
        return size, f'at most half of {facts.images} images'
    if size == room < wanted:
        return size, f'what {facts.memory / 2**30:.0f} GiB hold'
    if facts.device == 'cpu':
        return size, 'steps of about a second on two cores'
    return size, f'{size * facts.processes} per step, as in the paper' if size * facts.processes == _DECIDED_BY else \
        'at least 32 per card'


def queue(facts: Facts, per_step: int) -> tuple[int, str]:
    """K, the number of negatives."""
    size = max(power_of_two(facts.images / 2), min(per_step, facts.images))
    if size >= _LARGEST_QUEUE:
        return _LARGEST_QUEUE, 'as in the paper'
    return size, f'about half of {facts.images} images: else an image would be its own negative'


def length(facts: Facts, per_step: int, epochs: Optional[float] = None, hours: Optional[float] = None,
           seconds: Optional[float] = None) -> tuple[int, str]:
    """Steps of the run, from `epochs`, or from `hours` and the `seconds` that a step takes; else the rule."""
    per_epoch = max(1, facts.images // per_step)
    if hours and seconds:
        steps = max(1, int(3600 * hours / seconds))
        few = '' if steps >= _FEW_STEPS else f'; fewer than {_FEW_STEPS} hardly teach: give more hours'
        return steps, f'{hours:g} h at {seconds:.2f} s per step, {steps / per_epoch:.0f} epochs{few}'
    if hours:
        return 2000, f'to be replaced by what {hours:g} h hold: some steps are measured first'
    if epochs:
        return max(1, round(epochs * per_epoch)), f'{epochs:g} epochs of {per_epoch} steps'
    epochs = 200 if facts.images >= _MANY else 800
    steps = max(2000, epochs * per_epoch)
    return steps, f'{steps / per_epoch:.0f} epochs; {epochs} is the recipe of ' + \
        ('ImageNet' if epochs == 200 else 'COCO, whose size is nearer; at least 2000 steps')


def rate(facts: Facts, per_step: int) -> tuple[float, str]:
    """Highest learning rate."""
    base, recipe = (0.03, 'ImageNet') if facts.images >= _MANY else (0.3, 'COCO')
    value = float(f'{base * per_step / 256:.2g}')
    why = f'{base} x {per_step} / 256, the recipe of {recipe}'
    if facts.started:
        return float(f'{value / 10:.2g}'), f'a tenth of {why}: the start knows something already'
    return value, why


def momentum(steps: int) -> tuple[float, str]:
    """m of the key encoder: it averages over 1 / (1 - m) steps, a hundredth of the run, between 100 and 1000."""
    over = min(1000, max(100, steps // 100))
    return round(1 - 1 / over, 4), f'the key encoder averages over {over} steps' + \
        (', as in the paper' if over == 1000 else ': a short run needs a faster one')


def groups(facts: Facts, size: int) -> tuple[int, str]:
    """`bn_splits`: groups of a process's batch with batch-norm statistics of their own."""
    if facts.processes > 1:
        return 1, 'each process has statistics of its own already'
    count = min(4, power_of_two(size / 8))
    return count, 'else the statistics of the one batch would tell which key is whose' if count > 1 else \
        'the batch is too small to be split'


def dense_loss(facts: Facts, regions: bool) -> dict[str, Any]:
    """Settings of DenseCL's dense loss, with the reason under 'why'. `regions`: what makes them is installed."""
    if facts.images >= _MANY and crop_side(facts)[0] == 224:
        return {'correspondence': {'name': 'BackboneSimilarity'}, 'negatives': {'name': 'Pooled'},
                'why': 'as in the paper'}
    if not regions:
        return {'correspondence': {'name': 'Geometric'}, 'negatives': {'name': 'Cells'},
                'why': 'regions would need scikit-image: pip install scikit-image, or in a clone '
                       "pip install -e '.[regions]'"}
    return {'correspondence': {'name': 'Regions'}, 'negatives': {'name': 'Batch'},
            'why': 'at small crops place alone solves the task of the paper: docs/LOSS_CURVE.md'}


def plan(facts: Facts, method: str = 'densecl', dense: Optional[dict[str, Any]] = None, epochs: Optional[float] = None,
         hours: Optional[float] = None, seconds: Optional[float] = None) -> list[Choice]:
    """All choices, in the order in which they follow from each other.

    Args:
        facts: see `Facts`.
        method: 'densecl', 'moco' or 'simclr'.
        dense: settings of DenseCL's dense loss that are taken over, with the reason under 'why'.
        epochs, hours, seconds: see `length`.
    Raises:
        DataError: too few images for any batch.
    """
    if facts.images < FEWEST * facts.processes:
        raise DataError(f"{facts.images} image{'s' * (facts.images != 1)} for {facts.processes} process(es): at least "
                        f'{FEWEST} per process are needed to contrast some with others, and some hundreds to learn '
                        'anything. Add images.')
    side, why_side = crop_side(facts)
    size, why_size = batch(facts, side)
    per_step = size * facts.processes
    steps, why_steps = length(facts, per_step, epochs, hours, seconds)
    warm = min(200, max(1, steps // 10))
    choices = []
    if facts.masks:
        choices.append(Choice('folders', 'dataroot', list(facts.roots),
                              f'{facts.masks} images in folders whose name says masks are left out'))
    choices += [
        Choice('crop', 'side', side, why_side),
        Choice('batch per process', 'dataloader.train.sampler.batch_size', size, why_size),
        Choice('steps', 'total_iters', steps, why_steps),
        Choice('rate', 'lr_scheduler.learning_rate', *rate(facts, per_step)),
        Choice('warm-up, steps', 'warm', warm, 'a tenth of the run, at most 200' + (
            ': the projection starts at random, whatever the backbone knows' if facts.started else '')),
        Choice('steps of an epoch', 'steps of an epoch', max(1, facts.images // per_step),
               f'{facts.images} images, {per_step} per step')]
    if method != 'simclr':
        choices += [Choice('queue, K', 'model.K', *queue(facts, per_step)),
                    Choice('momentum, m', 'model.m', *momentum(steps)),
                    Choice('BN groups', 'model.bn_splits', *groups(facts, size))]
    if method == 'densecl' and dense:
        choices += [Choice('dense loss', 'model', {k: v for k, v in dense.items() if k != 'why'}, dense['why'])]
    workers = 0 if facts.cores < 2 else min(8, facts.cores - 1) if facts.device != 'cpu' else 1
    choices += [Choice('worker processes', 'dataloader.train.loader.num_workers', workers,
                       f'{facts.cores} core(s) per process'),
                Choice('precision', 'half', facts.half or 'float32',
                       'the device has units for it' if facts.half else 'nothing faster is there')]
    return choices
