"""Reconstruct and measure videos: `python scripts/inference_tae.py --help`."""

import sys

from mg.cli.command import run
from mg.cli.evaluate import command

if __name__ == "__main__":
    sys.exit(run(command))
