"""The flags of `passl replay-step`."""

from .options import Parser, not_empty, override

EXAMPLES = """\
examples:
  %(prog)s output_dir/densecl_r50/nonfinite_iter_1234.pdparams
  %(prog)s FILE --scan                      which images break the step alone?
  several processes, exactly as in the run:
    python -m paddle.distributed.launch --nproc_per_node 2 tools/replay_step.py nonfinite_iter_1234_rank_0.pdparams
exit codes: 0 the step came out as recorded, 1 it did not (or only a part of it could be repeated), 2 wrong usage
"""


def build_replay_parser(prog=None):
    """Parser of `tools/replay_step.py` and `passl replay-step`.

    The namespace has: dump, config_file (or None), override (list), scan, layers, device (or None), no_cuda,
    allow_imports.

    Args:
        prog: program name in the help, for example 'passl replay-step'.
    """
    parser = Parser(prog=prog, description='Repeat the step at which the numbers of a run broke, and say where they '
                                           'broke first.', epilog=EXAMPLES)
    parser.add_argument('dump', metavar='FILE', type=not_empty,
                        help='nonfinite_iter_N.pdparams of a run folder; of several processes any one')
    parser.add_argument('-c', '--config-file', metavar='FILE', type=not_empty,
                        help='build the model from this config (default: the one in the file)')
    parser.add_argument('-o', '--override', metavar='KEY=VALUE', action='append', default=[], type=override,
                        help='change one setting of the config, for example -o use_amp=false; repeatable')
    parser.add_argument('--scan', action='store_true', help='also repeat the step with each image alone')
    parser.add_argument('--layers', action='store_true', help='list every layer, not only the largest')
    parser.add_argument('--device', metavar='NAME', choices=('cpu', 'gpu', 'xpu', 'npu'),
                        help='cpu, gpu, xpu or npu (default: that of the run)')
    parser.add_argument('--no-cuda', action='store_true', help='run on the CPU')
    parser.add_argument('--allow-imports', action='store_true',
                        help='run the Python code that custom_imports of the config file (-c) names')
    return parser
