"""Draw the loss curve of a run folder: see --help. The work is in passl/pictures/curves.py."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import plot_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(plot_main())
