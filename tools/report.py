"""Write the report of a run, or of several, as one HTML file: see --help. The work is in passl/report."""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))  # a clone works uninstalled

from passl.cli import report_main  # noqa: E402

if __name__ == '__main__':
    sys.exit(report_main())
