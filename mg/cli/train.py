"""Train a TAE. Worker processes import this module too, so frameworks are imported inside."""

from mg.cli.command import parse, settings_parser
from mg.training.recipe import Recipe


def command(args: list[str] | None) -> None:
    recipe = read_recipe(args)
    from mg import ranks
    from mg.training.loop import train

    trainer = train(recipe)
    if not ranks.is_first():
        return
    if trainer.step < recipe.train_steps:
        print(
            f"Stopped after update {trainer.step} of {recipe.train_steps}; the same command goes "
            f"on from update {trainer.saved}.",
            flush=True,
        )
    else:
        print(f"Trained. Checkpoint: {trainer.run.weights}", flush=True)


def read_recipe(args: list[str] | None) -> Recipe:
    """The recipe of a command line, `--config FILE` included."""
    parser = settings_parser(Recipe, "Train Movie Gen's Temporal Autoencoder on videos.")
    return parse(parser, Recipe, args)
