"""`python -m mg` is `mg`."""

import sys

from mg.cli.main import main

if __name__ == "__main__":
    sys.exit(main())
