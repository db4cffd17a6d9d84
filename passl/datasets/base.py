"""What all data sets share: views, per-sample seeding, and the policy for unreadable images."""

import contextlib
import random
from typing import Any, Literal, Optional, Sequence
from collections.abc import Iterator

import numpy as np
from paddle.io import Dataset, get_worker_info

from ..utils.config.kinds import Flag, Share
from ..utils.errors import ConfigError, DataError
from ..utils.logger import get_logger
from ..utils.seed import derive_seed
from .carried import Carries
from .findings import Findings
from .image import MAX_PIXELS, ImageReadError, decode_image, is_turned, jpeg_size
from .preprocess.compose import build_transforms
from .preprocess.tensor import Normalisation, ToTensor
from .preprocess.two_view import TwoView, Views

_kept = False


@contextlib.contextmanager
def generators_kept() -> Iterator[None]:
    """`random` and `numpy.random` stand afterwards as before.

    Copying their states costs as much as a crop. So inside another such block, and in a worker process, where
    nothing else draws from them, nothing is done.
    """
    global _kept
    if _kept or get_worker_info() is not None:
        yield
        return
    states, _kept = (random.getstate(), np.random.get_state()), True
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        _kept = False


@contextlib.contextmanager
def seeded(seed: int) -> Iterator[None]:
    """Seed `random` and `numpy.random` inside the block; their states come back as `generators_kept` says."""
    with generators_kept():
        random.seed(seed)
        np.random.seed(seed)
        yield


def _kind(view):
    return f'{view.dtype} {list(view.shape)}' if isinstance(view, np.ndarray) else type(view).__name__


class ImageDataset(Carries, Findings, Dataset):
    """Base of the data sets: sub-classes fill `samples` and define `label`, and `load` or `read_bytes`.

    `dataset[key]` is always a tuple: `(view1, view2)` with `return_two_sample`, else
    `(image,)`; plus `(label,)` with `return_label`, plus what was asked for by `carry`. Images are float32 CHW, labels
    np.int64.
    `key` is an index, or a `SampleKey(index, seed)`: then the augmentation depends on these
    two numbers alone, not on the worker or rank that computes it.

    Unreadable images: with `on_error='replace'` another image, chosen by the index alone,
    takes the place (label included); the file is named once in the log and counted in `num_bad`
    over all workers; more than `max_bad` of all (but at least 2) stop the run with DataError.
    With 'raise' the first one does. An error in a worker process is logged there, and kept in
    `failure` for the main process, to which Paddle does not hand exceptions of workers.

    Reduced decoding: where all views begin with a RandomResizedCrop, their boxes are drawn from the size in a
    JPEG's header, and the file is decoded at 1/2, 1/4 or 1/8 if every box still has enough pixels. The boxes and
    all other random numbers are the same with and without it. `reduced_decoding = False` switches it off
    (in a config: `reduced_decoding: false` beside `dataroot`). It needs `read_bytes`.

    An image with more than `max_pixels` pixels counts as unreadable; its header is enough to tell, so that it costs no
    memory. In a config it stands beside `dataroot` too.

    Files with more than 8 bits per value are read in `value_range`, the same for all of them; see `decode_image`.

    Where `stand_ins` is false (evaluation), the label of an image in another's place is -1: it fills the batch and is
    not counted.

    Args:
        return_label: add the label.
        return_two_sample: two views instead of one image.
        transforms: recipe of the image, or the part that both views share (drawn twice).
            None: float32 CHW in [0, 1].
        view_trans1, view_trans2: the rest of each view's recipe.
        on_error: 'replace' or 'raise'.
        max_bad: largest tolerated share of unreadable images.

    Attributes:
        samples: one entry per image.
        classes: class names in the order of their numbers; empty without labels.
        reduced_decoding: see above.
        max_pixels: images of more pixels count as unreadable.
        regions: settings of the superpixels that `model.correspondence: Regions` needs, see `passl.datasets.regions`.
        value_range: [low, high]: black and white in files of more than 8 bits (`passl check-data` measures it); null: 0
            and the largest number of unsigned files of up to 16 bits, while others count as unreadable.
    """

    reduced_decoding = True
    max_pixels = MAX_PIXELS
    value_range: Optional[Sequence[float]] = None
    stand_ins = True

    def __init__(self, return_label: Flag = False, return_two_sample: Flag = False, transforms: Any = None,
                 view_trans1: Any = None, view_trans2: Any = None, on_error: Literal['replace', 'raise'] = 'replace',
                 max_bad: Share = 0.1) -> None:
        super().__init__()
        if not return_two_sample and (view_trans1 is not None or view_trans2 is not None):
            raise ConfigError('view_trans1 and view_trans2 need return_two_sample: True.')
        self.return_label = return_label
        self.return_two_sample = return_two_sample
        self.on_error = on_error
        self.max_bad = max_bad
        if transforms is None and view_trans1 is None:
            transforms = [ToTensor()]
        if return_two_sample:
            self.recipe = TwoView(transforms, view_trans1, view_trans2)
        else:
            self.recipe = Views([build_transforms(transforms)])
        self._unfinished = None
        self._check_recipe()
        self.samples = []
        self.classes: list[str] = []
        self._make_shared()

    def read_bytes(self, index: int) -> tuple[bytes, str]:
        """(bytes of the image file of `index`, its name for messages). Raises ImageReadError."""
        raise NotImplementedError

    def load(self, index: int) -> np.ndarray:
        """The image of `index`: uint8 [H, W, 3]. Raises ImageReadError."""
        return self._decode(*self.read_bytes(index))

    def _decode(self, data, name, reduction=1):
        return decode_image(data, name, reduction, max_pixels=self.max_pixels, value_range=self.value_range,
                            doubt=self.note_doubt)

    def label(self, index: int) -> int:
        """The class number of `index`."""
        raise NotImplementedError

    @property
    def num_classes(self) -> int:
        return len(self.classes)

    def __len__(self):
        return len(self.samples)

    def _filled(self):
        """Sub-classes call this once `samples` and `classes` stand."""
        if self.return_label and not self.classes:
            raise ConfigError(f'{type(self).__name__} has no labels: set return_label: False.')
        self._make_flags(len(self))

    def _note_bad(self, index, error):
        if self.on_error == 'raise':
            raise error
        if self._flag_bad(index):
            what = 'replaced by another one (on_error: replace)' if self.stand_ins else 'left out of the evaluation'
            get_logger().warning('Unreadable image %s: %s', what, error)
        limit = int(self.max_bad * len(self))
        limit = max(1, limit) if self.max_bad > 0 else 0
        if self.num_bad > limit:
            raise DataError(f'{self.num_bad} of {len(self)} images are unreadable, more than max_bad: '
                            f'{self.max_bad} allows ({limit}). The last one: {error} '
                            'Mend or remove the files, or raise max_bad.')

    def _own_load(self):
        """True if `load` is defined by the object or a class further down than the one that defines `read_bytes`."""
        def depth(method):
            return next(i for i, c in enumerate(type(self).__mro__) if method in vars(c))
        return 'load' in self.__dict__ or depth('load') < depth('read_bytes')

    def _image_and_boxes(self, index):
        """(image, None), or (image, (boxes of the first crops, 1 / scale of decoding, size)) if they are drawn."""
        if self._own_load() or not self.reduced_decoding or self.recipe.crops is None:
            return self.load(index), None
        data, name = self.read_bytes(index)
        size = jpeg_size(data)
        if size is None or self.recipe.reduction(*size) == 1 or is_turned(data):
            return self._decode(data, name), None
        state = random.getstate()
        boxes = self.recipe.draw(*size)
        factor = self.recipe.reduction(*size, boxes)
        try:
            img = self._decode(data, name, factor)
        except ImageReadError:
            random.setstate(state)          # the image in its place draws as if this one had not
            raise
        if img.shape[:2] == (-(-size[0] // factor), -(-size[1] // factor)):
            return img, (boxes, factor, size)
        random.setstate(state)              # decoded in full after all
        return img, None

    def _load_or_replace(self, index):
        """(image, boxes as `_image_and_boxes` gives them, index it is from)."""
        candidate = index
        for attempt in range(100):
            self._note_reading(candidate + 1)
            try:
                return (*self._image_and_boxes(candidate), candidate)
            except ImageReadError as e:
                self._note_bad(candidate, e)
            candidate = derive_seed(index, attempt) % len(self)
        raise DataError(f'No readable image found in place of number {index} after 100 tries.')

    def _sample(self, index, recipe):
        img, drawn, found = self._load_or_replace(index)
        if recipe.crops is None:
            views, more = recipe(img), ()
        else:
            boxes, factor, size = drawn or (recipe.draw(*img.shape[:2]), 1, img.shape[:2])
            views, flips = recipe.follow(img, boxes, factor)
            more = self._carried_with(found, img, (boxes, size, flips))
        self._note_reading(0)
        counted = found == index or self.stand_ins
        return views + ((np.int64(self.label(found) if counted else -1),) if self.return_label else ()) + more

    def __getitem__(self, key):
        try:
            if not isinstance(key, tuple):
                return self._sample(key, self.recipe)
            with seeded(derive_seed(key[1], key[0])):
                return self._sample(key[0], self._unfinished or self.recipe)
        except Exception as e:
            self.report_failure(e)
            raise

    def leave_normalisation(self) -> Normalisation:
        """Take layout and normalisation off the samples of SampleKeys: their images are uint8 [H, W, 3] from now on.

        Returns:
            the Normalisation that makes them the images that a plain index gives.

        Raises:
            ConfigError: the recipe does not end in layout and normalisation of uint8 images.
        """
        unfinished, normalisation = self.recipe.split()
        for view in self._try_out(unfinished):
            if not (isinstance(view, np.ndarray) and view.dtype == np.uint8 and view.ndim == 3 and view.shape[2] == 3):
                raise ConfigError(f'The recipe normalises {_kind(view)}, not uint8 [height, width, 3].')
        self._unfinished = unfinished
        return normalisation

    @staticmethod
    def _try_out(recipe, img=None):
        """The views of `img`, or of a made-up image."""
        if img is None:
            img = np.random.RandomState(0).randint(0, 256, (96, 80, 3)).astype(np.uint8)
        with seeded(0):
            return recipe(img)

    def example(self) -> tuple:
        """A sample as the workers make them; of a made-up image if the recipe gives all images the same size."""
        recipe = self._unfinished or self.recipe
        views, others = self._try_out(recipe), self._try_out(recipe, np.zeros((72, 120, 3), np.uint8))
        if [np.shape(v) for v in views] != [np.shape(v) for v in others]:
            with contextlib.suppress(ImageReadError):       # told when it is met in training
                views = self._try_out(recipe, self.load(0))
        return views + ((np.int64(0),) if self.return_label else ()) + self._carried_example()

    def _check_recipe(self):
        """Run the recipe once on a made-up image, so that a wrong one is told at start-up."""
        for view in self._try_out(self.recipe):
            if not (isinstance(view, np.ndarray) and view.dtype == np.float32 and view.ndim == 3
                    and view.shape[0] in (1, 3)):
                raise ConfigError(f'The transforms end in {_kind(view)}; the model needs float32 [3, height, width]. '
                                  'End the recipe with Transpose and NormalizeImage, or with ToTensor.')
