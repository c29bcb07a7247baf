"""The main job in minutes: reconstruct real clips by the weights in the box, fine-tune, compare."""

import sys

from mg.cli.demo import main

if __name__ == "__main__":
    sys.exit(main())
