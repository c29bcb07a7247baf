"""Train a TAE: `python scripts/train_tae.py --help`."""

import sys

from mg.cli.train import main

if __name__ == "__main__":
    sys.exit(main())
