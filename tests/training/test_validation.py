"""What a run says of itself, against what the evaluation command says of its checkpoints."""

import json
import math
import shutil

import numpy as np
import pytest
from cli.support import (
    TINY,
    data_flags,
    flags,
    run,
    train_flags,
    waves,
    write_checkpoint,
    write_dataset,
    write_index,
)
from PIL import Image

from mg import backend
from mg.cli import evaluate, train
from mg.cli.main import main
from mg.data import to_uint8, write_video
from mg.evaluation.metrics import psnr
from mg.evaluation.score import judged_clip
from mg.models.tae.tae import TemporalAutoencoder
from mg.training.recipe import Recipe
from mg.training.validation import Stopped, Validation, _summary

from .test_resume import copy_run, lines_of


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("start") / "tae.safetensors")


@pytest.fixture(scope="module")
def videos(tmp_path_factory):
    """Three videos, one shorter than the clips of a validation."""
    folder = write_dataset(tmp_path_factory.mktemp("videos"), num_frames=9)
    write_video(folder / "b.mp4", waves(7, num_frames=3), fps=10)
    return folder


@pytest.fixture(scope="module")
def validated(videos, start, tmp_path_factory):
    """The directory of a run that validates twice on the way."""
    output = tmp_path_factory.mktemp("validated") / "run"
    options = {"pretrained": start, "tae_config": {}, "ema_decay": 0.5, "learning_rate": 1e-2}
    options |= {"val_csv_path": videos / "videos.csv", "val_num_frames": 6, "val_steps": 2}
    args = train_flags(videos, output, train_steps=4, ckpt_save_steps=2, **options)
    assert main(["train", *args]) == 0
    return output


def evaluated(checkpoint, videos, output, capsys):
    options = data_flags(videos, output) | {"ckpt_path": checkpoint, "compile": False}
    outcome = run(evaluate.command, flags(**options, num_frames=6, image_size=8), capsys)
    assert outcome.code == 0, outcome.err
    return json.loads((output / "metrics.json").read_text())


@pytest.mark.parametrize(
    ("step", "weights", "prefix"),
    [(0, None, "val"), (0, None, "val_ema"), (2, "tae", "val"), (4, "ema", "val_ema")],
)
def test_validation_gives_what_the_evaluation_of_the_checkpoint_gives(
    validated, videos, start, tmp_path, capsys, step, weights, prefix
):
    checkpoint = start
    if weights:
        checkpoint = validated / "checkpoints" / f"step_{step}" / f"{weights}.safetensors"
    expected = evaluated(checkpoint, videos, tmp_path, capsys)
    (line,) = [x for x in lines_of(validated) if x["step"] == step and "val/psnr" in x]
    for name in ("psnr", "ssim"):
        assert line[f"{prefix}/{name}"] == pytest.approx(expected[name], abs=1e-3)


def test_ceiling_is_the_starting_network_frame_by_frame(validated, videos, start):
    tae = TemporalAutoencoder(start)
    means = []
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        clip, frames = judged_clip(videos / name, 6, 8)
        assert frames == (3 if name == "b.mp4" else 6)
        own = clip[None, :, :frames]
        with backend.no_grad():
            images = [backend.to_numpy(tae(own[:, :, t : t + 1]))[0] for t in range(frames)]
        reconstruction = np.concatenate(images, axis=1)
        means.append(psnr(to_uint8(own[0]), to_uint8(reconstruction)).mean())
    lines = [line for line in lines_of(validated) if "val/psnr" in line]
    assert [line["step"] for line in lines] == [0, 2, 4]
    for line in lines:
        assert line["ceiling/psnr"] == pytest.approx(np.mean(means), abs=1e-3)


def test_pictures_show_original_reconstruction_and_average(validated):
    for step in (0, 2, 4):
        picture = np.asarray(Image.open(validated / "validation" / f"step_{step}.png"))
        assert picture.shape == (3 * 8, 3 * 8, 3)  # three videos of 8 pixels
        assert picture.std() > 5


def test_best_names_the_checkpoint_of_the_highest_psnr_of_the_average(validated):
    best = json.loads((validated / "best.json").read_text())
    scores = {x["step"]: x["val_ema/psnr"] for x in lines_of(validated) if "val/psnr" in x}
    del scores[0]
    assert best["step"] == max(scores, key=scores.get)
    assert best["psnr"] == scores[best["step"]]
    assert TemporalAutoencoder(validated / best["weights"]).config["z_channels"] == 2


@pytest.mark.once
def test_another_validation_forgets_the_best_and_the_ceiling_of_the_one_before(
    validated, videos, start, tmp_path, capsys, caplog
):
    output = copy_run(validated, tmp_path / "run")
    state = output / "checkpoints" / "step_4" / "state.json"
    assert json.loads(state.read_text())["progress"]["ceiling"]
    options = {"pretrained": start, "tae_config": {}, "ema_decay": 0.5, "train_steps": 5}
    options |= {"val_csv_path": videos / "videos.csv", "val_num_frames": 4, "learning_rate": 1.0}
    assert run(train.command, train_flags(videos, output, **options), capsys).code == 0
    assert "best score and ceiling so far are discarded" in caplog.text
    (line,) = [x for x in lines_of(output) if x["step"] == 5 and "val/psnr" in x]
    assert "ceiling/psnr" not in line
    best = json.loads((output / "best.json").read_text())
    assert (best["step"], best["psnr"]) == (5, line["val_ema/psnr"])


def test_the_weights_to_use_are_the_average(validated):
    final = TemporalAutoencoder(validated / f"tae{backend.checkpoint_suffix}")
    average = TemporalAutoencoder(validated / "checkpoints" / "step_4" / "ema.safetensors")
    latest = TemporalAutoencoder(validated / "checkpoints" / "step_4" / "tae.safetensors")
    values = [
        [backend.to_numpy(p) for p in backend.named_parameters(tae).values()]
        for tae in (final, average, latest)
    ]
    assert all(np.array_equal(a, b) for a, b in zip(values[0], values[1], strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(values[0], values[2], strict=True))


@pytest.mark.once
def test_first_last_and_seam_frames_stand_apart():
    values = np.arange(70.0)
    summary = _summary({"psnr": values, "ssim": values / 70})
    assert summary["psnr_first"] == 0
    assert summary["psnr_last"] == 69
    assert summary["psnr_seams"] == np.mean([31, 32, 63, 64])
    assert summary["psnr"] == pytest.approx(34.5)
    assert "psnr_seams" not in _summary({"psnr": values[:32]})


@pytest.mark.parametrize("part", ["encoder.conv_in", "decoder.conv_out"])
def test_a_network_that_has_diverged_scores_nan_and_goes_on_until_too_much_is_skipped(
    videos, start, tmp_path, capsys, part
):
    tae = TemporalAutoencoder(start)
    for layer in ("conv_spat", "conv_temp"):  # whose sum no float32 holds
        bias = backend.named_parameters(tae)[f"{part}.{layer}.bias"]
        backend.assign(bias, np.full(tuple(bias.shape), 3e38, np.float32))
    tae.save_checkpoint(tmp_path / "diverged.safetensors")
    options = {"pretrained": tmp_path / "diverged.safetensors", "tae_config": {}, "val_steps": 1}
    options |= {"val_csv_path": videos / "videos.csv", "max_skipped_updates": 1, "ema_decay": 0.5}
    outcome = run(train.command, train_flags(videos, tmp_path / "run", **options), capsys)
    assert outcome.code == 2
    assert "stopped after update 2: 2 in a row" in outcome.err[-1]
    assert outcome.err[-1].endswith("begins anew")
    lines = [line for line in lines_of(tmp_path / "run") if "val/psnr" in line]
    assert [line["step"] for line in lines] == [0, 1, 2]
    for line in lines:
        assert {line[f"{name}/psnr"] for name in ("val", "val_ema", "ceiling")} == {None}
    assert not (tmp_path / "run" / "best.json").exists()


@pytest.mark.once
def test_validation_without_a_readable_video_is_an_error_that_leaves_no_run(tmp_path, capsys):
    videos = write_dataset(tmp_path / "videos")
    (videos / "text.mp4").write_text("no video")
    (tmp_path / "val.csv").write_text("video\ntext.mp4\n")
    args = train_flags(videos, tmp_path / "run", val_csv_path=tmp_path / "val.csv")
    outcome = run(train.command, args, capsys)
    assert outcome.code == 2
    assert "none of the 1 validation videos can be read" in outcome.err[-1]
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(backend.name != "torch", reason="MindSpore has no fp16 on the CPU")
def test_fp16_trains_with_a_loss_scale_where_the_device_has_it(videos, tmp_path, capsys):
    options = {"dtype": "fp16", "train_steps": 6, "disc_weight": 0.5, "disc_start": 3}
    options |= {"disc_layers": 1, "disc_ndf": 4}
    outcome = run(train.command, train_flags(videos, tmp_path / "run", **options), capsys)
    assert outcome.code == 0, outcome.err
    lines = lines_of(tmp_path / "run")
    assert all(math.isfinite(line["loss"]) for line in lines)
    assert lines[0]["loss_scale"] == 2**16
    assert lines[-1]["skipped_updates"] == 0
    assert lines[-1]["loss_scale"] <= 2**16


@pytest.mark.once
def test_videos_of_a_validation_come_from_a_folder_of_their_own(videos, tmp_path):
    write_dataset(tmp_path, names=("d.mp4",), num_frames=3)
    options = {"csv_path": str(videos / "videos.csv"), "video_folder": str(videos)}
    options |= {"output_path": str(tmp_path / "run"), "perceptual_weight": 0, "image_size": 8}
    options |= {"val_csv_path": str(tmp_path / "videos.csv"), "val_video_folder": str(tmp_path)}
    tae = TemporalAutoencoder(config=TINY)
    validation = Validation(Recipe(**options), tae, None)
    assert validation.ceiling(lambda: False)["ceiling/psnr"] > 0
    with pytest.raises(Stopped):
        validation.ceiling(lambda: True)


@pytest.mark.once
def test_the_best_is_one_that_was_saved_even_where_training_makes_it_worse(
    videos, start, tmp_path, capsys
):
    options = {"pretrained": start, "tae_config": {}, "learning_rate": 1.0, "train_steps": 2}
    options |= {"val_csv_path": videos / "videos.csv", "val_num_frames": 6, "val_steps": 1}
    output = tmp_path / "run"
    assert run(train.command, train_flags(videos, output, **options), capsys).code == 0
    scores = [line["val/psnr"] for line in lines_of(output) if "val/psnr" in line]
    assert scores[0] == max(scores)
    best = json.loads((output / "best.json").read_text())
    assert best["psnr"] == max(scores[1:])
    assert (output / best["weights"]).is_file()


@pytest.mark.once
def test_a_video_that_cannot_be_validated_with_is_named_once(videos, tmp_path, caplog):
    write_index(tmp_path, ["gone.mp4", "a.mp4"])
    options = {"csv_path": str(videos / "videos.csv"), "video_folder": str(videos)}
    options |= {"output_path": str(tmp_path / "run"), "perceptual_weight": 0, "image_size": 8}
    recipe = Recipe(**options, val_csv_path=str(tmp_path / "videos.csv"))
    validation = Validation(recipe, TemporalAutoencoder(config=TINY), None)
    validation.ceiling(lambda: False)
    assert [record.getMessage().count("gone.mp4") for record in caplog.records] == [1]


@pytest.mark.once
def test_a_validation_over_fewer_videos_is_never_the_best(videos, start, tmp_path, capsys):
    folder = shutil.copytree(videos, tmp_path / "videos")
    options = {"pretrained": start, "tae_config": {}, "learning_rate": 0, "keep_checkpoints": 1}
    options |= {"val_csv_path": folder / "videos.csv", "val_video_folder": folder}
    options |= {"val_num_frames": 6, "val_steps": 1}
    output = tmp_path / "run"
    read = []
    for step, hidden in ((1, None), (2, "a.mp4"), (3, None)):
        if hidden:
            (folder / hidden).rename(folder / "hidden")
        args = train_flags(videos, output, train_steps=step, **options)
        assert run(train.command, args, capsys).code == 0
        if hidden:
            (folder / "hidden").rename(folder / hidden)
        read.append(json.loads((output / "best.json").read_text()))
    assert [best["step"] for best in read] == [1, 1, 1]
    assert read[0]["videos"] == 3
    lines = [line for line in lines_of(output) if "val/videos" in line]
    assert [line["val/videos"] for line in lines] == [3, 3, 2, 3]
    assert lines[2]["val/psnr"] > lines[1]["val/psnr"]
