"""Puts pre-trained weights into a PaddleSeg backbone: all of them, or none and an error."""

from typing import TYPE_CHECKING, Any

from ...utils.errors import CheckpointError
from ...utils.weights import backbone_weights, load_into, load_weights, strip_wrappers
from ..weights.certificate import sha256

if TYPE_CHECKING:
    import paddle

_DEEP_STEM = ('conv1_1._conv.weight', 'stem.0.weight', 'conv1.conv1_1.conv.weight', 'stem.0.conv.weight')


def load_backbone(backbone: 'paddle.nn.Layer', path: str) -> dict[str, Any]:
    """Load `path` into `backbone`; every tensor of the backbone must be in the file.

    Args:
        backbone: the `backbone` of a PaddleSeg model.
        path: checkpoint of this project, output of extract-weight, or a file with the backbone's own names
            (as PaddleSeg's ResNet*_vd have them).
    Returns:
        {'file', 'sha256', 'matched', 'total'} for the record.
    Raises:
        CheckpointError: a tensor is missing or has another shape; lists them. The backbone is then unchanged.
    """
    state = strip_wrappers(load_weights(path))
    own = set(backbone.state_dict())
    if not own <= set(state):
        deep = [name for name in state if name in _DEEP_STEM]
        if deep and 'conv1.weight' in own:
            raise CheckpointError(f"'{path}' holds a ResNet with a deep stem ('{deep[0]}'); this backbone has the "
                                  'plain 7x7 stem. Use the backbone that fits, such as ResNet50_vd of PaddleSeg.')
        state = backbone_weights(state, f"'{path}'")
    report = load_into(backbone, state, 'backbone', source=f"'{path}'")
    return {'file': str(path), 'sha256': sha256(path), 'matched': len(report.matched), 'total': report.total}
