"""Train a TAE: `python scripts/train_tae.py --help`."""

import sys

from mg.cli.command import run
from mg.cli.train import command

if __name__ == "__main__":
    sys.exit(run(command))
