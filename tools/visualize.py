"""Draw what a network sees and what it has learned: see --help. The work is in passl/pictures."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import visualize_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(visualize_main())
