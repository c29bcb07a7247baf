"""Clips from the middle of a video are those that decoding from its start gives."""

import os
import zlib
from contextlib import suppress
from itertools import islice

import av
import numpy as np
import pytest
from PIL import Image

from mg.data import VideoError, count_frames, read_frames, write_video
from mg.data import seeking as seeking_module
from mg.data.clip import read_clip
from mg.data.seeking import InexactSeek, frames_after_seek, frames_from_start, known_table

from .sample_videos import labelled_frames, write_losslessly, write_moving

X264 = "keyint=8:min-keyint=4:bframes=3"
IRREGULAR = np.cumsum(np.random.default_rng(0).integers(5, 90, 50))
# name: codec, pixel format, options; whether a seek is expected to serve once frames are counted
FORMATS = {
    "b_frames.mp4": ("libx264", "yuv420p", {"x264-params": X264}, True),
    "b_frames.mkv": ("libx264", "yuv420p", {"x264-params": X264}, True),
    "one_gop.mp4": ("libx264", "yuv420p", {"g": "999"}, True),
    "intra_only.mp4": ("libx264", "yuv420p", {"g": "1"}, True),
    "open_gop.mp4": ("libx264", "yuv420p", {"x264-params": f"{X264}:open-gop=1"}, True),
    "open_gop.mkv": ("libx264", "yuv420p", {"x264-params": f"{X264}:open-gop=1"}, True),
    "refresh.mp4": ("libx264", "yuv420p", {"x264-params": "intra-refresh=1:keyint=8"}, False),
    "h264.avi": ("libx264", "yuv420p", {"x264-params": X264}, False),  # times out of order
    "h264.ts": ("libx264", "yuv420p", {"x264-params": X264}, False),
    "hevc.mkv": (
        "libx265",
        "yuv420p",
        {"x265-params": "open-gop=1:keyint=8:min-keyint=4:bframes=3:log-level=none"},
        True,
    ),
    "xvid.avi": ("mpeg4", "yuv420p", {"g": "7"}, True),
    "xvid_b.avi": ("mpeg4", "yuv420p", {"g": "7", "bf": "2"}, True),
    "xvid_b.mp4": ("mpeg4", "yuv420p", {"g": "7", "bf": "2"}, True),
    "mpeg2.mkv": ("mpeg2video", "yuv420p", {"g": "7", "bf": "2"}, True),
    "mpeg2.mpg": ("mpeg2video", "yuv420p", {"g": "7", "bf": "2"}, False),  # frames without times
    "wmv2.wmv": ("wmv2", "yuv420p", {"g": "7"}, False),  # an index of few key frames
    "vp8.webm": ("libvpx", "yuv420p", {"g": "7", "auto-alt-ref": "1", "lag-in-frames": "9"}, True),
    "vp9.webm": ("libvpx-vp9", "yuv420p", {"g": "7", "cpu-used": "8"}, True),
    "motion.avi": ("mjpeg", "yuvj420p", {}, True),
    "huffyuv.avi": ("huffyuv", "rgb24", {}, True),
    "ten_bit.mkv": ("libx264", "yuv422p10le", {"g": "8"}, True),
    "ffv1.mkv": ("ffv1", "bgr0", {"g": "5"}, True),
    "loop.gif": ("gif", "rgb8", {}, True),
    "irregular.mp4": ("libx264", "yuv420p", {"x264-params": X264}, True),
    "irregular.mkv": ("libx264", "yuv420p", {"x264-params": X264}, True),
}


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """Each test starts without what another found out about the same path."""
    monkeypatch.setattr(seeking_module, "_tables", seeking_module._Tables())


def write_format(folder, name):
    codec, pix_fmt, options, _ = FORMATS[name]
    times = IRREGULAR if name.startswith("irregular") else None
    return write_moving(folder / name, codec, pix_fmt, options, times=times)


def digest(frame):
    """A frame's pixels in short, so that large videos need not be held whole."""
    return np.array([zlib.crc32(np.ascontiguousarray(frame))])


def read_whole(path, transform=None):
    """Every frame, by decoding from the start."""
    number_of_frames = sum(1 for _ in frames_from_start(path))
    return read_frames(path, range(number_of_frames), transform=transform)


def assert_clips_are_exact(path, rng, num_clips):
    """Clips from random starts equal those frames of the whole, which is decoded in one go."""
    whole = read_whole(path, digest)
    starts = [len(whole) - 1, *rng.integers(0, len(whole), num_clips)]
    for stated in (len(whole), None):
        if stated is None:
            assert count_frames(path) == len(whole)
        for start in starts:
            indices = np.arange(start, len(whole), rng.integers(1, 4))[:5]
            clip = read_frames(path, indices, transform=digest, video_frames=stated)
            assert np.array_equal(clip, whole[indices]), f"{path}, {stated}, frames {indices}"


@pytest.mark.parametrize("name", FORMATS)
def test_a_clip_from_the_middle_is_exactly_what_decoding_from_the_start_gives(tmp_path, rng, name):
    assert_clips_are_exact(write_format(tmp_path, name), rng, num_clips=12)


def test_clips_from_the_middle_of_real_videos_are_exact(manifest, rng):
    for path in manifest:
        assert_clips_are_exact(path, rng, num_clips=6)


def first_decoded(path, table, first):
    """The number of the frame with which decoding begins for frame `first`."""
    return next(frames_after_seek(path, table, first))[0]


@pytest.mark.parametrize("name", [name for name, (*_, served) in FORMATS.items() if served])
def test_seeking_serves_the_formats_that_are_common(tmp_path, name):
    path = write_format(tmp_path, name)
    assert count_frames(path) == 50
    begins = [first_decoded(path, known_table(path, None), first) for first in range(50)]
    assert all(begin <= first for first, begin in enumerate(begins))
    if name not in ("one_gop.mp4", "loop.gif"):
        assert all(first - begin < 12 for first, begin in enumerate(begins)), begins


@pytest.mark.parametrize("name", ["b_frames.mp4", "xvid.avi", "vp9.webm", "vp8.webm", "hevc.mkv"])
def test_with_a_stated_count_nothing_is_decoded_but_from_the_nearest_key_frame(tmp_path, name):
    path = write_format(tmp_path, name)
    begins = [first_decoded(path, known_table(path, 50), first) for first in range(50)]
    assert all(0 <= first - begin < 12 for first, begin in enumerate(begins)), begins


def destroy_first_frames(path, share=0.3):
    """Overwrite the first frames' bytes, after the file's header; its time of change stays."""
    before = os.stat(path)
    content = bytearray(path.read_bytes())
    begin = content.find(b"mdat") + 4
    length = int(share * (len(content) - begin))
    content[begin : begin + length] = bytes(length)
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


def test_reading_a_clip_decodes_no_frame_far_before_it(tmp_path):
    path = write_format(tmp_path, "b_frames.mp4")
    whole = read_whole(path)
    count_frames(path)
    destroy_first_frames(path)
    assert np.array_equal(read_frames(path, [40, 44]), whole[[40, 44]])


def test_a_frame_that_is_not_as_counted_is_refused_after_a_seek(tmp_path):
    path = write_format(tmp_path, "b_frames.mp4")
    count_frames(path)
    before = os.stat(path)
    other = write_moving(
        tmp_path / "other.mp4", "libx264", options={"x264-params": f"{X264}:crf=40"}
    )
    other.replace(path)
    os.truncate(path, before.st_size)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    with pytest.raises(InexactSeek, match="pixels may be others"):
        list(islice(frames_after_seek(path, known_table(path, None), 40), 10))
    assert np.array_equal(read_frames(path, [40]), read_whole(path)[[40]])


def test_a_file_of_another_size_with_the_same_date_is_counted_anew(tmp_path):
    path = write_moving(tmp_path / "a.mp4", "libx264", options={"g": "5"})
    assert (count_frames(path), count_frames(path, at_most=40)) == (50, 40)
    before = os.stat(path)
    write_video(path, read_whole(path)[:9], 25)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert (count_frames(path), count_frames(path, at_most=40)) == (9, 9)


def test_a_frame_that_is_marked_as_a_key_frame_and_is_none_is_no_start(tmp_path):
    path = write_moving(tmp_path / "one_key.mp4", "mpeg4", options={"g": "50"})
    with av.open(path) as source, av.open(tmp_path / "all_keys.mp4", "w") as target:
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.size:
                packet.is_keyframe, packet.stream = True, stream
                target.mux(packet)
    indices = range(30, 40)
    clip = read_frames(tmp_path / "all_keys.mp4", indices, video_frames=50)
    assert np.array_equal(clip, read_frames(path, indices))


@pytest.mark.parametrize("name", ["b_frames.mp4", "xvid.avi", "vp8.webm", "motion.avi"])
def test_damaged_videos_give_what_decoding_from_the_start_gives(tmp_path, rng, name):
    path = write_format(tmp_path, name)
    content = path.read_bytes()
    for _ in range(20):
        damaged = bytearray(content)
        for place in rng.integers(len(content) // 5, len(content) * 4 // 5, 6):
            damaged[place : place + 4] = rng.bytes(4)
        path.write_bytes(damaged)
        with suppress(VideoError):
            whole = read_whole(path)
            break
    else:
        pytest.fail("no damage leaves a video that can be read")
    count_frames(path)
    for start in rng.integers(0, len(whole), 10):
        clip = read_frames(path, [start])
        assert np.array_equal(clip, whole[[start]]), start


@pytest.mark.parametrize("name", ["b_frames.mp4", "xvid.avi", "h264.avi", "vp9.webm", "loop.gif"])
@pytest.mark.parametrize("stated", [1, 20, 49, 51, 1000])
def test_a_wrong_number_of_frames_gives_no_wrong_frame(tmp_path, name, stated):
    path = write_format(tmp_path, name)
    whole = read_whole(path)
    for indices in ([45], [10, 12], [0, 49]):
        assert np.array_equal(read_frames(path, indices, video_frames=stated), whole[indices])


@pytest.mark.parametrize("name", ["b_frames.mkv", "xvid.avi", "vp9.webm"])
def test_a_file_cut_short_gives_the_frames_that_it_still_has(tmp_path, name):
    path = write_format(tmp_path, name)
    whole = read_whole(path)
    path.write_bytes(path.read_bytes()[: os.path.getsize(path) * 3 // 4])
    assert np.array_equal(read_frames(path, [12, 20], video_frames=50), whole[[12, 20]])
    with pytest.raises(VideoError, match="ends after|cannot be read"):
        read_frames(path, [49], video_frames=50)


def test_a_video_that_ends_before_the_stated_number_of_frames_is_broken(tmp_path):
    write_losslessly(tmp_path / "a.mkv", labelled_frames(0))
    rng = np.random.default_rng(0)
    with pytest.raises(VideoError, match="a.mkv: ends after 20 frames, but frame number"):
        for _ in range(20):
            read_clip(tmp_path / "a.mkv", 8, 16, rng=rng, video_frames=60)


def test_a_stated_number_gives_the_very_clips_that_counting_gives(tmp_path):
    path = write_format(tmp_path, "b_frames.mp4")
    clips = [
        read_clip(path, 6, 16, rng=np.random.default_rng(seed), video_frames=stated)
        for stated in (None, 50)
        for seed in range(8)
    ]
    assert all(np.array_equal(*pair) for pair in zip(clips[:8], clips[8:], strict=True))
    assert len({clip.tobytes() for clip in clips}) > 4


def test_images_and_single_frames_have_no_middle(tmp_path, rng):
    image = rng.integers(0, 256, (20, 30, 3), np.uint8)
    Image.fromarray(image).save(tmp_path / "a.png")
    for stated in (None, 1, 5):
        assert np.array_equal(read_frames(tmp_path / "a.png", [0], video_frames=stated)[0], image)
        with pytest.raises(VideoError, match="ends after 1 frames, but frame number 3"):
            read_frames(tmp_path / "a.png", [3], video_frames=stated)


def test_what_is_known_follows_a_file_that_changes(tmp_path):
    path = write_format(tmp_path, "xvid.avi")
    count_frames(path)
    write_moving(tmp_path / "new.avi", "mpeg4", options={"g": "5"}, num_frames=30).replace(path)
    assert known_table(path, None) is None
    assert count_frames(path) == 30
    assert np.array_equal(read_frames(path, [20, 29]), read_whole(path)[[20, 29]])


def test_tables_of_long_ago_are_forgotten(tmp_path, monkeypatch):
    monkeypatch.setattr(seeking_module, "_CACHED_FRAMES", 300)
    paths = [write_moving(tmp_path / f"{n}.avi", "mpeg4", num_frames=20) for n in range(6)]
    for path in paths:
        assert count_frames(path) == 20
    known = [known_table(path, None) is not None for path in paths]
    assert known == [False] * 3 + [True] * 3
    assert np.array_equal(read_frames(paths[0], [15]), read_whole(paths[0])[[15]])


def test_a_table_is_known_however_long_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(seeking_module, "_CACHED_FRAMES", 1)
    path = write_format(tmp_path, "xvid.avi")
    count_frames(path)
    assert known_table(path, None) is not None
