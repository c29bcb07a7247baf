"""A video read once, in order: every frame, its pixels and its time."""

import struct
import tracemalloc
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mg.data import VideoError, promised_frames, read_chunks, read_fps, read_frames, write_video
from mg.data.transforms import scaled_down

from .sample_videos import write_losslessly, write_moving

X264 = {"x264-params": "keyint=8:min-keyint=4:bframes=3"}
FORMATS = {
    "b_frames.mp4": ("libx264", X264),
    "b_frames.mkv": ("libx264", X264),
    "h264.ts": ("libx264", X264),
    "h264.avi": ("libx264", X264),  # stores no time but that of decoding
    "xvid_b.avi": ("mpeg4", {"g": "7", "bf": "2"}),
    "mpeg2.mpg": ("mpeg2video", {"g": "7", "bf": "2"}),
    "vp9.webm": ("libvpx-vp9", {"cpu-used": "8"}),
    "wmv2.wmv": ("wmv2", {"g": "7"}),
}


def read_all(path, chunk_frames=7, **options):
    """(frames, times) of a whole video."""
    chunks = [*read_chunks(path, chunk_frames, **options)]
    assert all(len(frames) == len(times) for frames, times in chunks)
    return np.concatenate([frames for frames, _ in chunks]), [t for c in chunks for t in c.times]


def assert_all_read(path, count):
    frames, times = read_all(path)
    assert len(frames) == len(times) == count
    assert np.array_equal(frames, read_frames(path, range(count)))
    assert all(later > sooner for sooner, later in zip(times, times[1:], strict=False))
    return times


@pytest.mark.parametrize("name", FORMATS)
def test_frames_are_those_read_by_number_at_a_constant_rate(tmp_path, name):
    codec, options = FORMATS[name]
    path = write_moving(tmp_path / name, codec, options=options)
    times = assert_all_read(path, 50)
    assert [time - times[0] for time in times] == [Fraction(n, 25) for n in range(50)]


def test_every_real_clip_is_read_to_its_last_frame(manifest, caplog):
    for path, row in manifest.items():
        count, size = 0, (int(row["height"]), int(row["width"]), 3)
        latest = -1
        for frames, times in read_chunks(path, 16):
            assert frames.shape[1:] == size
            assert times[0] > latest
            count, latest = count + len(frames), times[-1]
        assert count == int(row["frames"]), path
        assert latest == pytest.approx(count / read_fps(path), abs=0.25), path
        assert promised_frames(path) == pytest.approx(count, abs=6), path
    assert caplog.records == []  # none is taken for cut


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.webm"])
def test_a_varying_frame_rate_keeps_its_times(tmp_path, name):
    milliseconds = np.cumsum(np.random.default_rng(0).integers(5, 90, 50))
    codec = "libvpx-vp9" if name == "a.webm" else "libx264"
    write_moving(tmp_path / name, codec, times=milliseconds)
    _, times = read_all(tmp_path / name)
    kept = [1000 * float(time - times[0]) for time in times]
    assert np.abs(kept - (milliseconds - milliseconds[0])).max() <= 1.01


def test_chunks_have_the_length_asked_for_and_end_where_asked(tmp_path, rng):
    frames = rng.integers(0, 256, (17, 16, 16, 3), np.uint8)
    write_losslessly(tmp_path / "a.mkv", frames)
    for length, limit in ((1, None), (5, None), (17, None), (100, None), (5, 12), (5, 100)):
        chunks = [*read_chunks(tmp_path / "a.mkv", length, num_frames=limit)]
        whole = np.concatenate([chunk.frames for chunk in chunks])
        assert np.array_equal(whole, frames[:limit])
        assert {len(chunk.frames) for chunk in chunks[:-1]} <= {length}


@pytest.mark.parametrize("name", ["chunk_frames", "num_frames", "max_size"])
def test_lengths_and_sizes_too_small_are_an_error_that_names_them(name):
    least = 8 if name == "max_size" else 1
    with pytest.raises(ValueError, match=f"^{name} is {least - 1}, expected at least {least}$"):
        next(read_chunks("a.mkv", **{"chunk_frames": 5, name: least - 1}))


def test_an_image_is_one_frame(tmp_path, rng):
    image = rng.integers(0, 256, (23, 37, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    frames, times = read_all(tmp_path / "a.png")
    assert np.array_equal(frames, image[None])
    assert times == [0]


def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = []
    for count in (40, 400):
        write_video(tmp_path / f"{count}.mp4", np.zeros((count, 96, 96, 3), np.uint8), 25)
        tracemalloc.start()
        assert (
            sum(len(chunk.frames) for chunk in read_chunks(tmp_path / f"{count}.mp4", 8)) == count
        )
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


def turned(content, quarters):
    """An MP4 whose track header says that it is to be turned by so many quarters, clockwise."""
    cos, sin = ((1, 0), (0, 1), (-1, 0), (0, -1))[quarters]
    one = 1 << 16
    matrix = struct.pack(">9i", cos * one, sin * one, 0, -sin * one, cos * one, 0, 0, 0, 1 << 30)
    place = content.index(b"tkhd") + 44
    return content[:place] + matrix + content[place + 36 :]


@pytest.mark.parametrize("quarters", range(4))
def test_rotation_is_applied(tmp_path, quarters):
    frames = np.zeros((5, 32, 48, 3), np.uint8)
    frames[:, :16, :24] = 255  # the top left
    write_video(tmp_path / "a.mp4", frames, 25)
    path = tmp_path / "turned.mp4"
    path.write_bytes(turned((tmp_path / "a.mp4").read_bytes(), quarters))
    read, _ = read_all(path)
    expected = np.rot90(frames, -quarters, axes=(1, 2))
    assert read.shape == expected.shape
    assert np.abs(read.astype(int) - expected).mean() < 3


def test_frames_are_scaled_as_they_are_shown_and_keep_their_times(tmp_path, rng):
    frames = rng.integers(0, 256, (5, 32, 48, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames, 25)
    path = tmp_path / "turned.mp4"
    path.write_bytes(turned((tmp_path / "a.mp4").read_bytes(), 1))
    shown, times = read_all(path)
    small, small_times = read_all(path, max_size=24)
    assert small.shape == (5, 24, 16, 3)
    assert small_times == times
    for image, whole in zip(small, shown, strict=True):
        assert np.array_equal(image, scaled_down(whole, 24))


def write_with_alpha(path, codec, pix_fmt, rgba):
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *rgba.shape[1:3], pix_fmt
        for number, image in enumerate(rgba):
            frame = av.VideoFrame.from_ndarray(image, format="rgba")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


def on_black(rgba):
    """By Pillow."""
    image = Image.fromarray(rgba)
    black = Image.new("RGBA", image.size, (0, 0, 0, 255))
    return np.asarray(Image.alpha_composite(black, image).convert("RGB"))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt"),
    [("a.mov", "qtrle", "argb"), ("a.apng", "apng", "rgba"), ("a.mkv", "ffv1", "bgra")],
)
def test_transparency_is_composited_on_black_and_said_once(
    tmp_path, rng, caplog, name, codec, pix_fmt
):
    rgba = rng.integers(0, 256, (6, 24, 32, 4), np.uint8)
    write_with_alpha(tmp_path / name, codec, pix_fmt, rgba)
    expected = np.stack([on_black(image) for image in rgba])
    frames, _ = read_all(tmp_path / name, 2)
    assert np.abs(frames.astype(int) - expected).max() <= 1
    assert np.array_equal(read_frames(tmp_path / name, range(6)), frames)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{tmp_path / name}: its transparency is composited on black"]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "P"])
def test_transparent_images_are_composited_on_black(tmp_path, rng, caplog, mode):
    rgba = rng.integers(0, 256, (24, 32, 4), np.uint8)
    image = Image.fromarray(rgba).convert(mode)
    options = {"transparency": image.getpixel((0, 0))} if mode == "P" else {}
    image.save(tmp_path / "a.png", **options)
    reread = np.asarray(Image.open(tmp_path / "a.png").convert("RGBA"))
    assert np.abs(read_all(tmp_path / "a.png")[0][0].astype(int) - on_black(reread)).max() <= 1
    assert len(caplog.records) == 1


def test_opaque_alpha_is_no_matter(tmp_path, rng, caplog):
    rgba = rng.integers(0, 256, (3, 24, 32, 4), np.uint8)
    rgba[..., 3] = 255
    write_with_alpha(tmp_path / "a.mov", "qtrle", "argb", rgba)
    assert np.array_equal(read_all(tmp_path / "a.mov")[0], rgba[..., :3])
    assert caplog.records == []


def write_deep(path, codec, pix_fmt, levels, **colours):
    """Grey frames of the given 8-bit levels with more bits."""
    with av.open(str(path), "w") as container:
        stream = container.add_stream(codec, rate=25, options={"crf": "4"})
        stream.width, stream.height, stream.pix_fmt = 48, 32, pix_fmt
        for key, value in colours.items():
            setattr(stream.codec_context, key, value)
        for number, level in enumerate(levels):
            image = np.full((32, 48, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(
    ("name", "codec", "pix_fmt", "bits"),
    [
        ("a.mp4", "libx264", "yuv420p10le", 10),
        ("a.mkv", "ffv1", "yuv420p16le", 16),
        ("a.webm", "libvpx-vp9", "yuv420p", 8),
    ],
)
def test_more_than_8_bits_become_8_and_it_is_said_once(
    tmp_path, caplog, name, codec, pix_fmt, bits
):
    levels = np.arange(20, 240, 20)
    write_deep(tmp_path / name, codec, pix_fmt, levels)
    frames, _ = read_all(tmp_path / name, 2)
    assert frames.dtype == np.uint8
    assert np.abs(frames.mean((1, 2, 3)) - levels).max() < 2
    said = [record.getMessage() for record in caplog.records]
    expected = f"{tmp_path / name}: its {bits}-bit pixels are converted to 8 bits"
    assert said == ([] if bits == 8 else [expected])


@pytest.mark.parametrize(("transfer", "name"), [(16, "PQ"), (18, "HLG")])
def test_hdr_is_read_and_it_is_said_that_tones_are_not_mapped(tmp_path, caplog, transfer, name):
    levels = np.arange(20, 240, 20)
    colours = {"color_trc": transfer, "color_primaries": 9, "colorspace": 9, "color_range": 1}
    write_deep(tmp_path / "a.mp4", "libx264", "yuv420p10le", levels, **colours)
    frames, _ = read_all(tmp_path / "a.mp4", 2)
    assert np.abs(frames.mean((1, 2, 3)) - levels).max() < 3
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 2
    assert f"HDR ({name})" in said[1]
    assert "without tone mapping" in said[1]


def cut_file(tmp_path, name, share):
    """A file whose end is missing, but not what a player needs at its start."""
    codec, options = FORMATS[name]
    if name.endswith(".mp4"):
        options = {**options, "g": "50"}
    whole = tmp_path / f"whole_{name}"
    write_moving(whole, codec, options=options, num_frames=100)
    if name.endswith(".mp4"):  # the index goes before the frames
        first = tmp_path / f"first_{name}"
        with (
            av.open(str(whole)) as source,
            av.open(str(first), "w", options={"movflags": "faststart"}) as target,
        ):
            stream = target.add_stream_from_template(source.streams.video[0])
            for packet in source.demux(video=0):
                if packet.size:
                    packet.stream = stream
                    target.mux(packet)
        whole = first
    path = tmp_path / name
    content = whole.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    return path, whole


@pytest.mark.parametrize("name", ["b_frames.mp4", "b_frames.mkv", "h264.avi", "vp9.webm"])
@pytest.mark.parametrize("share", [0.4, 0.77])
def test_a_cut_file_gives_the_frames_it_has_and_one_warning(tmp_path, caplog, name, share):
    path, whole = cut_file(tmp_path, name, share)
    frames, times = read_all(path)
    assert 10 < len(frames) == len(times) < 95
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith(f"{path}: {len(frames)} frames were read, to second ")
    # But for what was decoded without its end, they are those of the whole file.
    sound = len(frames) - 4
    assert np.array_equal(frames[:sound], read_frames(whole, range(sound)))


def test_a_cut_photograph_is_shown_with_one_warning(tmp_path, rng, caplog):
    Image.fromarray(rng.integers(0, 256, (64, 64, 3), np.uint8)).save(tmp_path / "a.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "a.jpg").read_bytes()[:2000])
    assert sum(len(chunk.frames) for chunk in read_chunks(tmp_path / "cut.jpg", 4)) == 1
    (record,) = caplog.records
    assert "damaged (1x image file is truncated" in record.getMessage()


def test_damage_in_the_middle_costs_only_what_it_hits(tmp_path, rng, caplog):
    frames = rng.integers(0, 256, (30, 32, 48, 3), np.uint8)
    write_losslessly(tmp_path / "a.mov", frames, "png", "rgb24")
    content = bytearray((tmp_path / "a.mov").read_bytes())
    headers = [i for i in range(len(content)) if content[i : i + 4] == b"IHDR"]
    assert len(headers) == 30
    content[headers[15] + 4 : headers[15] + 12] = b"\xff" * 8  # an absurd size
    path = tmp_path / "damaged.mov"
    path.write_bytes(content)
    read, times = read_all(path)
    assert np.array_equal(read, np.delete(frames, 15, axis=0))
    assert times == [Fraction(n, 25) for n in range(30) if n != 15]
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith(f"{path}: 29 frames were read: damaged (1x ")


def test_no_frame_at_all_is_an_error_in_one_line(tmp_path):
    header = b"YUV4MPEG2 W16 H16 F25:1 C420jpeg\n"
    (tmp_path / "empty.y4m").write_bytes(header)
    (tmp_path / "text.mp4").write_bytes(b"hello, I am a text\n" * 100)
    (tmp_path / "zero.mp4").write_bytes(b"")
    for name in ("empty.y4m", "text.mp4", "zero.mp4"):
        with pytest.raises(VideoError) as caught:
            next(read_chunks(tmp_path / name, 8))
        assert str(caught.value).startswith(f"{tmp_path / name}: ")
        assert "\n" not in str(caught.value)
    with pytest.raises(FileNotFoundError):
        next(read_chunks(tmp_path / "none.mp4", 8))


def test_times_that_stand_still_or_jump_absurdly_follow_the_frame_rate(tmp_path):
    milliseconds = np.arange(20) * 40
    milliseconds[10:] += 10**9  # 11 days later
    write_moving(tmp_path / "a.mkv", "libx264", num_frames=20, times=milliseconds)
    _, times = read_all(tmp_path / "a.mkv")
    steps = np.diff([float(time) for time in times])
    assert ((steps > 0) & (steps < 1)).all()


@pytest.mark.parametrize("name", ["a.ts", "a.mkv"])
def test_a_file_that_begins_within_a_group_of_pictures_lacks_its_beginning(tmp_path, caplog, name):
    write_moving(tmp_path / "a.mp4", "libx264", options={"g": "12", "bf": "0"})
    with (
        av.open(str(tmp_path / "a.mp4")) as source,
        av.open(str(tmp_path / name), "w") as target,
    ):
        stream = target.add_stream_from_template(source.streams.video[0])
        for number, packet in enumerate(source.demux(video=0)):
            if packet.size and number >= 4:
                packet.stream = stream
                target.mux(packet)
    frames, _ = read_all(tmp_path / name)
    assert len(frames) == 38
    said = [record.getMessage() for record in caplog.records]
    assert (
        f"{tmp_path / name}: 38 frames were read, the first at second 0.32: its beginning"
        in (said[-1])
    )


def test_a_stream_whose_transparency_is_not_decoded_is_told_of_once(tmp_path, caplog):
    levels = np.arange(20, 240, 20)
    with av.open(str(tmp_path / "a.webm"), "w") as container:
        stream = container.add_stream("libvpx-vp9", rate=10, options={"lossless": "1"})
        stream.width = stream.height = 32
        stream.pix_fmt = "yuva420p"
        stream.metadata["alpha_mode"] = "1"  # as a tag; other writers have a field of the track
        for level in levels:
            image = np.full((32, 32, 4), level, np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgba")))
        container.mux(stream.encode())
    for _ in range(2):
        assert len(read_all(tmp_path / "a.webm")[0]) == len(levels)
    said = [record.getMessage() for record in caplog.records]
    assert said == [f"{tmp_path / 'a.webm'}: its transparency is ignored, not composited on black"]
