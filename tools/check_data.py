"""Look at every image of a folder or list: see --help. The work is in passl/datasets/check."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import check_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(check_main())
