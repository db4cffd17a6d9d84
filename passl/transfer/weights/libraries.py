"""The other libraries' own models, as judges of a written file: each loads it its own way and computes the stages."""

import os

import numpy as np

from ...utils.weights.checkpoint import load_file
from ...utils.errors import CheckpointError
from ...utils.weights.names import Arch
from ...utils.weights import find_state_dict


class MissingLibrary(Exception):
    """The library is not installed here, or has no such model."""


def _check_loaded(net, path, head=()):
    """Every tensor of the library's model has the file's value (its own loaders only warn, or say nothing)."""
    own = {k: v for k, v in net.state_dict().items()
           if not k.endswith('num_batches_tracked') and not k.startswith(head)}
    written = find_state_dict(load_file(path), f"'{path}'")
    wrong = [k for k, v in own.items() if k not in written or not np.array_equal(written[k], v.numpy())]
    left = [k for k in written if k not in own and not k.endswith('num_batches_tracked')]
    if wrong or left:
        raise CheckpointError(f"{len(own) - len(wrong)} of {len(own)} tensors of {type(net).__name__} in "
                              f"{type(net).__module__} were loaded from '{path}'. "
                              f"Not loaded: {', '.join(wrong) or '-'}. Left over: {', '.join(left) or '-'}.")


def _paddle_maps(net, compute, x):
    import paddle
    net.eval()
    with paddle.no_grad():
        return [m.numpy() for m in compute(paddle.to_tensor(x))]


def paddleseg(path: str, arch: Arch, x: np.ndarray) -> list[np.ndarray]:
    """PaddleSeg's ResNet_vd without dilation; it has no plain ResNet."""
    if not arch.vd:
        raise MissingLibrary("PaddleSeg has no ResNet with a 7x7 stem of its own")
    from paddleseg.models.backbones.resnet_vd import ResNet_vd
    net = ResNet_vd(layers=arch.depth, output_stride=32, pretrained=os.path.abspath(path))
    _check_loaded(net, path)
    return _paddle_maps(net, net, x)


def paddledet(path: str, arch: Arch, x: np.ndarray) -> list[np.ndarray]:
    """PaddleDetection's ResNet, variant b or d, nothing frozen."""
    from ppdet.modeling.backbones.resnet import ResNet
    from ppdet.utils.checkpoint import load_pretrain_weight
    net = ResNet(depth=arch.depth, variant='d' if arch.vd else 'b', freeze_at=-1, freeze_norm=False)
    load_pretrain_weight(net, os.path.abspath(path))
    _check_loaded(net, path)
    return _paddle_maps(net, lambda images: net({'image': images}), x)


def paddleclas(path: str, arch: Arch, x: np.ndarray) -> list[np.ndarray]:
    """PaddleClas's ResNet; its classifier stays as it is."""
    from paddleclas.ppcls.arch.backbone.legendary_models import resnet
    from paddleclas.ppcls.utils.save_load import load_dygraph_pretrain
    net = getattr(resnet, f'ResNet{arch.depth}{"_vd" if arch.vd else ""}')()
    load_dygraph_pretrain(net, os.path.abspath(path))
    _check_loaded(net, path, head=('fc.',))
    ends = np.cumsum(arch.blocks)

    def compute(images):
        y = net.max_pool(net.stem(images))
        for number, block in enumerate(net.blocks, 1):
            y = block(y)
            if number in ends:
                yield y
    return _paddle_maps(net, compute, x)


def torchvision(path: str, arch: Arch, x: np.ndarray) -> list[np.ndarray]:
    """torchvision's ResNet without classifier."""
    from torchvision.models import resnet
    net = getattr(resnet, f'resnet{arch.depth}')(weights=None)
    del net.fc
    net.act1 = net.relu
    return _torch_maps(net, path, x)


def timm(path: str, arch: Arch, x: np.ndarray) -> list[np.ndarray]:
    """timm's resnet50, resnet50d, ... without classifier."""
    from timm import create_model
    return _torch_maps(create_model(f'resnet{arch.depth}{"d" if arch.vd else ""}', num_classes=0), path, x)


def _torch_maps(net, path, x):
    import torch
    if os.fspath(path).endswith('.safetensors'):
        from safetensors.torch import load_file as load_tensors
        state = load_tensors(path)
    else:
        state = torch.load(path, map_location='cpu', weights_only=True)     # torch's own reader must take the file
    try:
        net.load_state_dict(state.get('state_dict', state))
    except RuntimeError as e:       # torch's list of what is missing, left over or of another shape
        raise CheckpointError(f"'{path}': {e}") from e
    net.eval()
    with torch.no_grad():
        y = net.maxpool(net.act1(net.bn1(net.conv1(torch.from_numpy(x)))))
        found = []
        for layer in (net.layer1, net.layer2, net.layer3, net.layer4):
            y = layer(y)
            found.append(y.numpy())
    return found


def onnx(path: str, arch: Arch, x: np.ndarray) -> list[np.ndarray]:
    """onnxruntime on the CPU; the last stage only."""
    import onnxruntime
    session = onnxruntime.InferenceSession(os.fspath(path), providers=['CPUExecutionProvider'])
    return session.run(None, {session.get_inputs()[0].name: x})


def paddle_inference(path: str, arch: Arch, x: np.ndarray) -> list[np.ndarray]:
    """paddle.inference on the CPU; the last stage only."""
    from paddle import inference
    prefix = os.path.join(path, 'model')
    graph = next(prefix + e for e in ('.json', '.pdmodel') if os.path.exists(prefix + e))
    config = inference.Config(graph, prefix + '.pdiparams')
    config.disable_glog_info()
    predictor = inference.create_predictor(config)
    predictor.get_input_handle(predictor.get_input_names()[0]).copy_from_cpu(x)
    predictor.run()
    return [predictor.get_output_handle(predictor.get_output_names()[0]).copy_to_cpu()]


# target -> (what computes the stages, the distribution whose version is noted)
JUDGES = {'paddleseg': (paddleseg, 'paddleseg'), 'paddledet': (paddledet, 'paddledet'),
          'paddleclas': (paddleclas, 'paddleclas'), 'torchvision': (torchvision, 'torchvision'), 'timm': (timm, 'timm'),
          'onnx': (onnx, 'onnxruntime'), 'paddle-inference': (paddle_inference, 'paddlepaddle')}
