"""``python -m recsys`` is the console script."""

import sys

from recsys.cli import main

if __name__ == "__main__":
    sys.exit(main())
