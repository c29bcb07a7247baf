"""Make a TAE's first checkpoint: `python inflate_vae_to_tae.py --help`."""

import sys

from mg.cli.command import run
from mg.cli.inflate import command

if __name__ == "__main__":
    sys.exit(run(command))
