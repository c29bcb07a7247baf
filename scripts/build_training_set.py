"""Build a training set from packages: `python scripts/build_training_set.py --help`."""

import sys

from mg.cli.build_training_set import main

if __name__ == "__main__":
    sys.exit(main())
