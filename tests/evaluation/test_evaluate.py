import csv
import hashlib
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from cli.support import (
    TINY,
    data_flags,
    flags,
    run,
    waves,
    write_checkpoint,
    write_dataset,
    write_index,
    write_squeezenet_lpips,
)
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from mg import backend
from mg.cli.evaluate import command
from mg.cli.main import main
from mg.data import count_frames, read_fps, read_frames, to_float, write_video
from mg.evaluation import evaluate as evaluation
from mg.evaluation import network
from mg.evaluation.score import score
from mg.files import lock_folder
from mg.losses.lpips import LPIPS
from mg.models.tae.config import check_config
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import read_weights, write_weights

from .pages import read_page

NAMES = ["a.mp4", "sub/b.mp4", "c.mp4"]
SIZE, FRAMES = 16, 5


@pytest.fixture(scope="package")
def videos(tmp_path_factory):
    """Three square videos of 16 pixels: of 8, of 3 and of 8 frames."""
    folder = tmp_path_factory.mktemp("videos")
    for seed, (name, num_frames) in enumerate(zip(NAMES, (8, 3, 8), strict=True)):
        write_video(folder / name, waves(seed, num_frames), fps=12)
    write_index(folder, NAMES)
    return folder


@pytest.fixture(scope="package")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("weights") / "tae.safetensors")


def evaluate_flags(checkpoint, folder, output, **changes):
    options = {
        "ckpt_path": checkpoint,
        **data_flags(folder, output),
        "num_frames": FRAMES,
        "image_size": SIZE,
        **changes,
    }
    return flags(**options)


@pytest.fixture(scope="package")
def evaluated(videos, checkpoint, tmp_path_factory):
    """What the README's command writes for these videos, as by default."""
    output = tmp_path_factory.mktemp("out") / "samples" / "recons"
    assert main(["evaluate", *evaluate_flags(checkpoint, videos, output)]) == 0
    return output


def rows_of(output):
    with (output / "metrics.csv").open(newline="") as file:
        return {row["video"]: row for row in csv.DictReader(file)}


def summary_of(output):
    return json.loads((output / "metrics.json").read_text())


class Exact:
    """A network that gives back what it gets, at no cost."""

    config = check_config(TINY)

    def __init__(self, path, **options):
        read_weights(path)
        Exact.options, Exact.shapes = options, []

    def encode(self, video, sample):
        assert not sample
        Exact.shapes.append(tuple(video.shape))
        return video, video, video

    def decode(self, mean, num_frames, size):
        assert (num_frames, *size) == tuple(mean.shape[2:])
        return mean


@pytest.fixture
def exact(monkeypatch):
    monkeypatch.setattr(network, "TemporalAutoencoder", Exact)
    return Exact


# Numbers


def expected_frames(path, checkpoint, num_frames):
    """The first frames and what the network makes of its posterior's mean, by other means."""
    available = min(count_frames(path), num_frames)
    index = [
        frame if frame < available else 2 * available - 2 - frame for frame in range(num_frames)
    ]
    clip = read_frames(path, index)
    x = np.moveaxis(clip, -1, 0)[None].astype(np.float64) / 255 * 2 - 1
    tae = TemporalAutoencoder(checkpoint)
    with backend.no_grad():
        _, mean, _ = tae.encode(x.astype(np.float32), sample=False)
        y = backend.to_numpy(tae.decode(mean, num_frames))[0]
    rounded = np.floor(np.clip((y.astype(np.float64) + 1) / 2 * 255, 0, 255) + 0.5)
    return clip[:available], np.moveaxis(rounded.astype(np.uint8), 0, -1)[:available]


def test_numbers_are_scikit_images_over_frames_then_over_videos(evaluated, videos, checkpoint):
    rows, means = rows_of(evaluated), {"psnr": [], "ssim": []}
    assert list(rows) == NAMES
    for name, length in zip(NAMES, (5, 3, 5), strict=True):
        true, test = expected_frames(videos / name, checkpoint, FRAMES)
        pairs = list(zip(true, test, strict=True))
        assert len(pairs) == length == int(rows[name]["frames"])
        psnr = np.mean([peak_signal_noise_ratio(a, b) for a, b in pairs])
        ssim = np.mean([structural_similarity(a, b, channel_axis=2) for a, b in pairs])
        # Where the frameworks round differently, a level here and there differs.
        assert float(rows[name]["psnr"]) == pytest.approx(psnr, abs=1e-3)
        assert float(rows[name]["ssim"]) == pytest.approx(ssim, abs=1e-4)
        assert rows[name]["error"] == rows[name]["lpips"] == ""
        means["psnr"].append(psnr)
        means["ssim"].append(ssim)
    summary = summary_of(evaluated)
    assert summary["psnr"] == pytest.approx(np.mean(means["psnr"]), abs=1e-3)
    assert summary["ssim"] == pytest.approx(np.mean(means["ssim"]), abs=1e-4)


def test_summary_says_what_was_measured_and_by_what(evaluated, videos, checkpoint):
    summary = summary_of(evaluated)
    assert (summary["videos"], summary["failed"], summary["lpips"]) == (3, 0, None)
    assert summary["checkpoint_sha256"] == hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    assert {key: summary["tae_config"][key] for key in TINY} == TINY
    assert summary["framework"].startswith(backend.name)
    assert summary["settings"]["num_frames"] == FRAMES
    assert summary["settings"]["csv_path"] == str(videos / "videos.csv")


def test_two_runs_give_identical_files(evaluated, videos, checkpoint, tmp_path, capsys):
    output = tmp_path / "again"
    outcome = run(command, evaluate_flags(checkpoint, videos, output), capsys)
    assert outcome.code == 0
    first, second = summary_of(evaluated), summary_of(output)
    assert first["settings"].pop("output_path") != second["settings"].pop("output_path")
    assert first == second
    assert (evaluated / "metrics.csv").read_bytes() == (output / "metrics.csv").read_bytes()
    assert outcome.out == [
        f"PSNR {first['psnr']:.2f} dB, SSIM {first['ssim']:.4f}: means over 3 videos, 0 failed. "
        f"Videos and metrics: {output}",
        f"To look at: {output / 'report.html'}",
    ]


def test_batch_size_does_not_matter(evaluated, videos, checkpoint, tmp_path, capsys):
    output = tmp_path / "out"
    args = evaluate_flags(checkpoint, videos, output, batch_size=2, compile=False)
    assert run(command, args, capsys).code == 0
    first, second = rows_of(evaluated), rows_of(output)
    for name in NAMES:
        for key in ("psnr", "ssim"):
            assert float(first[name][key]) == pytest.approx(float(second[name][key]), abs=1e-4)


def test_a_perfect_reconstruction_has_the_caps(videos, checkpoint, tmp_path, capsys, exact):
    args = evaluate_flags(checkpoint, videos, tmp_path / "out", batch_size=2, use_tile=True)
    outcome = run(command, args, capsys)
    assert outcome.code == 0
    assert outcome.out[0].startswith("PSNR 100.00 dB, SSIM 1.0000: means over 3 videos")
    assert exact.shapes == [(2, 3, FRAMES, SIZE, SIZE), (1, 3, FRAMES, SIZE, SIZE)]
    assert exact.options["use_tile"] is True


def test_means_are_over_videos_and_not_over_all_frames(tmp_path, checkpoint, capsys, monkeypatch):
    class Spoils(Exact):
        def decode(self, video, *target):
            bright = (video.mean((1, 2, 3, 4)).reshape(-1, 1, 1, 1, 1) > 0).float()
            return video * (1 - 0.5 * bright)

    monkeypatch.setattr(network, "TemporalAutoencoder", Spoils)
    for name, length, level in (("a.mp4", 8, 30), ("b.mp4", 1, 230)):
        write_video(tmp_path / name, np.full((length, 16, 16, 3), level, np.uint8), fps=5)
    write_index(tmp_path, ["a.mp4", "b.mp4"])
    args = evaluate_flags(checkpoint, tmp_path, tmp_path / "out", num_frames=8)
    assert run(command, args, capsys).code == 0
    rows = rows_of(tmp_path / "out")
    assert float(rows["a.mp4"]["psnr"]) == 100
    assert float(rows["b.mp4"]["psnr"]) < 20
    mean = (100 + float(rows["b.mp4"]["psnr"])) / 2
    assert summary_of(tmp_path / "out")["psnr"] == pytest.approx(mean)


def test_a_short_clip_is_scored_on_its_own_frames_alone(tmp_path, checkpoint, capsys, monkeypatch):
    class SpoilsTheEnd(Exact):
        def decode(self, video, *target):
            return backend.cat((video[:, :, :3], 0 * video[:, :, 3:]), 2)

    monkeypatch.setattr(network, "TemporalAutoencoder", SpoilsTheEnd)
    write_dataset(tmp_path, ["a.mp4"], num_frames=3)
    args = evaluate_flags(checkpoint, tmp_path, tmp_path / "out")
    assert run(command, args, capsys).code == 0
    row = rows_of(tmp_path / "out")["a.mp4"]
    assert (row["frames"], float(row["psnr"])) == ("3", 100)
    assert count_frames(tmp_path / "out" / "a.mp4") == 3


@pytest.mark.parametrize(("num_frames", "expected"), [(3, 3), (4, 4), (9, 4)])
def test_sample_stride_takes_every_nth_frame(
    tmp_path, checkpoint, capsys, exact, num_frames, expected
):
    write_dataset(tmp_path, ["a.mp4"], num_frames=11)
    options = {"num_frames": num_frames, "sample_stride": 3}
    args = evaluate_flags(checkpoint, tmp_path, tmp_path / "out", **options)
    assert run(command, args, capsys).code == 0
    assert rows_of(tmp_path / "out")["a.mp4"]["frames"] == str(expected)
    written = tmp_path / "out" / "a.mp4"
    assert count_frames(written) == expected
    assert float(read_fps(written)) == pytest.approx(10 / 3, rel=1e-3)
    true = read_frames(tmp_path / "a.mp4", range(0, 3 * expected, 3)).astype(float)
    assert np.abs(read_frames(written, range(expected)) - true).mean() < 6


def test_tiles_and_lpips_are_optional(videos, test_data, checkpoint, tmp_path, capsys):
    weights = write_squeezenet_lpips(test_data, tmp_path / "lpips.safetensors")
    write_dataset(tmp_path, ["a.mp4"], height=32, width=32, num_frames=34)
    options = {"use_tile": True, "lpips_weights": weights, "compile": False}
    options |= {"num_frames": 34, "image_size": 32}
    output = tmp_path / "out"
    outcome = run(command, evaluate_flags(checkpoint, tmp_path, output, **options), capsys)
    assert outcome.code == 0
    row, summary = rows_of(output)["a.mp4"], summary_of(output)
    assert 0 < float(row["lpips"]) < 2
    assert summary["lpips"] == float(row["lpips"])
    assert f"LPIPS {summary['lpips']:.4f}" in outcome.out[0]
    assert count_frames(output / "a.mp4") == 34


def test_lpips_of_frames_in_pieces_is_that_of_all(test_data, tmp_path, rng):
    lpips = LPIPS(write_squeezenet_lpips(test_data, tmp_path / "lpips.safetensors"))
    clips = rng.uniform(-1, 1, (2, 3, 19, 24, 24)).astype(np.float32)
    scores, *frames = score(*clips, 17, lpips)
    assert [f.shape for f in frames] == [(17, 24, 24, 3)] * 2
    with backend.no_grad():
        at_once = lpips(*(backend.from_numpy(to_float(f)[None]) for f in frames))
    np.testing.assert_allclose(scores["lpips"], backend.to_numpy(at_once)[0], rtol=1e-4)


def test_both_formats_of_a_checkpoint_give_the_same_numbers(
    evaluated, videos, checkpoint, tmp_path, capsys
):
    ckpt = tmp_path / "tae.ckpt"
    write_weights(ckpt, *read_weights(checkpoint))
    args = evaluate_flags(ckpt, videos, tmp_path / "out")
    assert run(command, args, capsys).code == 0
    assert rows_of(tmp_path / "out") == rows_of(evaluated)
    assert (
        summary_of(tmp_path / "out")["checkpoint_sha256"]
        == hashlib.sha256(ckpt.read_bytes()).hexdigest()
    )


# Files


def test_reconstruction_and_side_by_side_can_be_watched(evaluated, videos, checkpoint):
    for name, length in zip(NAMES, (5, 3, 5), strict=True):
        path = evaluated / name
        beside = path.with_name(f"{path.stem}_side_by_side.mp4")
        for file, width in ((path, SIZE), (beside, 2 * SIZE)):
            frames = read_frames(file, range(length))
            assert frames.shape == (length, SIZE, width, 3)
            assert count_frames(file) == length
            assert read_fps(file) == 12
        true, test = expected_frames(videos / name, checkpoint, FRAMES)
        shown = read_frames(beside, range(length)).astype(float)
        assert np.abs(shown[:, :, :SIZE] - true).mean() < 8  # colours are stored at half size
        assert np.abs(shown[:, :, SIZE:] - test).mean() < np.abs(shown[:, :, SIZE:] - true).mean()


def test_nothing_else_is_written(evaluated):
    expected = {"metrics.csv", "metrics.json", "report.html", ".lock", ".lock-run"}
    for name in NAMES:
        expected |= {name, f"{name.removesuffix('.mp4')}_side_by_side.mp4"}
    written = {str(p.relative_to(evaluated)) for p in evaluated.rglob("*") if p.is_file()}
    assert written == expected


# Interruptions


@pytest.fixture
def stopped(videos, checkpoint, tmp_path, capsys, monkeypatch):
    """A copy of the videos, and the arguments of an evaluation of them that was interrupted at the
    third."""
    folder = shutil.copytree(videos, tmp_path / "videos")
    args = evaluate_flags(checkpoint, folder, tmp_path / "out")

    def interrupted(*args):
        if interrupted.calls == 2:
            raise KeyboardInterrupt
        interrupted.calls += 1
        return score(*args)

    interrupted.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "score", interrupted)
        assert run(main, ["evaluate", *args], capsys).code == 130
    return folder, args


def judged(args, capsys, monkeypatch):
    """Go on; gives how many videos are judged."""
    calls = []
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "score", lambda *args: (calls.append(1), score(*args))[1])
        assert run(main, ["evaluate", *args], capsys).code == 0
    return len(calls)


def test_an_evaluation_that_was_stopped_goes_on_and_ends_as_any(
    stopped, evaluated, tmp_path, capsys, monkeypatch
):
    _, args = stopped
    assert judged(args, capsys, monkeypatch) == 1
    output = tmp_path / "out"
    whole = {p.relative_to(evaluated) for p in evaluated.rglob("*")}
    assert {p.relative_to(output) for p in output.rglob("*")} == whole
    assert (output / "metrics.csv").read_bytes() == (evaluated / "metrics.csv").read_bytes()
    for name in NAMES:
        assert (output / name).read_bytes() == (evaluated / name).read_bytes()
    pages = [read_page(place / "report.html") for place in (output, evaluated)]
    assert len(pages[0].clips) == 3 * len(NAMES)
    assert pages[0].clips == pages[1].clips
    assert pages[0].data == pages[1].data
    assert judged(args, capsys, monkeypatch) == len(NAMES)  # nothing is left of it


@pytest.mark.parametrize("change", ["video", "output", "settings", "checkpoint"])
def test_what_has_changed_since_it_was_stopped_is_evaluated_anew(
    stopped, tmp_path, capsys, monkeypatch, change
):
    folder, args = stopped
    if change == "video":
        write_video(folder / NAMES[0], waves(7, 8), fps=12)
    elif change == "output":
        (tmp_path / "out" / f"{NAMES[1].removesuffix('.mp4')}_side_by_side.mp4").unlink()
    elif change == "settings":
        args = [*args, "--num_frames", "4"]
    else:
        path = write_checkpoint(tmp_path / "other.safetensors", seed=5)
        args = [*args, "--ckpt_path", str(path)]
    expected = 2 if change in ("video", "output") else 3
    assert judged(args, capsys, monkeypatch) == expected
    assert not (tmp_path / "out" / ".evaluation").exists()


def test_other_work_that_comes_to_nothing_leaves_what_is_kept(stopped, capsys, monkeypatch):
    _, args = stopped

    def interrupted(*_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "score", interrupted)
        assert run(main, ["evaluate", *args, "--num_frames", "4"], capsys).code == 130
    assert judged(args, capsys, monkeypatch) == 1


def test_a_video_that_is_replaced_while_it_is_judged_is_evaluated_anew(
    stopped, tmp_path, capsys, monkeypatch
):
    folder, args = stopped
    shutil.rmtree(tmp_path / "out")

    def replaced(*inputs):
        if replaced.calls == 1:
            raise KeyboardInterrupt
        replaced.calls += 1
        write_video(folder / NAMES[0], waves(7, 8), fps=12)
        return score(*inputs)

    replaced.calls = 0
    with monkeypatch.context() as patch:
        patch.setattr(evaluation, "score", replaced)
        assert run(main, ["evaluate", *args], capsys).code == 130
    assert judged(args, capsys, monkeypatch) == len(NAMES)


@pytest.mark.parametrize("change", [("batch_size", 2), ("report", False), ("csv_path", None)])
def test_what_decides_no_result_may_change_while_it_is_stopped(
    stopped, tmp_path, capsys, monkeypatch, change
):
    folder, args = stopped
    key, value = change
    if key == "csv_path":
        write_video(folder / "d.mp4", waves(9, 8), fps=12)
        write_index(folder, [*NAMES, "d.mp4", NAMES[0]])
    else:
        args = [*args, f"--{key}", str(value)]
    assert judged(args, capsys, monkeypatch) == (2 if key == "csv_path" else 1)
    if key == "csv_path":
        assert list(rows_of(tmp_path / "out")) == [*NAMES, "d.mp4"]
        assert summary_of(tmp_path / "out")["videos"] == 4
        assert len(read_page(tmp_path / "out" / "report.html").data["videos"]) == 4


def test_two_evaluations_at_once_into_one_directory_are_refused(stopped, tmp_path, capsys):
    _, args = stopped
    before = sorted((tmp_path / "out").rglob("*"))
    for name in (".lock", ".lock-run"):  # that of a process of a killed run; of a run
        with lock_folder(tmp_path / "out", shared=True, busy="", name=name):
            for more in ([], ["--num_frames", "4"]):
                run(main, ["evaluate", *args, *more], capsys).assert_refused("another evaluation")
    assert sorted((tmp_path / "out").rglob("*")) == before


def test_names_that_could_meet_are_written_apart_and_inside(tmp_path, checkpoint, capsys, exact):
    folder = tmp_path / "data" / "videos"
    names = ["a.mp4", "a_side_by_side.mp4", "../a.mp4", "a.avi", str(tmp_path / "a.mp4")]
    for number, name in enumerate(names):
        write_video(folder / name, np.full((2, 16, 16, 3), 50 * number, np.uint8), fps=10)
    write_index(folder, names)
    output = tmp_path / "out"
    assert run(command, evaluate_flags(checkpoint, folder, output), capsys).code == 0
    paths = evaluation.reconstruction_paths(output, names)
    for number, name in enumerate(names):
        shown = read_frames(paths[name], [0])[0].astype(float)
        assert np.abs(shown - 50 * number).max() < 8, name
    assert len(list(output.rglob("*.mp4"))) == 2 * len(names)


def test_videos_of_the_data_set_are_never_replaced(tmp_path, checkpoint, capsys, exact):
    write_dataset(tmp_path, ["a.mp4", "b.mp4"])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    outcome = run(command, evaluate_flags(checkpoint, tmp_path, tmp_path), capsys)
    outcome.assert_refused("a.mp4", "itself, expected another place to write")
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@pytest.mark.once
def test_a_folder_whose_name_is_no_text_is_written_of(checkpoint, tmp_path):
    folder = tmp_path / "videos\udcff"
    write_video(folder / "a.mp4", np.zeros((4, 16, 16, 3), np.uint8), fps=10)
    write_index(folder, ["a.mp4", "none.mp4"])
    output = tmp_path / "out"
    args = evaluate_flags(checkpoint, folder, output, image_size=16, num_frames=4)
    done = subprocess.run(
        [sys.executable, "-m", "mg", "evaluate", *map(str, args)], capture_output=True, text=True
    )
    assert done.returncode == 1, done.stderr
    assert r"videos\udcff/none.mp4" in (output / "metrics.csv").read_text("utf-8")


@pytest.mark.parametrize("name", ["metrics.csv", "metrics.json", "report.html"])
def test_the_csv_is_never_replaced(videos, tmp_path, checkpoint, capsys, exact, name):
    write_index(tmp_path, NAMES)
    index = (tmp_path / "videos.csv").rename(tmp_path / name)
    before = index.read_bytes()
    args = evaluate_flags(checkpoint, videos, tmp_path, csv_path=index)
    run(command, args, capsys).assert_refused(name, "itself, expected another place to write")
    assert list(tmp_path.iterdir()) == [index]
    assert index.read_bytes() == before


# What is wrong with the data


def test_broken_videos_are_reported_and_the_rest_goes_on(
    videos, checkpoint, tmp_path, capsys, exact
):
    folder = shutil.copytree(videos, tmp_path / "videos")
    (folder / "text.mp4").write_text("I am no video\n" * 50)
    (folder / "empty.mp4").touch()
    (folder / "loop.mp4").symlink_to("loop.mp4")
    names = ["text.mp4", "a.mp4", "empty.mp4", "none.mp4", "c.mp4", "loop.mp4"]
    write_index(folder, names)
    output = tmp_path / "out"
    args = evaluate_flags(checkpoint, folder, output, batch_size=2)
    outcome = run(command, args, capsys)
    assert outcome.code == 1
    assert "means over 2 videos, 4 failed" in outcome.out[0]
    rows = rows_of(output)
    assert list(rows) == names
    for name, reason in (
        ("text.mp4", "cannot be read"),
        ("empty.mp4", "is empty"),
        ("none.mp4", "no such video file"),
        ("loop.mp4", "no such video file"),
    ):
        assert reason in rows[name]["error"]
        assert rows[name]["psnr"] == rows[name]["ssim"] == ""
    assert float(rows["a.mp4"]["psnr"]) == float(rows["c.mp4"]["psnr"]) == 100
    assert (summary_of(output)["videos"], summary_of(output)["failed"]) == (2, 4)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_a_video_whose_latents_are_not_finite_is_reported_and_the_rest_goes_on(
    checkpoint, tmp_path, capsys, monkeypatch, batch_size
):
    names = ["dark.mp4", "bright.mp4", "darker.mp4"]
    for name, level in zip(names, (90, 250, 40), strict=True):
        write_video(tmp_path / name, np.full((4, 16, 16, 3), level, np.uint8), fps=10)
    write_index(tmp_path, names)

    class Overflows(TemporalAutoencoder):
        def encode(self, x, **options):
            z, mean, logvar = super().encode(x, **options)
            bright = backend.to_numpy(x).mean((1, 2, 3, 4), keepdims=True) > 0.5
            factor = np.where(bright, np.float32(np.inf), np.float32(1))
            return z, mean * backend.from_numpy(factor), logvar

    monkeypatch.setattr(network, "TemporalAutoencoder", Overflows)
    output = tmp_path / "out"
    args = evaluate_flags(checkpoint, tmp_path, output, batch_size=batch_size)
    outcome = run(command, args, capsys)
    assert outcome.code == 1
    rows = rows_of(output)
    assert list(rows) == names
    assert rows["bright.mp4"]["error"] == "bright.mp4: its reconstruction is not finite"
    assert float(rows["dark.mp4"]["psnr"]) > 0 and float(rows["darker.mp4"]["psnr"]) > 0
    assert not (output / "bright.mp4").exists() and (output / "dark.mp4").exists()
    assert summary_of(output)["failed"] == 1


def test_a_ruined_network_is_an_error(checkpoint, videos, tmp_path, capsys):
    tae = TemporalAutoencoder(checkpoint)
    for layer in ("conv_spat", "conv_temp"):  # whose sum no float32 holds
        bias = backend.named_parameters(tae)[f"decoder.conv_out.{layer}.bias"]
        backend.assign(bias, np.full(tuple(bias.shape), 3e38, np.float32))
    tae.save_checkpoint(tmp_path / "large.safetensors")
    args = evaluate_flags(tmp_path / "large.safetensors", videos, tmp_path / "out")
    outcome = run(command, args, capsys)
    assert outcome.code == 2
    assert "none of its 3 videos could be evaluated; the first: a.mp4: " in outcome.err[-1]


def test_videos_that_are_elsewhere_are_told_in_one_line(checkpoint, videos, tmp_path, capsys):
    args = evaluate_flags(checkpoint, videos, tmp_path / "out", video_folder=tmp_path)
    run(main, ["evaluate", *args], capsys).assert_refused("none of its 3 videos is there", "a.mp4")
    assert not (tmp_path / "out").exists()


def test_no_readable_video_is_an_error(checkpoint, tmp_path, capsys, exact):
    (tmp_path / "a.mp4").write_text("no video")
    write_index(tmp_path, ["a.mp4", "b.mp4"])
    args = evaluate_flags(checkpoint, tmp_path, tmp_path / "out")
    outcome = run(command, args, capsys)
    assert outcome.code == 2
    assert "none of its 2 videos could be evaluated; the first: " in outcome.err[-1]
    assert not any("Traceback" in line for line in outcome.err)
    assert {path.name for path in (tmp_path / "out").rglob("*")} == {".lock", ".lock-run"}


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"ckpt_path": "none.safetensors"}, ("none.safetensors", "no such checkpoint")),
        ({"ckpt_path": __file__}, ("test_evaluate.py", "*.safetensors or *.ckpt")),
        ({"csv_path": "none.csv"}, ("none.csv", "no such CSV file")),
        ({"video_folder": "none"}, ("none", "no such video folder")),
        ({"csv_path": "."}, (".: not a file, expected the CSV file",)),
        ({"ckpt_path": "."}, ("no such checkpoint file", "the folder holds none")),
        ({"video_column": "path"}, ("no column 'path'", "video")),
        ({"num_frames": 0}, ("num_frames is 0", "at least 1")),
        ({"image_size": 0}, ("image_size is 0", "at least 8")),
        ({"image_size": 5}, ("image_size", "at least 8", "5")),
        ({"batch_size": 0}, ("batch_size is 0", "at least 1")),
        ({"sample_stride": -1}, ("sample_stride is -1", "at least 1")),
        ({"num_frames": "many"}, ("num_frames is 'many', expected a whole number",)),
        ({"frames": 3}, ("frames",)),
        ({"dtype": "fp8"}, ("'fp8'", "fp32")),
        ({"device_target": "TPU"}, ("'TPU'", "CPU")),
        ({"lpips_weights": "none.safetensors"}, ("none.safetensors", "LPIPS")),
    ],
)
def test_what_does_not_fit_is_named_in_one_line_and_nothing_is_written(
    videos, checkpoint, tmp_path, capsys, changes, expected
):
    args = evaluate_flags(checkpoint, videos, tmp_path / "out", **changes)
    outcome = run(command, args, capsys)
    assert outcome.code == 2
    assert all(text in outcome.err[-1] for text in expected), outcome.err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("suffix", [".safetensors", ".ckpt"])
@pytest.mark.parametrize("kept", [0, 1, 100, -50])
def test_a_truncated_checkpoint_is_named_in_one_line(
    videos, checkpoint, tmp_path, capsys, suffix, kept
):
    path = tmp_path / f"cut{suffix}"
    write_weights(path, *read_weights(checkpoint))
    path.write_bytes(path.read_bytes()[:kept])
    outcome = run(command, evaluate_flags(path, videos, tmp_path / "out"), capsys)
    outcome.assert_refused(str(path))
    assert not (tmp_path / "out").exists()


def test_an_empty_csv_is_named_in_one_line(videos, checkpoint, tmp_path, capsys):
    for text in ("", "video\n"):
        (tmp_path / "empty.csv").write_text(text)
        args = evaluate_flags(checkpoint, videos, tmp_path / "out", csv_path=tmp_path / "empty.csv")
        run(command, args, capsys).assert_refused("empty.csv")


def test_a_file_where_the_output_should_be_is_named(videos, checkpoint, tmp_path, capsys):
    (tmp_path / "file").write_text("kept")
    for output in (tmp_path / "file", tmp_path / "file" / "deeper"):
        outcome = run(command, evaluate_flags(checkpoint, videos, output), capsys)
        outcome.assert_refused(str(tmp_path / "file"))
    assert (tmp_path / "file").read_text() == "kept"


def test_help_has_a_line_for_every_key(capsys):
    outcome = run(command, ["--help"], capsys)
    assert outcome.code == 0
    text = " ".join(" ".join(outcome.out).split())
    for key in evaluation.Evaluation.__dataclass_fields__:
        explained = text.split(f" --{key} ")[-1].split("(")[0].split()
        assert len(explained) > 3, key


def test_a_broken_video_is_on_the_page_too(videos, checkpoint, tmp_path, capsys):
    folder = shutil.copytree(videos, tmp_path / "videos")
    (folder / "text.mp4").write_text("I am no video")
    write_index(folder, ["a.mp4", "text.mp4"])
    output = tmp_path / "out"
    run(command, evaluate_flags(checkpoint, folder, output, report=True), capsys)
    assert "text.mp4: cannot be read" in (output / "report.html").read_text()
