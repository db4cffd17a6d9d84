"""Tell what this machine is and whether trainings work on it: see --help. The work is in passl/environment."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import env_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(env_main())
