import math

import pytest

from mg.training.recipe import Recipe
from mg.training.schedule import is_due, learning_rate

pytestmark = pytest.mark.once


def rates(count, **keys):
    paths = dict.fromkeys(("csv_path", "video_folder", "output_path"), "a")
    recipe = Recipe(**paths, perceptual_weight=0, train_steps=count, **keys)
    return [learning_rate(step, recipe) for step in range(count)]


def test_constant_is_constant():
    assert rates(5, learning_rate=0.1) == [0.1] * 5


def test_warm_up_rises_linearly_and_never_is_zero():
    assert rates(6, learning_rate=0.4, warmup_steps=4) == pytest.approx(
        [0.1, 0.2, 0.3, 0.4, 0.4, 0.4]
    )


def test_cosine_ends_at_its_end_after_warm_up():
    keys = {"learning_rate": 1.0, "end_learning_rate": 0.2, "scheduler": "cosine"}
    assert rates(9, **keys)[0] == 1.0
    assert rates(9, **keys)[4] == pytest.approx(0.6)
    assert rates(9, **keys)[-1] == pytest.approx(0.2)
    warm = rates(9, **keys, warmup_steps=4)
    assert warm[:4] == pytest.approx([0.25, 0.5, 0.75, 1.0])
    assert warm[4] == 1.0
    assert warm[6] == pytest.approx(0.2 + 0.4 * (1 + math.cos(math.pi / 2)))
    assert warm[-1] == pytest.approx(0.2)


@pytest.mark.parametrize("warmup_steps", [0, 3, 4, 5, 50])
def test_cosine_stays_within_its_ends_however_long_the_warm_up(warmup_steps):
    keys = {"learning_rate": 1.0, "end_learning_rate": 0.2, "scheduler": "cosine"}
    values = rates(4, **keys, warmup_steps=warmup_steps)
    assert all(0 < value <= 1 for value in values)
    assert values[:warmup_steps] == sorted(values[:warmup_steps])


def test_one_step_of_cosine_starts_at_the_learning_rate():
    assert rates(1, learning_rate=0.5, scheduler="cosine") == [0.5]


def test_due_are_the_multiples_and_the_last():
    assert [step for step in range(1, 11) if is_due(step, 4, 10)] == [4, 8, 10]
    assert [step for step in range(1, 11) if is_due(step, 1, 10)] == list(range(1, 11))


def test_zero_is_due_at_the_last_only():
    assert [step for step in range(1, 11) if is_due(step, 0, 10)] == [10]
