"""What can be done with a finished run, as commands with its paths filled in: for its summary and for the report."""

import os
import shlex
from collections.abc import Mapping
from typing import Any, Optional

NAMES = {       # what each is for, in English and Chinese
    'extract': ('backbone alone', '单独取出骨干网络'), 'help': ('did it help?', '有帮助吗？'),
    'elsewhere': ('use elsewhere', '用于其他库'), 'seg': ('fine-tune', '微调'),
    'see': ('see what it sees', '看看它看到什么'), 'report': ('one page', '汇总成一页'),
    'on': ('train longer', '训练更久')}
_SEG = os.path.join('configs', 'transfer', 'seg', 'custom.yml')
_CLONE = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def next_commands(run: str, weights: str, config: Optional[str], backbone: Mapping[str, Any],
                  data: Optional[str] = None, extracted: bool = True) -> dict[str, str]:
    """{key of NAMES: command}; LABELLED in a command stands for images with labels.

    Args:
        run: the run folder. weights: a file with the backbone. config: the config file.
        backbone: the config's `model.backbone`.
        data: the folder of a `passl pretrain`; None for `passl train`.
        extracted: `weights` holds the backbone alone.
    """
    run_, weights_ = shlex.quote(run), shlex.quote(weights)
    alone = shlex.quote(os.path.join(run, 'backbone'))
    kind, vd = f"ResNet{backbone.get('depth', 50)}", backbone.get('name') == 'ResNet_vd'
    seg = next((p for p in (_SEG, os.path.join(_CLONE, _SEG)) if os.path.isfile(p)), None)
    commands = {} if extracted else {'extract': f'passl extract-weight {weights_} --output {alone}.pdparams'}
    commands['help'] = f'passl evaluate --worth --weights {weights_} --data LABELLED'
    if backbone.get('name') in ('ResNet', 'ResNet_vd'):
        target, end = ('paddleclas', '.paddleclas.pdparams') if vd else ('torchvision', '.pth')
        commands['elsewhere'] = f'passl export {weights_} --to {target} --output {alone}{end}'
    if seg and backbone.get('name') == 'ResNet' and backbone.get('depth') in (18, 34, 50, 101):
        commands['seg'] = f'passl transfer-seg -c {shlex.quote(seg)} --pretrained {weights_} --data LABELLED ' \
                          f'-o model.backbone.type={kind}'
    commands.update(see=f'passl visualize {run_}', report=f'passl report {run_}')
    if data is not None and config is not None:
        commands['on'] = f'passl pretrain {shlex.quote(data)} --out {run_} --resume' \
                         f'   # after total_iters was raised in {shlex.quote(config)}'
    return commands
