"""Reconstruct and measure videos: `python scripts/inference_tae.py --help`."""

import sys

from mg.cli.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
