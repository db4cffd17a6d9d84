"""How images travel from a worker to the model: collation, and where they are normalised."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Optional

import numpy as np

from ..modules.input_normalize import InputNormalize
from ..utils.errors import ConfigError, DataError

if TYPE_CHECKING:
    from paddle.io import Dataset
    from .preprocess.tensor import Normalisation

TRANSPORTS = ('auto', 'uint8', 'float32')


class Collate:
    """List of samples -> one array per field; says so when images differ in size.

    Args:
        dataset: whose samples they are.
        normalisation: None: the images are finished. Else they are uint8 [H, W, 3], and this finishes each
            on its way into the batch (no copy more than that), unless `keep` leaves them as they are.
    """

    def __init__(self, dataset: 'Dataset', normalisation: Optional['Normalisation'] = None, keep: bool = False) -> None:
        self.dataset = dataset
        self.normalisation = None if keep else normalisation
        self.keep = keep
        self.views = 2 if getattr(dataset, 'return_two_sample', False) else 1

    def _fail(self, text):
        error = DataError(text)
        self.dataset.report_failure(error)
        raise error

    def __call__(self, samples: Sequence[tuple]) -> list[np.ndarray]:
        fields = []
        for number, field in enumerate(zip(*samples)):
            shapes = {np.shape(x) for x in field}
            if len(shapes) > 1:
                self._fail(f'Images of different sizes {sorted(shapes)[:3]} do not stack into a batch. Add '
                           'RandomResizedCrop, or Resize and CenterCrop, to the transforms.')
            if number >= self.views or self.normalisation is None:
                if self.keep and number < self.views and any(x.dtype != np.uint8 for x in field):
                    self._fail('A transform returned an image that is not uint8. Set loader.transport: float32.')
                fields.append(np.stack(field))
                continue
            height, width, _ = shapes.pop()
            batch = np.empty((len(field), 3, height, width), np.float32)
            for img, out in zip(field, batch):
                self.normalisation(img, out)
            fields.append(batch)
        return fields


def build_transport(dataset: 'Dataset', transport: str, device: str,
                    where: str) -> tuple[Collate, Optional[InputNormalize]]:
    """(Collate, InputNormalize or None) for `transport`: 'auto', 'uint8' or 'float32'.

    The data set leaves out the normalisation if its recipe allows that; with float32 the Collate of the worker
    then does it, with uint8 the InputNormalize of the main process. 'auto' is uint8 on an accelerator if the recipe
    allows it; on a CPU the worker normalises faster than the main process.

    Raises:
        ConfigError: unknown, or uint8 with a recipe that does not allow it.
    """
    if transport not in TRANSPORTS:
        raise ConfigError(f"'{where}' must be one of {', '.join(TRANSPORTS)}, not {transport!r}.")
    try:
        if not hasattr(dataset, 'leave_normalisation'):
            raise ConfigError(f'{type(dataset).__name__} is not derived from ImageDataset.')
        last = dataset.leave_normalisation()
    except ConfigError as e:
        if transport == 'uint8':
            raise ConfigError(f"'{where}': images cannot be handed over as uint8. {e} Change the recipe, or use "
                              'transport: float32.') from None
        return Collate(dataset), None
    keep = transport == 'uint8' or (transport == 'auto' and device != 'cpu')
    return Collate(dataset, last, keep), InputNormalize(last.factor, last.offset, last.divisor) if keep else None
