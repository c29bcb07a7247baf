"""Videos and images as they are written: times, sound, formats, and what goes wrong."""

import os
from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mg.data import (
    check_output,
    count_frames,
    open_writer,
    read_chunks,
    read_fps,
    read_frames,
    write_video,
)

from .full_disk import small_disk
from .sample_sound import packets_of_sound, write_with_sound
from .sample_videos import write_moving


def copy_video(source, target, **options):
    """Write what is read, with its times and sound; gives the frames and times that were read."""
    frames, times = [], []
    with open_writer(target, read_fps(source), audio_from=source, **options) as writer:
        for chunk in read_chunks(source, 8):
            for image, time in zip(*chunk, strict=True):
                writer.write(image, time)
                frames.append(image)
                times.append(time)
    return frames, times


def times_of(path):
    return [time for chunk in read_chunks(path, 8) for time in chunk.times]


def steps(times):
    return np.diff([float(time) for time in times])


@pytest.mark.parametrize("target", ["a.mp4", "a.mkv", "a.mov", "a.webm", "a.ts", "a.avi"])
@pytest.mark.parametrize("fps", [Fraction(25), Fraction(30000, 1001), Fraction(12), Fraction(240)])
def test_a_constant_rate_stays_exactly_that_rate(tmp_path, target, fps):
    path = tmp_path / target
    with open_writer(path, fps, crf=40) as writer:
        for number in range(20):
            writer.write(np.full((32, 48, 3), 10 * number, np.uint8), number / fps)
    assert count_frames(path) == 20
    # MPEG's transport stream and WebM do not state the rate; it is guessed from rounded times.
    assert float(read_fps(path)) == pytest.approx(float(fps), rel=1e-2)
    if target in ("a.mp4", "a.mkv", "a.mov", "a.avi"):
        assert read_fps(path) == fps
    assert np.abs(steps(times_of(path)) - 1 / float(fps)).max() <= 0.0011


@pytest.mark.parametrize("target", ["a.mp4", "a.mkv", "a.webm", "a.m4v", "a.3gp", "a.f4v"])
def test_varying_times_are_kept(tmp_path, target):
    milliseconds = np.cumsum(np.random.default_rng(0).integers(5, 90, 50))
    source = write_moving(tmp_path / "vfr.mkv", "libx264", times=milliseconds)
    _, times = copy_video(source, tmp_path / target, crf=40)
    kept = times_of(tmp_path / target)
    assert len(kept) == 50
    assert np.abs(steps(kept) - steps(times)).max() <= 0.0021
    assert np.abs(np.array(kept, float) - kept[0] - np.array(times, float) + times[0]).max() < 0.002


@pytest.mark.parametrize(("target", "codec"), [("a.avi", None), ("a.mkv", "mpeg2video")])
def test_a_format_of_one_rate_says_that_it_cannot_keep_times(tmp_path, caplog, target, codec):
    milliseconds = np.cumsum(np.random.default_rng(0).integers(5, 90, 50))
    source = write_moving(tmp_path / "vfr.mkv", "libx264", times=milliseconds)
    copy_video(source, tmp_path / target, codec=codec)
    assert count_frames(tmp_path / target) == 50
    assert ["holds one frame rate only" in r.getMessage() for r in caplog.records] == [True]


def test_real_clips_keep_frames_size_rate_and_times(manifest, tmp_path):
    for path, row in manifest.items():
        target, times, kept = tmp_path / "copy.mkv", [], []
        # A codec that is fast on large frames.
        with open_writer(target, read_fps(path), codec="mpeg4", audio_from=path) as writer:
            for chunk in read_chunks(path, 8):
                for image, time in zip(*chunk, strict=True):
                    writer.write(image, time)
                times += chunk.times
        for chunk in read_chunks(target, 8):
            assert chunk.frames.shape[1:] == (int(row["height"]), int(row["width"]), 3)
            kept += chunk.times
        assert len(kept) == len(times) == int(row["frames"]), path
        assert np.abs(steps(kept) - steps(times)).max() <= 0.0021, path
        if row["container"] != "gif":
            assert float(read_fps(target)) == pytest.approx(float(read_fps(path)), rel=1e-3), path
        if row["audio"] == "1":
            assert sound_of(path) == sound_of(target)


def sound_of(path):
    return [content for content, _ in packets_of_sound(path)]


@pytest.mark.parametrize(
    ("source", "audio_codec", "targets"),
    [
        ("a.mp4", "aac", ("b.mp4", "b.mkv", "b.mov")),
        ("a.mkv", "libopus", ("b.mp4", "b.mkv", "b.webm")),
        ("a.mkv", "flac", ("b.mp4", "b.mkv")),
        ("a.avi", "libmp3lame", ("b.mp4", "b.mkv", "b.avi")),
        ("a.avi", "pcm_s16le", ("b.mp4", "b.mkv", "b.avi")),  # says not which channel is which
        ("a.mov", "pcm_s16be", ("b.mp4", "b.mkv")),
    ],
)
@pytest.mark.parametrize("delay", [0, 0.4])
def test_sound_is_copied_bit_by_bit_and_stays_in_time(
    tmp_path, caplog, source, audio_codec, targets, delay
):
    video_codec = "mpeg4" if source == "a.avi" else "libx264"
    path = write_with_sound(tmp_path / source, audio_codec, video_codec=video_codec, delay=delay)
    before = packets_of_sound(path)
    assert len(before) > 10
    for target in targets:
        _, times = copy_video(path, tmp_path / target)
        after = packets_of_sound(tmp_path / target)
        assert [content for content, _ in after] == [content for content, _ in before], target
        if target == "b.avi":  # has no way to let sound begin later
            continue
        # How much later than the pictures each packet is heard.
        lead = times_of(tmp_path / target)[0] - times[0]
        late = [new - old for (_, new), (_, old) in zip(after, before, strict=True)]
        assert np.abs(np.array(late) - float(lead)).max() < 0.0021, target
    assert caplog.records == []


def test_every_stream_of_sound_is_copied(tmp_path):
    one = write_with_sound(tmp_path / "one.mp4", "aac")
    two = write_with_sound(tmp_path / "two.mp4", "libopus")
    with (
        av.open(str(one)) as a,
        av.open(str(two)) as b,
        av.open(str(tmp_path / "both.mkv"), "w") as both,
    ):
        sources = [(a, a.streams.video[0]), (a, a.streams.audio[0]), (b, b.streams.audio[0])]
        streams = [both.add_stream_from_template(stream) for _, stream in sources]
        for (container, source), stream in zip(sources, streams, strict=True):
            container.seek(0)
            for packet in container.demux(source):
                if packet.size:
                    packet.stream = stream
                    both.mux(packet)
    copy_video(tmp_path / "both.mkv", tmp_path / "copy.mp4")
    with av.open(str(tmp_path / "copy.mp4")) as container:
        assert [s.codec_context.name for s in container.streams.audio] == ["aac", "opus"]
    assert sorted(sound_of(tmp_path / "copy.mp4")) == sorted(sound_of(one) + sound_of(two))


def test_sound_that_a_format_does_not_take_is_left_out_and_named(tmp_path, caplog):
    source = write_with_sound(tmp_path / "a.mp4", "aac")
    copy_video(source, tmp_path / "b.webm")
    assert count_frames(tmp_path / "b.webm") == 50
    assert packets_of_sound_or_none(tmp_path / "b.webm") is None
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 1
    assert said[0].startswith(f"{source}: its sound (aac) is left out, which the format webm")


def test_sound_that_begins_late_and_would_not_in_an_avi_is_told(tmp_path, caplog):
    source = write_with_sound(tmp_path / "a.mp4", "libmp3lame", delay=0.4)
    copy_video(source, tmp_path / "b.avi")
    (record,) = caplog.records
    assert "its sound begins 0.38 seconds late, and with the pictures" in record.getMessage()


def test_a_stream_of_sound_without_any_is_left_out_without_a_word(tmp_path, caplog):
    path = tmp_path / "a.mkv"
    with av.open(path, "w") as container:
        stream = container.add_stream("libx264", rate=25)
        stream.width, stream.height = 64, 48
        container.add_stream("flac", rate=48000).layout = "mono"
        for image in np.zeros((5, 48, 64, 3), np.uint8):
            container.mux(stream.encode(av.VideoFrame.from_ndarray(image, format="rgb24")))
        container.mux(stream.encode(None))
    with av.open(path) as container:
        assert len(container.streams.audio) == 1
    copy_video(path, tmp_path / "b.mkv")
    assert packets_of_sound_or_none(tmp_path / "b.mkv") is None
    assert caplog.records == []


def packets_of_sound_or_none(path):
    with av.open(str(path)) as container:
        return packets_of_sound(path) if container.streams.audio else None


def test_sound_can_end_with_the_pictures(tmp_path):
    source = write_with_sound(tmp_path / "a.mp4", "aac", seconds=3)
    target = tmp_path / "b.mp4"
    with open_writer(target, 25, audio_from=source, cut_audio=True) as writer:
        for chunk in read_chunks(source, 8, num_frames=20):
            for image, time in zip(*chunk, strict=True):
                writer.write(image, time)
    before, after = sound_of(source), sound_of(target)
    assert after == before[: len(after)]
    assert 0.7 < packets_of_sound(target)[-1][1] < 0.8


def test_sound_of_a_cut_file_is_copied_as_far_as_it_goes(tmp_path, caplog):
    source = write_with_sound(tmp_path / "a.mkv", "libopus", seconds=4)
    before = sound_of(source)
    content = source.read_bytes()
    source.write_bytes(content[: len(content) * 3 // 5])
    frames, _ = copy_video(source, tmp_path / "b.mkv")
    assert count_frames(tmp_path / "b.mkv") == len(frames) < 100
    after = sound_of(tmp_path / "b.mkv")
    assert 50 < len(after) < len(before)
    assert after[:-1] == before[: len(after) - 1]


@pytest.mark.parametrize(("name", "is_exact"), [
    ("a.png", True), ("a.bmp", True), ("a.tif", True), ("a.webp", True), ("a.jpg", False),
    ("a.PNG", True),
])  # fmt: skip
def test_one_frame_can_be_written_as_an_image(tmp_path, name, is_exact):
    y, x = np.mgrid[:23, :37]
    image = np.stack([5 * y, 5 * x, 2 * y + 3 * x], -1).astype(np.uint8)
    write_video(tmp_path / name, image[None], 25)
    read = np.asarray(Image.open(tmp_path / name).convert("RGB")).astype(int)
    assert np.abs(read - image).max() <= (0 if is_exact else 30)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_an_image_of_two_frames_is_refused_and_nothing_is_left(tmp_path, rng):
    frames = rng.integers(0, 256, (2, 16, 16, 3), np.uint8)
    with pytest.raises(ValueError, match="a.png: an image holds one frame"):
        write_video(tmp_path / "a.png", frames, 25)
    assert list(tmp_path.iterdir()) == []


def test_frames_that_are_too_fast_for_a_gif_take_longer(tmp_path):
    source = write_moving(tmp_path / "fast.mkv", "libx264", times=4 * np.arange(50))
    copy_video(source, tmp_path / "a.gif")
    assert count_frames(tmp_path / "a.gif") == 50
    assert np.abs(steps(times_of(tmp_path / "a.gif")) - 0.01).max() < 1e-6


def test_a_gif_goes_back_to_the_colours_of_its_first_frame(tmp_path):
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    frames[1] = 255, 0, 0
    write_video(tmp_path / "a.gif", frames, 10)
    assert np.array_equal(read_frames(tmp_path / "a.gif", range(3)), frames)


def test_one_frame_can_be_written_as_a_video(tmp_path):
    write_video(tmp_path / "a.mp4", np.full((1, 16, 16, 3), 90, np.uint8), 25)
    assert count_frames(tmp_path / "a.mp4") == 1
    assert read_fps(tmp_path / "a.mp4") == 25


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", "mpeg4"),
        ("a.mp4", "libx264rgb"),
        ("a.webm", "libvpx-vp9"),
        ("a.webm", "libvpx"),
        ("a.mkv", "ffv1"),
        ("a.mov", "qtrle"),
        ("a.gif", None),
        ("a.webm", None),
    ],
)
@pytest.mark.parametrize("size", [(32, 48), (33, 47)])
def test_other_codecs_and_containers_keep_size_and_count(tmp_path, name, codec, size):
    ramp = np.linspace(0, 255, size[1]).astype(np.uint8)
    frames = [np.broadcast_to(np.roll(ramp, 3 * t)[:, None], (*size, 3)).copy() for t in range(9)]
    write_video(tmp_path / name, frames, 25, codec=codec)
    read = read_frames(tmp_path / name, range(count_frames(tmp_path / name)))
    assert read.shape == (9, *size, 3)
    assert np.abs(read.astype(int) - np.stack(frames)).mean() < 6
    if codec == "libx264rgb" or codec == "qtrle":
        write_video(tmp_path / name, frames, 25, codec=codec, crf=0)
        assert np.array_equal(read_frames(tmp_path / name, range(9)), frames)


@pytest.mark.parametrize(
    ("name", "codec"),
    [
        ("a.mp4", None),
        ("a.mp4", "mpeg4"),
        ("a.mkv", "ffv1"),
        ("a.webm", "libvpx"),
        ("a.avi", None),
        ("a.avi", "mpeg4"),
        ("a.avi", "rawvideo"),
        ("a.avi", "mjpeg"),
        ("a.mkv", "mjpeg"),
        ("a.mov", "prores_ks"),
    ],
)
def test_colours_are_read_as_they_were_written(tmp_path, name, codec):
    colours = np.array([[255, 0, 0], [0, 255, 0], [0, 0, 255], [200, 120, 60]], np.uint8)
    frames = colours[:, None, None].repeat(32, 1).repeat(48, 2)
    write_video(tmp_path / name, frames, 25, codec=codec, crf=4)
    assert np.abs(read_frames(tmp_path / name, range(4)).astype(int) - frames).max() <= 4


def test_every_frame_is_written_by_codecs_of_more_than_8_bits(tmp_path):
    frames = np.broadcast_to(np.uint8([200, 120, 60]), (300, 32, 48, 3))
    write_video(tmp_path / "a.mov", frames, 25, codec="prores_ks")
    read = read_frames(tmp_path / "a.mov", range(300)).astype(int)
    assert np.abs(read - frames).max() <= 4


@pytest.mark.parametrize("count", [1, 2, 3])
def test_a_few_frames_are_a_video_in_h265_too(tmp_path, count):
    for _ in range(10):  # of one or two, times were at random
        write_video(tmp_path / "a.mp4", np.zeros((count, 64, 64, 3), np.uint8), 25, codec="libx265")
        assert count_frames(tmp_path / "a.mp4") == count


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("a.mp4", "h264"),
        ("a.webm", "vp9"),
        ("a.ogv", "vp8"),
        ("a.y4m", "rawvideo"),
        ("a.swf", "flv1"),
    ],
)
def test_the_codec_is_h264_or_else_the_usual_one_of_the_format(tmp_path, rng, name, kind):
    write_video(tmp_path / name, rng.integers(0, 256, (3, 32, 48, 3), np.uint8), 25)
    with av.open(str(tmp_path / name)) as container:
        assert container.streams.video[0].codec_context.codec.canonical_name == kind
        assert sum(1 for _ in container.decode(video=0)) == 3


@pytest.mark.parametrize(
    ("name", "codec", "message"),
    [
        ("a.mp4", "nonsense", "codec is 'nonsense', no encoder of this FFmpeg"),
        ("a.mp4", "aac", "codec is 'aac', an encoder of audio, expected one of video"),
        ("a.webm", "libx264", "a.webm: WebM does not take codec 'libx264', its usual one is vp9"),
        ("a.ogv", "libx264", "a.ogv: Ogg Video does not take codec 'libx264'"),
        ("a.mov", "libsvtav1", "a.mov: QuickTime .* does not take codec 'libsvtav1'"),
        ("a.yuv", "libx264", "a.yuv: raw video does not take codec 'libx264'"),
        ("a.xyz", None, "a.xyz: FFmpeg writes no container of suffix '.xyz'"),
        ("a", None, "FFmpeg writes no container of suffix ''"),
        ("a.wav", None, "a.wav: WAV .* holds no video"),
        ("a.ogg", None, "a.ogg: this FFmpeg has no encoder for Ogg"),
        ("a.m3u8", None, "a.m3u8: FFmpeg writes no container of suffix '.m3u8'"),
        ("a.jxl", None, "a.jxl: FFmpeg writes no container of suffix '.jxl'"),
    ],
)
def test_unknown_codecs_and_suffixes_are_refused_before_any_work(tmp_path, name, codec, message):
    for write in (
        lambda path: check_output(path, codec),
        lambda path: write_video(path, np.zeros((3, 16, 16, 3), np.uint8), 25, codec=codec),
    ):
        with pytest.raises(ValueError, match=message) as caught:
            write(tmp_path / name)
        assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_is_no_output(tmp_path):
    with pytest.raises(IsADirectoryError, match="is a folder"):
        check_output(tmp_path)


def test_names_are_taken_literally(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frames = np.zeros((3, 16, 16, 3), np.uint8)
    for name in ("a:b.mp4", "concat:a|b.mp4", "%03d.mp4", "-y.mp4", " .mp4", "file:x.mkv"):
        check_output(name)
        write_video(name, frames, 25)
        assert count_frames(tmp_path / name) == 3
    assert len(list(tmp_path.iterdir())) == 6


@pytest.mark.parametrize("letter", ["x", "é"])
def test_names_may_be_as_long_as_a_file_system_takes(tmp_path, letter):
    name = letter * (251 // len(letter.encode())) + ".mp4"
    write_video(tmp_path / name, np.zeros((3, 16, 16, 3), np.uint8), 25)
    assert [path.name for path in tmp_path.iterdir()] == [name]


def test_a_codec_that_cannot_take_the_size_is_one_line(tmp_path):
    frames = np.zeros((3, 16, 20000, 3), np.uint8)
    message = (
        "a.mp4: codec libx264 cannot encode frames of 20000x16 pixels as yuv420p at 25 a second"
    )
    with pytest.raises(ValueError, match=message) as caught:
        write_video(tmp_path / "a.mp4", frames, 25)
    assert "\n" not in str(caught.value)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["a.mp4", "a.mkv", "a.png"])
@pytest.mark.parametrize("has_sound", [False, True])
def test_a_full_disk_is_one_line_and_leaves_the_old_file(tmp_path, rng, name, has_sound):
    count = 1 if name == "a.png" else 20
    frames = rng.integers(0, 256, (count, 256, 320, 3), np.uint8)
    source = write_with_sound(tmp_path / "s.mp4") if has_sound else None
    with small_disk(tmp_path / "disk", "200k") as disk:
        (disk / name).write_bytes(b"old")
        with (
            pytest.raises(OSError, match=f"{name}: cannot be written: No space left") as caught,
            open_writer(disk / name, 25, audio_from=source) as writer,
        ):
            for number, image in enumerate(frames):
                writer.write(image, Fraction(number, 25))
        assert "\n" not in str(caught.value)
        assert [path.name for path in disk.iterdir()] == [name]
        assert (disk / name).read_bytes() == b"old"


@pytest.mark.parametrize(
    ("source", "codecs", "target"),
    [
        ("a.mp4", ("aac", "libx264"), "b.mkv"),
        ("a.mkv", ("libopus", "libx264"), "b.mp4"),
        ("a.avi", ("libmp3lame", "mpeg4"), "b.mp4"),
        ("a.ts", ("aac", "libx264"), "b.mp4"),
    ],
)
def test_of_a_damaged_file_what_is_read_is_written_or_one_line_says_why(
    tmp_path, rng, source, codecs, target
):
    content = write_with_sound(tmp_path / source, codecs[0], 1, codecs[1]).read_bytes()
    path, copies = tmp_path / f"damaged{source[1:]}", 0
    for _ in range(25):
        damaged = bytearray(content)
        for place in rng.integers(0, len(content), rng.integers(1, 40)):
            damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged[: rng.integers(len(content) // 2, len(content) + 1)])
        try:
            frames, _ = copy_video(path, tmp_path / target, crf=40)
        except ValueError as error:
            assert "\n" not in str(error)
            continue
        assert count_frames(tmp_path / target) == len(frames)
        copies += 1
    assert copies > 0
    assert {path.name for path in tmp_path.iterdir()} <= {source, path.name, target}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root's threads are scheduled in real time")
def test_an_encoder_does_not_schedule_the_program_in_real_time(tmp_path, rng):
    frames = rng.integers(0, 256, (3, 64, 64, 3), np.uint8)
    path = tmp_path / "a.mp4"
    with open_writer(path, 25, codec="libsvtav1") as writer:
        for frame in frames:
            writer.write(frame)
        threads = [int(name) for name in os.listdir("/proc/self/task")]
        policies = {os.sched_getscheduler(thread) for thread in threads}
        assert len(threads) > 1 and policies == {os.SCHED_OTHER}
    assert count_frames(path) == len(frames)
