"""The training loop."""

import contextlib

from mg import backend, ranks
from mg.interruption import Interruption
from mg.training.recipe import Recipe
from mg.training.schedule import is_due
from mg.training.trainer import Trainer


def train(recipe: Recipe) -> Trainer:
    """Train by `recipe`, from the newest checkpoint in `output_path` if there is one, until
    `train_steps` updates are done, or until a signal asks to end. Then the update at hand is
    finished and saved; a validation ends after the video at hand, and is done anew when the run
    goes on. While updates are skipped nothing is saved: the weights may be ruined.

    Raises:
        ValueError, OSError: what is wrong with the recipe, data, weights, device or directory; or
            more than `max_skipped_updates` updates in a row, or the last one, were not finite.
    """
    backend.set_device(recipe.device_target, exact=recipe.dtype == "fp32")
    ranks.join()
    with contextlib.ExitStack() as stack:
        trainer = Trainer(recipe, stack)
        interruption = stack.enter_context(Interruption())

        def stopped() -> bool:
            """Whether one of the processes was asked to stop."""
            return any(ranks.gather(interruption.requested))

        trainer.validate_start(stopped)
        saving, stopping = False, stopped()
        while trainer.step < recipe.train_steps and not stopping:
            trainer.update()
            improved = is_due(trainer.step, recipe.val_steps, recipe.train_steps)
            improved = improved and trainer.validate(stopped)
            stopping = stopped() or trainer.diverged
            saving |= is_due(trainer.step, recipe.ckpt_save_steps, recipe.train_steps)
            if (saving or improved or stopping) and not trainer.skipping:
                trainer.save()
                saving = False
        trainer.finish()
    return trainer
