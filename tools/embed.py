"""Write the features of images: see --help. The work is in passl/transfer/embedding."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import embed_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(embed_main())
