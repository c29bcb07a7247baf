import contextlib
import json
import logging
import math
import shutil
import struct

import numpy as np
import pytest
from cli.support import (
    TINY,
    run,
    train_flags,
    write_checkpoint,
    write_dataset,
    write_index,
    write_squeezenet_lpips,
)
from devices import HAS_HALF, ON_CPU

from mg import backend
from mg.cli import train
from mg.cli.command import parse, settings_parser
from mg.cli.main import main
from mg.data import write_video
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import read_weights
from mg.training import trainer
from mg.training.checkpoint import list_checkpoints, step_of
from mg.training.recipe import Recipe
from mg.training.step import TrainStep

from .conftest import RUN

CHECKPOINT = f"tae{backend.checkpoint_suffix}"


def metrics_of(directory):
    return [json.loads(line) for line in (directory / "metrics.jsonl").read_text().splitlines()]


def untimed(line):
    return {key: value for key, value in line.items() if "seconds" not in key}


def scalars_of(directory):
    """The scalars that TensorBoard shows, {name: [(step, value)]}, read from its records: the
    start of a later file, in a run that went on, takes off what came before from its step on."""
    from tensorboardX.proto import event_pb2  # MindSpore has to be imported before

    scalars = {}
    for path in sorted(
        (directory / "tensorboard").iterdir(), key=lambda path: path.stat().st_mtime
    ):
        data, place = path.read_bytes(), 0
        while place < len(data):
            (length,) = struct.unpack_from("<Q", data, place)
            event = event_pb2.Event.FromString(data[place + 12 : place + 12 + length])
            if event.HasField("session_log"):
                for shown in scalars.values():
                    shown[:] = [scalar for scalar in shown if scalar[0] < event.step]
            for value in event.summary.value:
                scalars.setdefault(value.tag, []).append((event.step, value.simple_value))
            place += length + 16
    return scalars


def assert_tensorboard_shows_the_metrics(directory):
    expected = {}
    for line in metrics_of(directory):
        step = line.pop("step")
        for name, value in line.items():
            expected.setdefault(name, []).append((step, pytest.approx(value, rel=1e-6)))
    assert scalars_of(directory) == expected


def files_below(directory):
    return {path: path.read_bytes() for path in directory.rglob("*") if path.is_file()}


class RecordingStep(TrainStep):
    """A training step that records what it is asked and what it gives."""

    def __init__(self, tae, objective, optimizer, **options):
        super().__init__(tae, objective, optimizer, **options)
        self.calls, self.metrics, self.options = [], [], options
        RecordingStep.last = self

    def __call__(self, step, videos, learning_rate):
        self.calls.append((step, [video.shape for video in videos], learning_rate))
        self.metrics.append(super().__call__(step, videos, learning_rate))
        return self.metrics[-1]


@pytest.fixture
def recorded(monkeypatch):
    monkeypatch.setattr(trainer, "TrainStep", RecordingStep)
    return RecordingStep


# What a run leaves


def test_checkpoint_of_a_run_loads_with_its_config(run_directory):
    tae = TemporalAutoencoder(run_directory / CHECKPOINT)
    assert {key: tae.config[key] for key in TINY} == TINY
    initial = TemporalAutoencoder(None, TINY, seed=0)
    trained = backend.named_parameters(tae)
    moved = [
        name
        for name, parameter in backend.named_parameters(initial).items()
        if not np.array_equal(backend.to_numpy(parameter), backend.to_numpy(trained[name]))
    ]
    assert len(moved) > 0.9 * len(trained)


def test_metrics_have_a_line_at_every_interval_and_at_the_end(run_directory):
    lines = metrics_of(run_directory)
    assert [line["step"] for line in lines] == [2, 4, 5]
    for line in lines:
        assert list(line) == [
            "step",
            "loss",
            "psnr",
            "reconstruction",
            "kl",
            "outlier_penalty",
            "grad_norm",
            "skipped_updates",
            "learning_rate",
            "frames",
            "seconds",
            "data_seconds",
        ]
        assert all(math.isfinite(value) for value in line.values())
        assert line["learning_rate"] == 1e-3
        assert line["frames"] == 4
        assert line["seconds"] > line["data_seconds"] > 0
        assert line["loss"] == pytest.approx(line["reconstruction"] + 1e-6 * line["kl"], rel=1e-5)


def test_tensorboard_holds_the_numbers_of_the_metrics(run_directory):
    assert_tensorboard_shows_the_metrics(run_directory)


def test_tensorboard_shows_each_step_once_of_a_run_that_went_back(videos, tmp_path, capsys):
    output = tmp_path / "run"
    options = {"log_interval": 1, "ckpt_save_steps": 2}
    for steps in (4, 6):
        args = train_flags(videos, output, **{**options, "train_steps": steps})
        assert run(train.command, args, capsys).code == 0
        if steps == 4:
            shutil.rmtree(list_checkpoints(output / "checkpoints")[-1])
    assert [line["step"] for line in metrics_of(output)] == [1, 2, 3, 4, 5, 6]
    assert_tensorboard_shows_the_metrics(output)


def test_weights_of_an_earlier_end_on_the_other_framework_are_named(videos, tmp_path, caplog):
    older = tmp_path / "run" / ("tae.ckpt" if backend.name == "torch" else "tae.safetensors")
    assert main(["train", *train_flags(videos, tmp_path / "run", train_steps=1)]) == 0
    assert "earlier end" not in caplog.text
    older.write_bytes(b"weights")
    assert main(["train", *train_flags(videos, tmp_path / "run", train_steps=2)]) == 0
    assert f"{older}: left by an earlier end of this run" in caplog.text
    assert older.read_bytes() == b"weights"


def test_no_batch_is_read_for_an_update_beyond_the_last(videos, tmp_path, monkeypatch):
    reads = []
    read = trainer.Trainer._read
    monkeypatch.setattr(trainer.Trainer, "_read", lambda self: reads.append(1) or read(self))
    assert main(["train", *train_flags(videos, tmp_path / "run", train_steps=3)]) == 0
    assert len(reads) == 3


def test_recipe_of_a_run_reads_back_the_same(run_directory, videos):
    parser = settings_parser(Recipe, "")
    kept = parse(parser, Recipe, ["--config", str(run_directory / "recipe.yaml")])
    assert kept == parse(parser, Recipe, train_flags(videos, run_directory, **RUN))


def test_nothing_else_lies_in_a_run_directory(run_directory):
    assert sorted(path.name for path in run_directory.iterdir()) == sorted(
        [".lock", CHECKPOINT, "checkpoints", "metrics.jsonl", "recipe.yaml", "tensorboard"]
    )


def test_same_seed_same_metrics_and_weights(run_directory, videos, tmp_path, capsys):
    output = tmp_path / "again"
    assert run(train.command, train_flags(videos, output, **RUN), capsys).code == 0
    for first, second in zip(metrics_of(run_directory), metrics_of(output), strict=True):
        assert untimed(first) == untimed(second)
    first, _ = read_weights(run_directory / CHECKPOINT)
    second, _ = read_weights(output / CHECKPOINT)
    assert first.keys() == second.keys()
    assert all(np.array_equal(first[name], second[name]) for name in first)


# The loop


@pytest.mark.skipif(not ON_CPU, reason="the defaults of a CPU")
@pytest.mark.parametrize(
    ("options", "compiles"),
    [
        pytest.param({"compile": True, "use_recompute": True}, True, id="told to"),
        pytest.param({"compile": False}, False, id="told not to"),
        pytest.param({"compile": "null"}, backend.name == "mindspore", id="by default"),
        pytest.param({"compile": "null", "use_recompute": True}, False, id="to save memory"),
    ],
)
def test_a_run_that_compiles_says_so(videos, tmp_path, caplog, options, compiles):
    args = train_flags(videos, tmp_path / "run", **options)
    with caplog.at_level(logging.INFO), contextlib.ExitStack() as stack:
        trainer.Trainer(train.read_recipe(args), stack)
    assert ("the network is compiled for each size" in caplog.text) == compiles


def steps_kept(output):
    return [step_of(path) for path in list_checkpoints(output / "checkpoints")]


def test_checkpoint_is_written_at_every_interval_and_at_the_end(videos, tmp_path, capsys):
    args = train_flags(videos, tmp_path / "run", train_steps=5, ckpt_save_steps=2)
    outcome = run(train.command, args, capsys)
    assert outcome.code == 0
    assert steps_kept(tmp_path / "run") == [2, 4, 5]
    assert outcome.out == [f"Trained. Checkpoint: {tmp_path / 'run' / CHECKPOINT}"]


def test_checkpoint_interval_zero_is_the_end_only(videos, tmp_path, capsys):
    args = train_flags(videos, tmp_path / "run", train_steps=2, ckpt_save_steps=0)
    assert run(train.command, args, capsys).code == 0
    assert steps_kept(tmp_path / "run") == [2]


def test_only_the_newest_checkpoints_are_kept(videos, tmp_path, capsys):
    options = {"train_steps": 4, "ckpt_save_steps": 1, "keep_checkpoints": 2}
    args = train_flags(videos, tmp_path / "run", **options)
    assert run(train.command, args, capsys).code == 0
    assert steps_kept(tmp_path / "run") == [3, 4]


def test_loop_hands_over_accumulated_batches_rates_and_settings(
    videos, tmp_path, capsys, recorded, monkeypatch
):
    optimizers = []

    class RecordedAdamW(backend.AdamW):
        def __init__(self, parameters, **options):
            optimizers.append(options)
            super().__init__(parameters, **options)

    monkeypatch.setattr(backend, "AdamW", RecordedAdamW)
    args = train_flags(
        videos,
        tmp_path / "run",
        train_steps=3,
        batch_size=2,
        gradient_accumulation_steps=2,
        warmup_steps=2,
        learning_rate=0.005,
        max_grad_norm=0.25,
        seed=9,
        jit_level="O1",
        betas="[0.8,0.95]",
        optim_eps=1e-6,
        weight_decay=0.125,
        disc_weight=0.5,
        disc_start=100,
        disc_ndf=4,
        disc_layers=1,
    )
    assert run(train.command, args, capsys).code == 0
    shape = (2, 3, 4, 8, 8)
    assert recorded.last.calls == [
        (1, [shape, shape], 0.0025),
        (2, [shape, shape], 0.005),
        (3, [shape, shape], 0.005),
    ]
    assert optimizers == [
        {"betas": (0.8, 0.95), "epsilon": 1e-6, "weight_decay": 0.125},
        {"betas": (0.5, 0.9), "epsilon": 1e-8, "weight_decay": 0.125},
    ]
    assert recorded.last.options.pop("adversary") is not None
    assert recorded.last.options == {
        "max_grad_norm": 0.25,
        "ema_decay": 0.0,
        "loss_scale": None,
        "disc_start": 100,
        "compile": False,
        "jit_level": "O1",
        "seed": 9,
    }


def test_progress_bar_shows_loss_psnr_and_seconds(videos, tmp_path, capsys, recorded):
    outcome = run(train.command, train_flags(videos, tmp_path / "run"), capsys)
    for metrics in recorded.last.metrics:
        shown = f"loss {metrics['loss']:.4g}, PSNR {metrics['psnr']:.2f} dB, "
        assert shown in "".join(outcome.err)
    assert "s/step" in "".join(outcome.err)


@pytest.mark.parametrize("strategy", ["mixed_video_image", "mixed_video_random"])
def test_images_and_videos_train_in_one_run(videos, tmp_path, capsys, strategy):
    # With this seed the first two batches are of the two lengths.
    options = {"mixed_strategy": strategy, "mixed_image_ratio": 0.5, "seed": 1}
    args = train_flags(videos, tmp_path / "run", **options)
    assert run(train.command, args, capsys).code == 0
    lines = metrics_of(tmp_path / "run")
    assert {line["frames"] for line in lines} == {1, 4}
    assert all(math.isfinite(line["loss"]) for line in lines)


def test_images_alone_can_be_trained_on(videos, tmp_path, capsys, recorded):
    args = train_flags(videos, tmp_path / "run", mixed_strategy="image_only", num_frames=16)
    assert run(train.command, args, capsys).code == 0
    assert [shapes for _, shapes, _ in recorded.last.calls] == [[(1, 3, 1, 8, 8)]] * 2


def test_broken_videos_are_skipped_logged_once_and_named_at_the_end(tmp_path, capsys, caplog):
    write_dataset(tmp_path, ["a.mp4"])
    (tmp_path / "text.mp4").write_text("I am no video\n" * 50)
    write_index(tmp_path, ["a.mp4", "text.mp4", "none.mp4"])
    with caplog.at_level(logging.WARNING):
        args = train_flags(tmp_path, tmp_path / "run", train_steps=4)
        assert run(train.command, args, capsys).code == 0
    messages = [record.getMessage() for record in caplog.records]
    for name in ("text.mp4", "none.mp4"):
        assert sum(f"skipped {name}: " in message for message in messages) == 1
    assert messages[-1] == "2 videos could not be used: none.mp4, text.mp4"


def test_training_starts_from_the_weights_and_config_of_a_checkpoint(videos, tmp_path, capsys):
    start = write_checkpoint(tmp_path / "start.safetensors", norm_scope="clip")
    options = {"pretrained": start, "tae_config": {}, "learning_rate": 0, "train_steps": 1}
    assert run(train.command, train_flags(videos, tmp_path / "run", **options), capsys).code == 0
    first, first_config = read_weights(start)
    second, second_config = read_weights(tmp_path / "run" / CHECKPOINT)
    assert first_config == second_config
    assert first_config["norm_scope"] == "clip"
    assert all(np.array_equal(first[name], second[name]) for name in first)


def test_training_goes_on_from_the_weights_of_a_run(run_directory, videos, tmp_path, capsys):
    start, output = run_directory / CHECKPOINT, tmp_path / "run"
    options = {"pretrained": start, "tae_config": {}, "train_steps": 1, "learning_rate": 1e-6}
    assert run(train.command, train_flags(videos, output, **options), capsys).code == 0
    first, _ = read_weights(start)
    second, _ = read_weights(output / CHECKPOINT)
    moves = [np.abs(first[name] - second[name]).max() for name in first]
    assert 0 < max(moves) < 1e-5


# What is refused


def test_a_data_set_that_is_elsewhere_is_refused(tmp_path, capsys):
    videos = write_dataset(tmp_path / "videos")
    for changes in ({"video_folder": tmp_path}, {"val_video_folder": tmp_path}):
        if "val_video_folder" in changes:
            changes["val_csv_path"] = videos / "videos.csv"
        outcome = run(train.command, train_flags(videos, tmp_path / "run", **changes), capsys)
        outcome.assert_refused("videos is there, expected them in", "a.mp4")
        assert not (tmp_path / "run").exists()


def test_data_set_without_a_readable_video_leaves_no_run(tmp_path, capsys):
    (tmp_path / "a.mp4").write_text("no video")
    (tmp_path / "b.mp4").touch()
    write_index(tmp_path, ["a.mp4", "b.mp4", "c.mp4"])
    outcome = run(train.command, train_flags(tmp_path, tmp_path / "run"), capsys)
    outcome.assert_refused("none of the 3 videos can be read")
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"image_size": 12, "tae_config": {**TINY, "ch_mult": [1, 1, 2, 2]}}, ("image_size", "8")),
        ({"image_size": 9}, ("image_size is 9", "multiple of 2")),
        ({"image_size": 4}, ("image_size", "at least 8", "4")),
        ({"mixed_strategy": "mixed"}, ("mixed_strategy", "mixed_video_image", "'mixed'")),
        ({"mixed_image_ratio": 1.5}, ("mixed_image_ratio", "0 to 1", "1.5")),
        ({"device_target": "TPU"}, ("device_target", "'TPU'", "CPU", "auto")),
        ({"dtype": "fp8"}, ("dtype", "'fp8'", "fp32", "bf16")),
        ({"video_column": "path"}, ("no column 'path'", "video")),
        ({"csv_path": "none.csv"}, ("none.csv", "no such CSV file")),
        ({"video_folder": "none"}, ("none", "no such video folder")),
        ({"pretrained": "none.safetensors"}, ("none.safetensors", "no such checkpoint")),
        ({"tae_config": {**TINY, "out_ch": 1}}, ("tae_config", "3 channels in and 1 out")),
        ({"tae_config": {"channels": 8}}, ("channels", "unknown TAE config key")),
        ({"tae_config": {**TINY, "num_groups": 3}}, ("num_groups", "4 x 1")),
        (
            {"perceptual_weight": 1, "lpips_weights": "none.safetensors"},
            ("none.safetensors", "no such file of LPIPS weights"),
        ),
    ],
)
def test_what_does_not_fit_is_named_in_one_line_and_no_run_is_left(
    videos, tmp_path, capsys, changes, expected
):
    outcome = run(train.command, train_flags(videos, tmp_path / "run", **changes), capsys)
    outcome.assert_refused(*expected)
    assert not (tmp_path / "run").exists()


@pytest.mark.once
def test_frames_too_small_for_lpips_are_refused_and_no_run_is_left(
    videos, test_data, tmp_path, capsys
):
    weights = write_squeezenet_lpips(test_data, tmp_path / "lpips.safetensors")
    options = {"perceptual_weight": 1, "lpips_weights": weights}
    outcome = run(train.command, train_flags(videos, tmp_path / "run", **options), capsys)
    outcome.assert_refused("8x8 pixels", "LPIPS needs at least 17x17")
    assert not (tmp_path / "run").exists()


def test_a_truncated_checkpoint_is_refused(videos, tmp_path, capsys):
    start = write_checkpoint(tmp_path / "start.safetensors")
    start.write_bytes(start.read_bytes()[:-100])
    args = train_flags(videos, tmp_path / "run", pretrained=start)
    run(train.command, args, capsys).assert_refused("start.safetensors", "not a whole")
    assert not (tmp_path / "run").exists()


def test_a_checkpoint_that_does_not_fit_the_config_is_refused(videos, tmp_path, capsys):
    start = write_checkpoint(tmp_path / "start.safetensors")
    config = {**TINY, "z_channels": 3}
    args = train_flags(videos, tmp_path / "run", pretrained=start, tae_config=config)
    run(train.command, args, capsys).assert_refused("start.safetensors", "conv_out", "(6,", "(4,")


def test_a_file_where_the_run_directory_should_be_is_named(videos, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    outcome = run(train.command, train_flags(videos, tmp_path / "file" / "run"), capsys)
    outcome.assert_refused(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "kept"


@pytest.mark.skipif(HAS_HALF, reason="this device has bf16")
def test_bf16_on_the_cpu_is_refused_at_start(videos, tmp_path, capsys):
    outcome = run(train.command, train_flags(videos, tmp_path / "run", dtype="bf16"), capsys)
    outcome.assert_refused("dtype is 'bf16'", "CPU", "fp32")
    assert not (tmp_path / "run").exists()


@pytest.mark.skipif(not HAS_HALF, reason="MindSpore has no bf16 on the CPU")
def test_bf16_trains_where_the_device_has_it(videos, tmp_path, capsys):
    args = train_flags(videos, tmp_path / "run", dtype="bf16", use_recompute=True)
    assert run(train.command, args, capsys).code == 0
    assert all(math.isfinite(line["loss"]) for line in metrics_of(tmp_path / "run"))


def test_colour_start_begins_with_the_colours_of_a_video(tmp_path):
    videos = tmp_path / "videos"
    videos.mkdir()
    frames = np.broadcast_to(np.uint8([200, 60, 120]), (4, 32, 32, 3))
    write_video(videos / "a.mp4", frames, fps=10)
    write_index(videos, ["a.mp4"])
    first = {}
    for start in (False, True):
        options = {"colour_start": start, "tae_config": {**TINY, "ch": 16, "z_channels": 3}}
        options |= {"train_steps": 1, "image_size": 32, "val_csv_path": videos / "videos.csv"}
        output = tmp_path / f"run_{start}"
        assert main(["train", *train_flags(videos, output, **options)]) == 0
        first[start] = metrics_of(output)[0]["val/psnr"]
    assert first[True] > max(15, first[False] + 3)


@pytest.mark.once
@pytest.mark.parametrize(
    "change",
    [
        {"max_zoom": 4.0},
        {"random_flip": True},
        {"random_crop": True},
        {"sample_stride": 2},
        {"seed": 1},
        {"mixed_strategy": "image_only"},
    ],
    ids=str,
)
def test_what_the_recipe_says_of_clips_reaches_them(tmp_path, change):
    folder = write_dataset(tmp_path, num_frames=12, height=48, width=64)
    options = {"num_frames": 4, "image_size": 8, "batch_size": 3, "num_workers": 0}
    options |= {"max_zoom": 1.0, "random_flip": False, "random_crop": False, "sample_stride": 1}
    options |= {"csv_path": str(folder / "videos.csv"), "video_folder": str(folder), "seed": 0}
    options |= {"output_path": str(tmp_path / "run"), "perceptual_weight": 0}

    def first(**changes):
        recipe = Recipe(**{**options, **changes})
        with trainer._batches(recipe, trainer.Progress()) as batches:
            return next(iter(batches)).video

    assert np.array_equal(first(), first())
    assert not np.array_equal(first(), first(**change))
