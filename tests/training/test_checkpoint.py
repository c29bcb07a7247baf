"""Checkpoints of a run, as files."""

import json

import numpy as np
import pytest

from mg import backend
from mg.training.checkpoint import Checkpoint, read_checkpoint, write_checkpoint
from mg.training.optimizer_state import optimizer_state
from mg.training.trainer import Progress


def test_first_and_second_moments_are_saved_under_their_names():
    weight = backend.parameter(np.zeros(2, np.float32))
    adamw = backend.AdamW([weight], betas=(0.5, 0.9), epsilon=1e-8, weight_decay=0.0)
    adamw.step([backend.from_numpy(np.float32([2, -4]))], 1e-3, scale=1.0)
    arrays, steps = optimizer_state(adamw, ["a"])
    assert (list(arrays), steps) == (["first.a", "second.a"], 1)
    np.testing.assert_allclose(arrays["first.a"], [1, -2])
    np.testing.assert_allclose(arrays["second.a"], [0.4, 1.6], rtol=1e-6)


@pytest.fixture
def written(tmp_path):
    state = {"progress": {"step": 4}}
    return write_checkpoint(tmp_path, 4, Checkpoint({}, state, "seed: 1"), {})


@pytest.mark.once
def test_others_may_read_a_checkpoint(written):
    assert written.stat().st_mode & 0o777 == 0o755


@pytest.mark.once
def test_a_checkpoint_of_another_name_is_refused_before_any_is_deleted_for_it(written):
    assert read_checkpoint(written).state == {"progress": {"step": 4}}
    other = written.rename(written.with_name("step_9"))
    with pytest.raises(ValueError, match="step_9: .*its state is that after update 4"):
        read_checkpoint(other)


@pytest.mark.once
@pytest.mark.parametrize("text", ["{", "[]", "{}", json.dumps({"progress": {}}), "[" * 10**5])
def test_a_state_that_is_none_is_refused(written, text):
    (written / "state.json").write_text(text)
    with pytest.raises(ValueError, match="step_4: not a checkpoint of that name"):
        read_checkpoint(written)


@pytest.mark.once
@pytest.mark.parametrize("text", ["", "- a", "{", "a: &a 1\nb: *a"])
def test_a_recipe_that_is_none_is_refused(written, text):
    (written / "recipe.yaml").write_text(text)
    with pytest.raises(ValueError, match="step_4: not a checkpoint of that name"):
        read_checkpoint(written)


BEST = {"step": 2, "psnr": 20.5, "weights": "checkpoints/step_2/tae.safetensors"}


@pytest.mark.once
@pytest.mark.parametrize(
    "change",
    [
        {"step": -1},
        {"items": 1.0},
        {"best": "x"},
        {"best": {**BEST, "psnr": "x"}},
        {"best": {**BEST, "weights": 3}},
        {"ceiling": "ceiling/psnr"},
        {"ceiling": ["ceiling/psnr"]},
        {"ceiling": {"a": 1}},
        {"ceiling": {"ceiling/psnr": None}},
    ],
    ids=str,
)
def test_progress_that_no_run_has_made_is_refused(change):
    (name,) = change
    Progress(best=BEST, ceiling={"ceiling/psnr": 30.0, "ceiling/ssim": 0.9})
    with pytest.raises(ValueError, match=f"{name} is "):
        Progress(**change)
