"""From a folder of images to a backbone: see --help. The work is in passl/planning/command.py."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import pretrain_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(pretrain_main())
