"""Pre-train, train, evaluate or export: see --help. The work is in passl/engine/run.py."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import train_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(train_main())
