"""Repeat the step at which the numbers of a run broke: see --help. The work is in passl/engine/replay.py."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import replay_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(replay_main())
