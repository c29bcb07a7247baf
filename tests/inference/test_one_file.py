"""The commands on one file: reconstruct, encode and decode."""

import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
from cli.support import flags, process_environment, run, run_process, waves, write_checkpoint
from data.full_disk import small_disk
from data.sample_sound import packets_of_sound, write_with_sound
from data.sample_videos import write_losslessly, write_moving
from devices import HAS_HALF
from PIL import Image

from mg import backend
from mg.cli.main import main
from mg.data import (
    count_frames,
    read_chunks,
    read_fps,
    to_float,
    to_uint8,
    write_video,
)
from mg.evaluation.metrics import psnr, ssim
from mg.evaluation.network import open_network
from mg.inference.settings import Decoding, FileEncoding, Reconstruction
from mg.latents.file import LatentFile, write_latents
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import WEIGHTS_FILE

LOSSLESS = {"codec": "libx264rgb", "crf": 0}


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory):
    return write_checkpoint(tmp_path_factory.mktemp("checkpoint") / "tae.safetensors")


def command(name, source, target, checkpoint, **options):
    options = {"ckpt_path": checkpoint, "compile": False, **options}
    return [name, str(source), str(target), *flags(**options)]


def assert_done(args, capsys):
    """Run a command; gives the line that it prints."""
    outcome = run(main, args, capsys)
    assert outcome.code == 0, outcome
    assert len(outcome.out) == 1, outcome
    return outcome.out[0]


def frames_of(path):
    return np.concatenate([chunk.frames for chunk in read_chunks(path, 16)])


def times_of(path):
    times = [time for chunk in read_chunks(path, 16) for time in chunk.times]
    return np.array([float(time - times[0]) for time in times])


def test_without_a_checkpoint_the_bundled_weights_are_used_and_named(tmp_path, capsys, caplog):
    write_video(tmp_path / "in.mp4", waves(1, num_frames=8, height=32, width=32), 25)
    args = ["reconstruct", str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4")]
    with caplog.at_level("INFO"):
        assert_done(args, capsys)
    assert "bundled small weights (docs/tae_small.md)" in caplog.text
    assert count_frames(tmp_path / "out.mp4") == 8


@pytest.mark.once
@pytest.mark.parametrize("name", ["reconstruct", "encode", "decode"])
@pytest.mark.parametrize("available", [2**21, None, 2**40])
def test_a_video_that_may_not_fit_into_memory_is_named_once(
    tmp_path, checkpoint, capsys, caplog, monkeypatch, name, available
):
    source, out, latents = (tmp_path / file for file in ("in.mp4", "out.mp4", "z.safetensors"))
    write_video(source, waves(1, 9, height=48, width=64), 25)
    if name == "decode":
        assert_done(command("encode", source, latents, checkpoint), capsys)
        source = latents
    monkeypatch.setattr("mg.inference.network.available_memory", lambda: available)
    target = tmp_path / "new.safetensors" if name == "encode" else out
    assert_done(command(name, source, target, checkpoint), capsys)
    said = [r.getMessage() for r in caplog.records if "memory" in r.getMessage()]
    if available == 2**21:
        (line,) = said
        assert line.startswith(f"{source}: frames of 64x48 pixels may take up to ")
    else:
        assert not said


def test_progress_shows_what_is_encoded_before_the_first_frame_comes_out(
    tmp_path, checkpoint, capsys, monkeypatch
):
    class Bar:
        n, seen = 0, []

        def update(self, count):
            self.n += count
            self.seen.append(self.n)

    @contextmanager
    def progress(*_):
        yield bar

    bar = Bar()
    monkeypatch.setattr("mg.inference.reconstruct.frame_progress", progress)
    write_video(tmp_path / "in.mp4", waves(1, num_frames=40, height=16, width=16), 25)
    args = ("reconstruct", tmp_path / "in.mp4", tmp_path / "out.mp4", checkpoint)
    assert_done(command(*args, chunk_frames=6), capsys)
    assert bar.seen[:2] == [2, 4]  # a third of the frames that went in
    assert bar.seen == sorted(bar.seen)
    assert bar.n == 40


@pytest.mark.parametrize("compile", ["false", "null"])
def test_a_process_of_a_command_ends_well(tmp_path, checkpoint, compile):
    write_video(tmp_path / "in.mp4", waves(1, num_frames=32, height=32, width=32), 25)
    args = command("reconstruct", tmp_path / "in.mp4", "out.mp4", checkpoint, compile=compile)
    outcome = run_process("-m", "mg", *args, cwd=tmp_path)
    assert outcome.code == 0, outcome
    assert count_frames(tmp_path / "out.mp4") == 32


def test_encode_and_decode_give_what_reconstruct_gives_and_that_is_the_networks(
    tmp_path, checkpoint, capsys
):
    frames = waves(1, num_frames=11, height=9, width=14)
    write_losslessly(tmp_path / "in.mkv", frames)
    out = tmp_path / "out.mkv"
    line = assert_done(
        command("reconstruct", tmp_path / "in.mkv", out, checkpoint, chunk_frames=5, **LOSSLESS),
        capsys,
    )
    reconstruction = frames_of(out)
    tae = TemporalAutoencoder(str(checkpoint))
    with backend.no_grad():
        expected = to_uint8(backend.to_numpy(tae(backend.from_numpy(to_float(frames)[None])))[0])
    assert reconstruction.shape == frames.shape
    assert np.abs(reconstruction.astype(int) - expected).max() <= 1
    scores = psnr(frames, reconstruction).mean(), ssim(frames, reconstruction).mean()
    assert line == f"Wrote {out}: 11 frames, PSNR {scores[0]:.2f} dB, SSIM {scores[1]:.4f}"

    latents, decoded = tmp_path / "z.safetensors", tmp_path / "decoded.mkv"
    options = {"scaled": True, "chunk_frames": 5}
    assert_done(command("encode", tmp_path / "in.mkv", latents, checkpoint, **options), capsys)
    options = {"chunk_frames": 5, **LOSSLESS}
    assert_done(command("decode", latents, decoded, checkpoint, **options), capsys)
    difference = np.abs(frames_of(decoded).astype(int) - reconstruction)
    assert difference.max() <= 1
    assert difference.mean() < 1e-3  # a value next to a half may be rounded otherwise


@pytest.mark.once
def test_raw_and_scaled_latents_in_any_pieces_decode_to_the_same_video(
    tmp_path, checkpoint, capsys
):
    write_losslessly(tmp_path / "in.mkv", waves(1, num_frames=21, height=17, width=22))
    args = command("reconstruct", tmp_path / "in.mkv", tmp_path / "r.mkv", checkpoint, **LOSSLESS)
    assert_done(args, capsys)
    for scaled, pieces in ((False, 5), (True, 8), (False, 16), (True, 1)):
        latents, decoded = tmp_path / "z.safetensors", tmp_path / "decoded.mkv"
        options = {"scaled": scaled, "chunk_frames": pieces}
        assert_done(command("encode", tmp_path / "in.mkv", latents, checkpoint, **options), capsys)
        assert LatentFile(latents).encoding.scaled is scaled
        options = {"chunk_frames": pieces, **LOSSLESS}
        assert_done(command("decode", latents, decoded, checkpoint, **options), capsys)
        difference = np.abs(frames_of(decoded).astype(int) - frames_of(tmp_path / "r.mkv"))
        assert difference.max() <= 1
        assert difference.mean() < 1e-3


@pytest.mark.once
@pytest.mark.parametrize("shape", [(1, 16, 16), (2, 9, 31), (7, 33, 15), (18, 16, 16)])
def test_size_count_and_rate_are_kept(tmp_path, checkpoint, capsys, shape):
    t, height, width = shape
    fps = Fraction(30000, 1001)
    write_video(tmp_path / "in.mp4", waves(0, t, height, width), fps)
    assert_done(command("reconstruct", tmp_path / "in.mp4", tmp_path / "a.mp4", checkpoint), capsys)
    latents = tmp_path / "z.safetensors"
    assert_done(command("encode", tmp_path / "in.mp4", latents, checkpoint), capsys)
    assert_done(command("decode", latents, tmp_path / "b.mp4", checkpoint), capsys)
    for path in (tmp_path / "a.mp4", tmp_path / "b.mp4"):
        assert frames_of(path).shape == (*shape, 3)
        assert read_fps(path) == fps
    video = LatentFile(latents).video
    assert (video.frames, video.height, video.width, video.fps) == (*shape, fps)
    assert video.source == "in.mp4"
    assert video.times is None


@pytest.mark.once
def test_a_large_video_is_scaled_down_where_that_is_asked_for(tmp_path, checkpoint, capsys):
    write_losslessly(tmp_path / "in.mkv", waves(1, 7, height=90, width=160))
    (small,) = read_chunks(tmp_path / "in.mkv", 7, max_size=64)
    write_losslessly(tmp_path / "small.mkv", small.frames)
    latents, options = tmp_path / "z.safetensors", {"max_size": 64}
    assert_done(command("encode", tmp_path / "in.mkv", latents, checkpoint, **options), capsys)
    assert_done(command("decode", latents, tmp_path / "b.mkv", checkpoint, **LOSSLESS), capsys)
    options |= LOSSLESS
    said = [
        assert_done(command("reconstruct", tmp_path / name, out, checkpoint, **more), capsys)
        for name, out, more in (
            ("in.mkv", tmp_path / "a.mkv", options),
            ("small.mkv", tmp_path / "c.mkv", LOSSLESS),
        )
    ]
    assert said[0].split(": ")[1] == said[1].split(": ")[1]  # PSNR is that of the small frames
    reconstructions = [frames_of(tmp_path / name) for name in ("a.mkv", "b.mkv", "c.mkv")]
    assert reconstructions[0].shape == (7, 36, 64, 3)
    for other in reconstructions[1:]:
        assert np.array_equal(other, reconstructions[0])


@pytest.mark.once
def test_a_varying_frame_rate_is_kept_on_both_ways(tmp_path, checkpoint, capsys):
    milliseconds = np.cumsum(np.random.default_rng(0).integers(5, 90, 20))
    source = write_moving(tmp_path / "in.mkv", "libx264", num_frames=20, times=milliseconds)
    assert_done(command("reconstruct", source, tmp_path / "a.mp4", checkpoint), capsys)
    latents = tmp_path / "z.safetensors"
    assert_done(command("encode", source, latents, checkpoint), capsys)
    assert_done(command("decode", latents, tmp_path / "b.mp4", checkpoint), capsys)
    for path in (tmp_path / "a.mp4", tmp_path / "b.mp4"):
        assert np.abs(times_of(path) - times_of(source)).max() < 0.0011


@pytest.mark.once
def test_sound_is_copied_and_ends_with_num_frames(tmp_path, checkpoint, capsys):
    source = write_with_sound(tmp_path / "in.mp4", seconds=1)
    assert_done(command("reconstruct", source, tmp_path / "a.mp4", checkpoint), capsys)
    assert packets_of_sound(tmp_path / "a.mp4") == packets_of_sound(source)
    options = {"num_frames": 10}
    assert_done(command("reconstruct", source, tmp_path / "b.mp4", checkpoint, **options), capsys)
    assert count_frames(tmp_path / "b.mp4") == 10
    sound = packets_of_sound(tmp_path / "b.mp4")
    assert sound == packets_of_sound(source)[: len(sound)]
    assert 0.35 < sound[-1][1] < 0.4


@pytest.mark.once
@pytest.mark.parametrize("value", [[], ["True"]])
def test_side_by_side_is_the_original_and_its_reconstruction(tmp_path, checkpoint, capsys, value):
    frames = waves(0, 5, 16, 18)
    write_losslessly(tmp_path / "in.mkv", frames)
    args = command("reconstruct", tmp_path / "in.mkv", tmp_path / "a.mkv", checkpoint, **LOSSLESS)
    assert_done(args, capsys)
    args[2] = str(tmp_path / "both.mkv")
    assert_done([*args, "--side_by_side", *value], capsys)
    both = frames_of(tmp_path / "both.mkv")
    assert np.array_equal(both[:, :, :18], frames)
    assert np.array_equal(both[:, :, 18:], frames_of(tmp_path / "a.mkv"))


@pytest.mark.once
def test_a_report_shows_the_video_whose_scores_are_printed(tmp_path, checkpoint, capsys):
    source = tmp_path / "in.mp4"
    write_video(source, waves(9, 16, 24), 10)
    page = tmp_path / "pages" / "report.html"
    args = command("reconstruct", source, tmp_path / "out.mp4", checkpoint, report=page)
    outcome = run(main, args, capsys)
    assert outcome.code == 0, outcome
    assert outcome.out[1] == f"To look at: {page}"
    text = page.read_text(encoding="utf-8")
    printed = outcome.out[0].split("PSNR ")[1].split(" dB")[0]
    assert printed in text
    assert "in.mp4" in text
    for role in ("original", "reconstruction", "difference"):
        assert f'<script type="text/plain" id="{role}-0">' in text
    assert [path.name for path in page.parent.iterdir()] == ["report.html"]


@pytest.mark.once
def test_a_report_that_cannot_be_made_leaves_no_video(tmp_path, checkpoint, capsys):
    source, target = tmp_path / "in.mp4", tmp_path / "out.mp4"
    write_video(source, waves(3, 16, 24), 10)
    folder = tmp_path / "folder.html"
    folder.mkdir()
    for options, message in (
        ({"report": source}, "expected the name of a page"),
        ({"report": tmp_path / "r.html", "measure": False}, "the report shows PSNR and SSIM"),
        ({"report": source / "r.html"}, "File exists"),
        ({"report": target}, "expected the name of a page"),
        ({"report": folder}, "is a folder"),
    ):
        outcome = run(main, command("reconstruct", source, target, checkpoint, **options), capsys)
        assert (outcome.code, len(outcome.err)) == (2, 1), outcome
        assert message in outcome.err[0]
        assert not target.exists()


@pytest.mark.once
def test_a_saved_directory_is_a_checkpoint_too(tmp_path, checkpoint, capsys):
    TemporalAutoencoder(checkpoint).save_pretrained(tmp_path / "tae")
    source = tmp_path / "in.mp4"
    write_video(source, waves(3, 16, 24), 10)
    written = []
    for number, path in enumerate((checkpoint, tmp_path / "tae")):
        latents = tmp_path / f"{number}.safetensors"
        assert_done(command("encode", source, latents, path), capsys)
        written.append(np.concatenate([*LatentFile(latents).read(4)], axis=1))
    np.testing.assert_array_equal(*written)


@pytest.mark.once
def test_images_come_as_images_or_as_videos_of_one_frame(tmp_path, checkpoint, capsys):
    Image.fromarray(waves(0, 1, 17, 23)[0]).save(tmp_path / "in.png")
    for name in ("a.png", "a.mp4"):
        line = assert_done(
            command("reconstruct", tmp_path / "in.png", tmp_path / name, checkpoint), capsys
        )
        assert ": 1 frame, PSNR" in line
        assert frames_of(tmp_path / name).shape == (1, 17, 23, 3)
    latents = tmp_path / "z.safetensors"
    assert_done(command("encode", tmp_path / "in.png", latents, checkpoint), capsys)
    assert_done(command("decode", latents, tmp_path / "b.png", checkpoint), capsys)
    assert np.array_equal(frames_of(tmp_path / "b.png"), frames_of(tmp_path / "a.png"))


def test_frames_that_are_no_numbers_are_an_error_and_no_video(tmp_path, checkpoint, capsys):
    tae = TemporalAutoencoder(checkpoint)
    for layer in ("conv_spat", "conv_temp"):  # whose sum no float32 holds
        bias = backend.named_parameters(tae)[f"decoder.conv_out.{layer}.bias"]
        backend.assign(bias, np.full(bias.shape, 3e38, np.float32))
    tae.save_checkpoint(tmp_path / "large.safetensors")
    write_video(tmp_path / "in.mp4", waves(0), 25)
    args = command(
        "reconstruct", tmp_path / "in.mp4", tmp_path / "o.mp4", tmp_path / "large.safetensors"
    )
    outcome = run(main, args, capsys)
    assert outcome.code == 2
    assert outcome.err[-1] == "error: the video holds NaN or infinite values"
    assert not (tmp_path / "o.mp4").exists()


@pytest.mark.once
def test_a_sample_follows_its_seed(tmp_path, checkpoint, capsys):
    write_video(tmp_path / "in.mp4", waves(0), 25)
    arrays = []
    for seed, pieces in ((1, 2), (1, 4), (2, 4)):
        options = {"sample": True, "seed": seed, "chunk_frames": pieces}
        path = tmp_path / "z.safetensors"
        assert_done(command("encode", tmp_path / "in.mp4", path, checkpoint, **options), capsys)
        assert LatentFile(path).encoding.stored == "sample"
        arrays.append(np.concatenate([*LatentFile(path).read(8)], axis=1))
    assert np.abs(arrays[0] - arrays[1]).max() < 1e-4
    assert np.abs(arrays[0] - arrays[2]).max() > 0.1


@pytest.mark.once
def test_a_cut_video_is_reconstructed_as_far_as_it_goes(tmp_path, checkpoint, capsys, caplog):
    write_moving(tmp_path / "whole.mkv", "libx264", num_frames=50)
    content = (tmp_path / "whole.mkv").read_bytes()
    (tmp_path / "in.mkv").write_bytes(content[: len(content) // 2])
    args = command("reconstruct", tmp_path / "in.mkv", tmp_path / "a.mp4", checkpoint)
    line = assert_done(args, capsys)
    count = count_frames(tmp_path / "a.mp4")
    assert 5 < count < 45
    assert f"{count} frames" in line
    said = [record.getMessage() for record in caplog.records if record.name.startswith("mg.data")]
    assert len(said) == 1
    assert f"{count} frames were read, to second " in said[0]


@pytest.mark.once
def test_wrong_inputs_and_outputs_are_one_line_and_nothing_is_written(tmp_path, checkpoint, capsys):
    video = tmp_path / "in.mp4"
    write_video(video, waves(0), 25)
    write_video(tmp_path / "small.mkv", np.zeros((3, 1, 9, 3), np.uint8), 25)
    (tmp_path / "text.mp4").write_bytes(b"hello, I am a text\n" * 100)
    (tmp_path / "empty.mp4").write_bytes(b"")
    (tmp_path / "header.y4m").write_bytes(b"YUV4MPEG2 W16 H16 F25:1 C420jpeg\n")
    (tmp_path / "link.mp4").symlink_to(video)
    (tmp_path / "folder").mkdir()
    (tmp_path / "d.safetensors").mkdir()
    saved, gray = tmp_path / "saved", tmp_path / "gray.safetensors"
    TemporalAutoencoder(checkpoint).save_pretrained(saved)
    write_checkpoint(gray, out_ch=1)
    before = sorted(tmp_path.iterdir())
    for name, out in (("reconstruct", "out.mp4"), ("encode", "out.safetensors")):
        for source, message in (
            ("none.mp4", "none.mp4: no such video file"),
            ("folder", "folder: not a file"),
            ("text.mp4", "text.mp4: cannot be read as a video or an image"),
            ("empty.mp4", "empty.mp4: the file is empty"),
            ("small.mkv", "small.mkv: frames of 9x1 pixels, expected at least 2x2"),
            ("header.y4m", "header.y4m: "),
        ):
            outcome = run(
                main, command(name, tmp_path / source, tmp_path / out, checkpoint), capsys
            )
            assert outcome.code == 2, outcome
            assert message in outcome.err[-1]
    refused = [
        (command("reconstruct", video, video, checkpoint), "itself, expected"),
        (command("reconstruct", video, tmp_path / "link.mp4", checkpoint), "itself, expected"),
        (command("reconstruct", video, checkpoint, checkpoint), "itself, expected"),
        (command("reconstruct", video, tmp_path / "folder", checkpoint), "is a folder"),
        (command("reconstruct", video, tmp_path / "out.xyz", checkpoint), "'.xyz'"),
        (
            command("reconstruct", video, tmp_path / "out.mp4", checkpoint, codec="x264"),
            "codec is 'x264'",
        ),
        (command("reconstruct", video, tmp_path / "o.mp4", checkpoint, crf=-1), "crf is -1"),
        (command("reconstruct", video, tmp_path / "o.mp4", checkpoint, crf=64), "crf is 64"),
        (command("reconstruct", video, tmp_path / "o.mp4", tmp_path / "no.safetensors"), "no such"),
        (command("encode", video, tmp_path / "out.mp4", checkpoint), "named *.safetensors"),
        (command("encode", video, checkpoint, checkpoint), "itself, expected"),
        (command("encode", video, saved / WEIGHTS_FILE, saved), "itself, expected"),
        (command("encode", video, tmp_path / "d.safetensors", checkpoint), "is a folder"),
        (command("reconstruct", video, tmp_path / "o.mp4", gray), "3 channels in and 1 out"),
        (command("decode", video, tmp_path / "out.mp4", checkpoint), "not a whole safetensors"),
        (command("decode", checkpoint, tmp_path / "out.mp4", checkpoint), "not a whole latent"),
        (command("decode", tmp_path / "no", tmp_path / "out.mp4", checkpoint), "no such file"),
    ]
    for args, message in refused:
        run(main, args, capsys).assert_refused(message)
    outcome = run(main, command("reconstruct", video, tmp_path / "out.png", checkpoint), capsys)
    assert outcome.code == 2
    assert "an image holds one frame" in outcome.err[-1]
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.once
@pytest.mark.skipif(backend.name != "torch", reason="torchrun's variables")
def test_a_command_of_one_file_waits_for_no_other_process_of_a_launcher(tmp_path, checkpoint):
    write_video(tmp_path / "in.mp4", waves(0), 25)
    args = command("encode", tmp_path / "in.mp4", tmp_path / "z.safetensors", checkpoint)
    launched = {"TORCHELASTIC_RUN_ID": "1", "RANK": "0", "WORLD_SIZE": "2", "LOCAL_RANK": "0"}
    launched |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}
    outcome = run_process("-m", "mg", *args, cwd=tmp_path, **launched)
    assert outcome.code == 0, outcome


@pytest.mark.once
def test_latents_made_before_the_config_had_a_key_have_its_default(tmp_path, checkpoint, capsys):
    write_video(tmp_path / "in.mp4", waves(0), 25)
    latents = tmp_path / "z.safetensors"
    assert_done(command("encode", tmp_path / "in.mp4", latents, checkpoint), capsys)
    file, old = LatentFile(latents), tmp_path / "old.safetensors"
    config = {key: value for key, value in file.encoding.tae_config.items() if key != "norm_scope"}
    encoding = replace(file.encoding, tae_config=config)
    write_latents(old, file.read(8), encoding, lambda: file.video)
    assert LatentFile(old).encoding.difference(file.encoding) is None
    assert_done(command("decode", old, tmp_path / "out.mp4", checkpoint), capsys)
    other = write_checkpoint(tmp_path / "other.safetensors", norm_scope="clip")
    outcome = run(main, command("decode", old, tmp_path / "a.mp4", other), capsys)
    outcome.assert_refused("their norm_scope is 'frame'", "'clip'")


@pytest.mark.once
def test_latents_of_another_network_are_refused_by_the_key_that_differs(
    tmp_path, checkpoint, capsys, caplog
):
    write_video(tmp_path / "in.mp4", waves(0), 25)
    latents, out = tmp_path / "z.safetensors", tmp_path / "out.mp4"
    assert_done(command("encode", tmp_path / "in.mp4", latents, checkpoint), capsys)
    for change, key in (
        ({"scaling_factor": 2.0}, "scaling_factor is 1.5305"),
        ({"num_res_blocks": 2}, "num_res_blocks is 1"),
        ({"norm_scope": "clip"}, "norm_scope is 'frame'"),
    ):
        other = write_checkpoint(tmp_path / "other.safetensors", **change)
        value = repr(next(iter(change.values())))
        run(main, command("decode", latents, out, other), capsys).assert_refused(key, value)
    run(main, command("decode", latents, tmp_path / "a.png", checkpoint), capsys).assert_refused(
        "a.png: an image holds one frame, these latents 6"
    )
    assert not out.exists()
    # Other weights of the same network may be meant; it is said.
    other = write_checkpoint(tmp_path / "other.safetensors", seed=1)
    assert_done(command("decode", latents, out, other), capsys)
    assert "encoded by another checkpoint" in caplog.records[-1].getMessage()


@pytest.mark.once
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, checkpoint, capsys, rng):
    noise = rng.integers(0, 256, (12, 64, 64, 3), np.uint8)
    write_losslessly(tmp_path / "in.mkv", noise)
    with small_disk(tmp_path / "disk", "60k") as disk:
        for name, out in (("reconstruct", "out.mkv"), ("encode", "out.safetensors")):
            options = LOSSLESS if name == "reconstruct" else {}
            args = command(name, tmp_path / "in.mkv", disk / out, checkpoint, **options)
            outcome = run(main, args, capsys)
            assert outcome.code == 2, outcome
            assert f"{out}: cannot be written: No space left on device" in outcome.err[-1]
            assert list(disk.iterdir()) == []


@pytest.mark.once
def test_where_there_is_no_room_for_the_page_there_is_no_video_either(
    tmp_path, checkpoint, capsys, rng
):
    write_losslessly(tmp_path / "in.mkv", rng.integers(0, 256, (12, 64, 64, 3), np.uint8))
    with small_disk(tmp_path / "disk", "60k") as disk:
        options = {"report": disk / "page.html"}
        args = command(
            "reconstruct", tmp_path / "in.mkv", tmp_path / "out.mkv", checkpoint, **options
        )
        outcome = run(main, args, capsys)
        assert outcome.code == 2, outcome
        assert "cannot be written: No space left on device" in outcome.err[-1]
        assert list(disk.iterdir()) == []
    assert not (tmp_path / "out.mkv").exists()


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("reconstruct", signal.SIGINT),
        ("reconstruct", signal.SIGTERM),
        ("encode", signal.SIGTERM),
        ("decode", signal.SIGINT),
    ],
)
def test_an_interrupted_command_leaves_no_file(tmp_path, checkpoint, capsys, name, number):
    write_video(tmp_path / "in.mp4", waves(0, 1500), 25)
    source, out = tmp_path / "in.mp4", tmp_path / "out" / "out.mp4"
    if name == "encode":
        out = tmp_path / "out" / "out.safetensors"
    if name == "decode":
        source = tmp_path / "z.safetensors"
        assert_done(command("encode", tmp_path / "in.mp4", source, checkpoint), capsys)
    process = subprocess.Popen(
        [sys.executable, "-m", "mg", *command(name, source, out, checkpoint, chunk_frames=2)],
        env=process_environment(),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 120
    while not (out.parent.is_dir() and any(out.parent.iterdir())):
        assert process.poll() is None, process.stderr.read()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    time.sleep(0.5)
    os.kill(process.pid, number)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == 130, errors
    assert errors.splitlines()[-1] == "interrupted"
    assert "Traceback" not in errors
    assert "frame/s" in errors or "?frame" in errors  # the progress bar
    assert list(out.parent.iterdir()) == []


@pytest.mark.once
@pytest.mark.parametrize("key", ["dtype", "precision"])
def test_from_python_too_a_choice_is_among_its_names(key):
    with pytest.raises(ValueError, match=f"{key} is 'int8', expected one of fp32, "):
        FileEncoding(source="a.mp4", target="z.safetensors", **{key: "int8"})


def test_the_settings_of_a_network_are_the_networks(checkpoint):
    given = {"ckpt_path": str(checkpoint), "use_tile": True, "dtype": "bf16", "compile": False}
    settings = FileEncoding(source="a.mp4", target="z.safetensors", **given)
    deciding = settings.deciding()
    assert (deciding["use_tile"], deciding["dtype"]) == (True, "bf16")
    if not HAS_HALF:
        with pytest.raises(ValueError, match="bf16"):
            open_network(settings)
        return
    tae = open_network(settings)
    assert tae.use_tile
    assert tae._compute_dtype == backend.dtype("bf16")


@pytest.mark.skipif(backend.name != "torch", reason="what PyTorch rounds to on a GPU")
def test_a_command_in_fp32_rounds_no_convolution_to_tf32(checkpoint, monkeypatch):
    import torch

    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", True)
    for dtype, rounds in (("bf16", True), ("fp32", False)):
        given = {"ckpt_path": str(checkpoint), "dtype": dtype, "compile": False}
        open_network(FileEncoding(source="a.mp4", target="z.safetensors", **given))
        assert torch.backends.cudnn.allow_tf32 == rounds


@pytest.mark.once
def test_the_constant_rate_factor_goes_up_to_that_of_vp9():
    assert Decoding(source="z.safetensors", target="a.webm", crf=63).crf == 63
    with pytest.raises(ValueError, match="crf is 64, expected 0 to 63"):
        Decoding(source="z.safetensors", target="a.webm", crf=64)


@pytest.mark.once
def test_a_page_that_is_not_named_as_one_is_refused():
    with pytest.raises(ValueError, match=r"report is notes\.md, expected the name of a page"):
        Reconstruction(source="a.mp4", target="b.mp4", report="notes.md")
