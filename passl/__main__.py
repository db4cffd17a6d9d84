"""`python -m passl` is the command `passl`."""

import sys

from .cli import main

if __name__ == '__main__':
    sys.exit(main())
