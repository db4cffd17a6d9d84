"""AP over ten overlaps on VOC, computed with PaddleDetection's own VOC evaluator."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from ppdet.metrics import Metric, VOCMetric

OVERLAPS = tuple(round(0.5 + 0.05 * i, 2) for i in range(10))
COCO_NAMES = ('AP', 'AP50', 'AP75', 'APs', 'APm', 'APl')


class VOCStyleAP(Metric):
    """AP, AP50 and AP75 as the detection papers give them for VOC: VOC's AP at overlaps 0.5, 0.55 ... 0.95, averaged.

    Objects marked difficult count neither way. For VOC2007 a class's AP is the mean of the best precisions at 11
    recalls (Everingham et al. 2010), as in the figures of MoCo and DenseCL.

    Args:
        label_list: file with the names of the classes.
        class_num: their number.
        map_type: '11point' or 'integral'.
    """

    def __init__(self, label_list: str, class_num: int, map_type: str = '11point') -> None:
        self.parts = [VOCMetric(label_list, class_num, overlap_thresh=t, map_type=map_type) for t in OVERLAPS]

    def reset(self) -> None:
        for part in self.parts:
            part.reset()

    def update(self, inputs: dict[str, Any], outputs: dict[str, Any]) -> None:
        for part in self.parts:
            part.update(inputs, outputs)

    def accumulate(self) -> None:
        for part in self.parts:
            part.detection_map.accumulate()

    def get_results(self) -> dict[str, list[float]]:
        values = [float(part.detection_map.get_map()) for part in self.parts]
        return {'bbox': [float(np.mean(values)), values[0], values[5]]}


def as_percent(results: Mapping[str, Sequence[float]]) -> dict[str, dict[str, float]]:
    """PaddleDetection's results, {'bbox': [AP, AP50, ...], 'mask': ...}, as {'bbox': {'AP': percent, ...}, ...}.

    A kind of size that no object has is -1 in COCO's figures and is left out.
    """
    return {kind: {name: round(100 * float(v), 3) for name, v in zip(COCO_NAMES, values) if v >= 0}
            for kind, values in results.items()}
