"""Detection and instance segmentation with PaddleDetection: see --help. The work is in passl/transfer/paddledet."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import transfer_det_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(transfer_det_main())
