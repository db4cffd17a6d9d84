"""Images, views and batches: data sets, transforms, the sampler and the loader."""

from ..utils.paddle_env import require_paddle

require_paddle()

# imported so that they register themselves
from . import cifar, folder, image_list, imagenet, packed, preprocess, rendered, scenes  # noqa: E402,F401
from .builder import DATASETS, build_dataloader, build_dataset  # noqa: E402,F401
from .image import ImageReadError, read_image  # noqa: E402,F401
from .sampler import EpochBatchSampler, SampleKey  # noqa: E402,F401
