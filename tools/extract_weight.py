"""Write the backbone of a checkpoint to a file of its own: see --help. The work is in utils/weights/extract.py."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import extract_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(extract_main())
