"""``python -m zoracle``: the command line."""

import sys

from zoracle.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
