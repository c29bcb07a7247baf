import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mg.data import VideoError, count_frames, opening, read_fps, read_frames, write_video

from .sample_videos import write_losslessly

LOSSLESS = [
    ("x264.mp4", "libx264rgb", "rgb24", {"crf": "0"}),  # with frames stored out of order
    ("ffv1.mkv", "ffv1", "bgr0", {}),
    ("huffyuv.avi", "huffyuv", "rgb24", {}),
    ("rle.mov", "qtrle", "rgb24", {}),
    ("vp9.webm", "libvpx-vp9", "gbrp", {"lossless": "1"}),
    ("anim.apng", "apng", "rgb24", {}),
]
LOSSY = [
    ("h264.mp4", "libx264", "yuv420p"),
    ("ten_bit.mkv", "libx264", "yuv422p10le"),
    ("vp8.webm", "libvpx", "yuv420p"),
    ("xvid.avi", "mpeg4", "yuv420p"),
    ("motion.avi", "mjpeg", "yuvj420p"),
    ("mpeg2.mpg", "mpeg2video", "yuv420p"),
]


def damaged_png(width, height):
    """A PNG that claims a size and has next to no data."""

    def chunk(kind, data):
        checksum = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + checksum

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1000))) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def test_every_real_clip_decodes_to_exactly_its_frames(manifest):
    counts = {path.name: count_frames(path) for path in manifest}
    assert counts == {path.name: int(row["frames"]) for path, row in manifest.items()}


def test_real_clips_have_their_size_and_frame_rate(manifest):
    for path, row in manifest.items():
        last = int(row["frames"]) - 1
        assert read_frames(path, [last]).shape == (1, int(row["height"]), int(row["width"]), 3)
        if row["container"] != "gif":
            assert float(read_fps(path)) == pytest.approx(float(row["fps"]), rel=0.01), path


@pytest.mark.parametrize(("name", "codec", "pix_fmt", "options"), LOSSLESS)
@pytest.mark.parametrize("size", [(23, 37), (32, 48)])
def test_lossless_videos_give_exactly_the_frames_asked_for(
    tmp_path, rng, name, codec, pix_fmt, options, size
):
    frames = rng.integers(0, 256, (17, *size, 3), np.uint8)
    write_losslessly(tmp_path / name, frames, codec, pix_fmt, options)
    assert count_frames(tmp_path / name) == 17
    for indices in ([0], [16], range(17), range(1, 17, 5), rng.integers(0, 17, 30)):
        assert np.array_equal(read_frames(tmp_path / name, indices), frames[list(indices)])


@pytest.mark.parametrize(("name", "codec", "pix_fmt"), LOSSY)
def test_lossy_videos_give_their_frames_in_order(tmp_path, name, codec, pix_fmt):
    levels = np.arange(30, 230, 10)
    with av.open(str(tmp_path / name), "w") as container:
        stream = container.add_stream(codec, rate=25)
        stream.width, stream.height, stream.pix_fmt = 66, 50, pix_fmt
        for number, level in enumerate(levels):
            image = np.full((50, 66, 3), level, np.uint8)
            frame = av.VideoFrame.from_ndarray(image, format="rgb24")
            frame.pts = number
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    frames = read_frames(tmp_path / name, range(count_frames(tmp_path / name)))
    assert frames.shape == (20, 50, 66, 3)
    assert np.abs(frames.mean((1, 2, 3)) - levels).max() < 4


@pytest.mark.parametrize("name", ["a.png", "a.webp", "a.bmp", "a.tif"])
def test_images_are_videos_of_one_frame_with_exactly_their_pixels(tmp_path, rng, name):
    image = rng.integers(0, 256, (23, 37, 3), np.uint8)
    options = {"lossless": True} if name.endswith("webp") else {}
    Image.fromarray(image).save(tmp_path / name, **options)
    assert count_frames(tmp_path / name) == 1
    assert np.array_equal(read_frames(tmp_path / name, [0, 0]), np.stack([image, image]))


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "1"])
def test_grey_palette_and_transparent_images_are_read_as_pillow_reads_them(tmp_path, rng, mode):
    image = Image.fromarray(rng.integers(0, 256, (23, 37, 3), np.uint8)).convert(mode)
    image.save(tmp_path / "a.png")
    expected = np.asarray(image.convert("RGB"))
    assert np.array_equal(read_frames(tmp_path / "a.png", [0])[0], expected)


def test_photos_are_turned_upright(tmp_path):
    image = np.zeros((32, 48, 3), np.uint8)
    image[:16] = 255
    orientation = Image.Exif()
    orientation[0x112] = 6  # the camera's top is the picture's right
    Image.fromarray(image).save(tmp_path / "a.jpg", exif=orientation, quality=100)
    frame = read_frames(tmp_path / "a.jpg", [0])[0]
    assert frame.shape == (48, 32, 3)
    assert frame[:, 20:].min() > 240
    assert frame[:, :12].max() < 15


def test_names_are_taken_literally(tmp_path, rng):
    image = rng.integers(0, 256, (16, 16, 3), np.uint8)
    for name in ["frame_%03d.png", "a|b.png", "concat:x.png"]:
        Image.fromarray(image).save(tmp_path / name)
        assert np.array_equal(read_frames(tmp_path / name, [0])[0], image)


def test_a_playlist_opens_no_other_file(tmp_path, rng, monkeypatch):
    write_losslessly(tmp_path / "a.mkv", rng.integers(0, 256, (5, 16, 16, 3), np.uint8))
    (tmp_path / "b.mp4").write_text("ffconcat version 1.0\nfile a.mkv\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(VideoError, match="b.mp4: cannot be read"):
        count_frames("b.mp4")


def test_titles_that_are_not_utf_8_do_not_matter(tmp_path, rng):
    frames = rng.integers(0, 256, (5, 16, 16, 3), np.uint8)
    write_losslessly(tmp_path / "a.avi", frames, "huffyuv", "rgb24", title="title")
    content = (tmp_path / "a.avi").read_bytes()
    assert content.count(b"title") == 1
    (tmp_path / "a.avi").write_bytes(content.replace(b"title", b"\xff\xfetle"))
    assert np.array_equal(read_frames(tmp_path / "a.avi", range(5)), frames)


def test_count_follows_a_file_that_changes(tmp_path, rng):
    frames = rng.integers(0, 256, (9, 16, 16, 3), np.uint8)
    write_losslessly(tmp_path / "a.mkv", frames)
    assert count_frames(tmp_path / "a.mkv", at_most=4) == 4
    assert count_frames(tmp_path / "a.mkv") == 9
    write_losslessly(tmp_path / "b.mkv", frames[:5])
    (tmp_path / "b.mkv").replace(tmp_path / "a.mkv")
    assert count_frames(tmp_path / "a.mkv") == 5


def test_a_frame_past_the_end_is_an_error(tmp_path, rng):
    write_losslessly(tmp_path / "a.mkv", rng.integers(0, 256, (5, 16, 16, 3), np.uint8))
    with pytest.raises(VideoError, match="ends after 5 frames, but frame number 5 is wanted"):
        read_frames(tmp_path / "a.mkv", [0, 5])
    for indices in ([], [-1]):
        with pytest.raises(ValueError, match="expected frame indices of 0 or more"):
            read_frames(tmp_path / "a.mkv", indices)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "the file is empty"),
        (b"hello, I am a text\n" * 100, "cannot be read"),
        (bytes(range(256)) * 50, "cannot be read"),
        (damaged_png(12000, 12000), "an image that FFmpeg cannot read, or of more than"),
        (damaged_png(60000, 60000), "an image that FFmpeg cannot read, or of more than"),
        (b"YUV4MPEG2 W16 H16 F25:1 C420jpeg\n", ""),  # a header and no frame
    ],
)
def test_what_is_wrong_with_a_file_is_one_line_that_names_it(tmp_path, content, message):
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    for read in (count_frames, lambda path: read_frames(path, [0])):
        with pytest.raises(VideoError) as caught:
            read(path)
        assert str(caught.value).startswith(f"{path}: ")
        assert message in str(caught.value)
        assert "\n" not in str(caught.value)


def test_frames_that_grow_beyond_the_limit_on_the_way_are_refused(tmp_path, rng, monkeypatch):
    content = b""
    for size in (64, 640):
        frames = rng.integers(0, 256, (3, size, size, 3), np.uint8)
        write_losslessly(tmp_path / "a.h264", frames, "libx264", "yuv420p")
        content += (tmp_path / "a.h264").read_bytes()
    (tmp_path / "both.h264").write_bytes(content)
    with monkeypatch.context() as patch, pytest.raises(VideoError, match="h264: cannot be read"):
        patch.setattr(opening, "MAX_PIXELS", 100 * 100)
        count_frames(tmp_path / "both.h264")
    assert count_frames(tmp_path / "both.h264") == 6


def test_an_image_above_the_limit_is_refused_before_it_is_decoded(tmp_path, monkeypatch):
    Image.new("RGB", (200, 200)).save(tmp_path / "a.png")
    with monkeypatch.context() as patch, pytest.raises(VideoError, match="of more than 10000 pix"):
        patch.setattr(opening, "MAX_PIXELS", 100 * 100)
        read_frames(tmp_path / "a.png", [0])
    assert read_frames(tmp_path / "a.png", [0]).shape == (1, 200, 200, 3)


def test_half_a_file_a_folder_and_a_missing_file_are_named(tmp_path, rng):
    frames = rng.integers(0, 256, (9, 16, 16, 3), np.uint8)
    write_video(tmp_path / "a.mp4", frames, 25)
    whole = (tmp_path / "a.mp4").read_bytes()
    (tmp_path / "half.mp4").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(VideoError, match="half.mp4: cannot be read"):
        count_frames(tmp_path / "half.mp4")
    with pytest.raises(VideoError, match="not a file"):
        read_fps(tmp_path)
    with pytest.raises(FileNotFoundError, match="none.mp4: no such video file"):
        read_frames(tmp_path / "none.mp4", [0])


def test_sound_without_pictures_is_no_video(tmp_path):
    with av.open(str(tmp_path / "a.wav"), "w") as container:
        stream = container.add_stream("pcm_s16le", rate=8000, layout="mono")
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 800), np.int16), "s16", "mono")
        frame.rate = 8000
        container.mux(stream.encode(frame))
    with pytest.raises(VideoError, match="has no video stream"):
        count_frames(tmp_path / "a.wav")


@pytest.mark.parametrize("size", [(48, 64), (47, 64), (48, 63), (47, 63)])
def test_written_video_keeps_size_length_rate_and_looks(tmp_path, size):
    height, width = size
    ramp = np.linspace(0, 255, width).astype(np.uint8)
    frames = np.stack(
        [np.broadcast_to(np.roll(ramp, 3 * t)[:, None], (*size, 3)) for t in range(12)]
    ).copy()
    frames[..., 2] = 90
    write_video(tmp_path / "new" / "a.mp4", frames, 30000 / 1001)
    path = tmp_path / "new" / "a.mp4"
    assert read_fps(path) == Fraction(30000, 1001)
    read = read_frames(path, range(count_frames(path)))
    assert read.shape == frames.shape
    assert np.abs(read.astype(int) - frames).mean() < 3


def test_lower_crf_is_closer_to_the_frames(tmp_path, rng):
    noise = rng.integers(0, 256, (8, 12, 12, 3), np.uint8).repeat(4, 1).repeat(4, 2)
    errors = []
    for crf in (5, 20, 40):
        write_video(tmp_path / "a.mp4", noise, 25, crf=crf)
        errors.append(np.abs(read_frames(tmp_path / "a.mp4", range(8)) - noise.astype(int)).mean())
    assert errors[0] < errors[1] < errors[2]


def test_frames_can_be_written_as_they_come(tmp_path):
    stream = (np.full((16, 16, 3), 20 * t, np.uint8) for t in range(10))
    write_video(tmp_path / "a.mp4", stream, Fraction(25))
    means = read_frames(tmp_path / "a.mp4", range(10)).mean((1, 2, 3))
    assert np.abs(means - 20 * np.arange(10)).max() < 4


@pytest.mark.parametrize(
    "frames",
    [
        np.zeros((0, 16, 16, 3), np.uint8),
        np.zeros((2, 16, 16, 3), np.float32),
        np.zeros((2, 16, 16), np.uint8),
        np.zeros((2, 16, 16, 4), np.uint8),
        np.zeros((2, 0, 16, 3), np.uint8),
        [np.zeros((16, 16, 3), np.uint8), np.zeros((16, 18, 3), np.uint8)],
    ],
)
def test_wrong_frames_are_refused_and_leave_nothing_behind(tmp_path, frames):
    with pytest.raises(ValueError, match=r"a.mp4: (no frames|expected uint8 frames)"):
        write_video(tmp_path / "a.mp4", frames, 25)
    assert list(tmp_path.iterdir()) == []


def test_interrupted_writing_leaves_the_old_video(tmp_path):
    path = tmp_path / "a.mp4"
    write_video(path, np.zeros((3, 16, 16, 3), np.uint8), 25)
    before = path.read_bytes()

    def interrupted():
        yield np.zeros((16, 16, 3), np.uint8)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_video(path, interrupted(), 25)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf")])
def test_frame_rate_must_be_above_zero(tmp_path, fps):
    with pytest.raises(ValueError, match="expected a frame rate above 0"):
        write_video(tmp_path / "a.mp4", np.zeros((1, 16, 16, 3), np.uint8), fps)


def test_a_frame_of_8k_video_is_not_too_large(tmp_path):
    Image.new("L", (7680, 4320)).save(tmp_path / "a.png")
    assert count_frames(tmp_path / "a.png") == 1
