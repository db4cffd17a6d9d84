"""Write the backbone of a checkpoint for another library: see --help. The work is in passl/transfer/weights."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import export_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(export_main())
