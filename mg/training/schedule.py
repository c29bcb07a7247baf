"""When things happen: pure functions of the step."""

import math

from mg.training.recipe import Recipe


def learning_rate(step: int, recipe: Recipe) -> float:
    """The rate of update `step`, counted from 0: linear warm-up, then constant or cosine."""
    if step < recipe.warmup_steps:
        return recipe.learning_rate * (step + 1) / recipe.warmup_steps
    if recipe.scheduler == "constant":
        return recipe.learning_rate
    assert recipe.scheduler == "cosine"
    done = (step - recipe.warmup_steps) / max(recipe.train_steps - 1 - recipe.warmup_steps, 1)
    span = recipe.learning_rate - recipe.end_learning_rate
    return recipe.end_learning_rate + 0.5 * span * (1 + math.cos(math.pi * done))


def is_due(step: int, every: int, last: int) -> bool:
    """Whether something is due after update `step`, counted from 1: it is done every `every`
    updates (0: never), and after the `last`."""
    return step == last or (every > 0 and step % every == 0)
