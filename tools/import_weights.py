"""Take the backbone out of another library's weight file: see --help. The work is in passl/transfer/weights."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import import_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(import_main())
