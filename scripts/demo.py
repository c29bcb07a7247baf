"""The main job in minutes: take real clips, train a small TAE, reconstruct what it has not seen."""

import sys

from mg.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
