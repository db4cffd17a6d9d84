"""Semi-supervised fine-tuning: the whole network is trained on a small share of the labels."""

import sys
from typing import TYPE_CHECKING, Optional

import numpy as np
import paddle
from paddle import nn
from tqdm import tqdm

from ...datasets.base import seeded
from ...datasets.preprocess.compose import build_transforms
from ...modules.init import constant_, normal_
from ...utils.seed import derive_seed, seed_everything
from .features import batches, to_tensor
from .metrics import Outcomes, top1
from .softmax import Shuffled

if TYPE_CHECKING:
    from .clas_data import ClassificationSplit
    from .sources import Source


class Classifier(nn.Layer):
    """Backbone, global average pooling and a linear layer, N(0, 0.01)."""

    def __init__(self, backbone: nn.Layer, channels: int, classes: int) -> None:
        super().__init__()
        self.backbone = backbone
        self.fc = nn.Linear(channels, classes)
        normal_(self.fc.weight, 0.01)
        constant_(self.fc.bias, 0.0)

    def forward(self, x: paddle.Tensor) -> paddle.Tensor:
        return self.fc(self.backbone(x).mean([2, 3]))


def labelled_per_class(labels: np.ndarray, percent: float, seed: int) -> np.ndarray:
    """Numbers of `percent` of the images of every class, at least one of each; a smaller share is part of a larger."""
    rng, chosen = np.random.RandomState(derive_seed(seed, 41)), []
    for c in np.unique(labels):
        members = rng.permutation(np.flatnonzero(labels == c))
        chosen.append(members[:max(1, int(round(len(members) * percent / 100)))])
    return np.sort(np.concatenate(chosen))


def finetune(source: 'Source', train: 'ClassificationSplit', val: 'ClassificationSplit', percent: float, seed: int,
             steps: int = 200, batch: int = 32, rate: float = 0.01, head_rate: float = 0.1,
             decay: float = 1e-4, outcomes: Optional[Outcomes] = None) -> dict[str, float]:
    """Train backbone and classifier with `percent` of the labels.

    RandomResizedCrop (scale 0.2 to 1) and flip; SGD with momentum 0.9 and a cosine to 0; the new layer has a rate of
    its own, since it starts at random.

    Args:
        source: Source; train, val: ClassificationSplit with one label per image.
        steps: of `batch` images (all labelled ones if they are fewer).
        outcomes: see `top1`.
        rate, head_rate: of the backbone and of the classifier at the start; decay: weight decay of both.

    Returns:
        {'top1': percent, 'images': number of labelled images}
    """
    assert train.labels is not None and val.labels is not None
    seed_everything(derive_seed(seed, 42))
    chosen = labelled_per_class(train.labels, percent, seed)
    backbone = source.build(derive_seed(seed, 43))
    seed_everything(derive_seed(seed, 44))
    net = Classifier(backbone, backbone.out_channels, len(train.classes))
    rates = [paddle.optimizer.lr.CosineAnnealingDecay(r, steps) for r in (rate, head_rate)]
    optimizers = [paddle.optimizer.Momentum(r, 0.9, parameters=[p for p in part.parameters() if not p.stop_gradient],
                                            weight_decay=decay)
                  for r, part in zip(rates, (net.backbone, net.fc))]
    recipe = build_transforms([{'name': 'RandomResizedCrop', 'size': train.size, 'scale': [0.2, 1.0]},
                               {'name': 'RandomHorizontalFlip'}])
    order = Shuffled(chosen, batch, np.random.RandomState(derive_seed(seed, 45)))
    net.train()
    for step in tqdm(range(steps), desc=f'finetune {percent:g} %', unit=' steps', disable=not sys.stderr.isatty(),
                     leave=False, dynamic_ncols=True):
        images, numbers = [], order()
        for i in numbers:
            with seeded(derive_seed(seed, step, int(i))):
                images.append(recipe(train.read(train.paths[i])))
        labels = paddle.to_tensor(train.labels[numbers].astype('int64'))
        loss = nn.functional.cross_entropy(net(to_tensor(images)), labels)
        loss.backward()
        for optimizer, schedule in zip(optimizers, rates):
            optimizer.step()
            optimizer.clear_grad()
            schedule.step()
    return {'top1': top1(_scores(net, val), val.labels, outcomes), 'images': len(chosen)}


@paddle.no_grad()
def _scores(net, split):
    net.eval()
    return np.concatenate([net(to_tensor(images)).numpy()
                           for _, images in batches(split.image, len(split), title='test')])
