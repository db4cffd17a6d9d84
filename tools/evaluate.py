"""Compare pre-trained backbones by what their features are worth: see --help. The work is in passl/transfer/probes."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import evaluate_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(evaluate_main())
