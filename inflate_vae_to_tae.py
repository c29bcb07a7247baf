"""Make a TAE's first checkpoint: `python inflate_vae_to_tae.py --help`."""

import sys

from mg.cli.inflate import main

if __name__ == "__main__":
    sys.exit(main())
