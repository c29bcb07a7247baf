"""Train a TAE. Worker processes import this module too, so frameworks are imported inside."""

import sys

from mg.cli.command import parse, run, settings_parser
from mg.training.recipe import Recipe


def command(args: list[str] | None) -> None:
    parser = settings_parser(Recipe, "Train Movie Gen's Temporal Autoencoder on videos.")
    recipe = parse(parser, Recipe, args)
    from mg.training.loop import train

    directory = train(recipe)
    print(f"Trained. Checkpoint: {directory.checkpoint}", flush=True)


def main(args: list[str] | None = None) -> int:
    """The command `scripts/train_tae.py`."""
    return run(command, args)


if __name__ == "__main__":
    sys.exit(main())
