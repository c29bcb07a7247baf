"""When frames are shown, and what is missing, by files whose times are chosen."""

from fractions import Fraction

import av
import numpy as np
import pytest
from PIL import Image

from mg.data.timing import Clock, missing, promised_seconds

MS = Fraction(1, 1000)
SOUND_RATE = 44100


def write(path, stamps, fps=25, *, unit=MS, codec="mpeg4", options=None, lasts=None, sound=0.0):
    """Write frames at these times in `unit`, the last shown for `lasts` of it; then `sound` seconds
    of silence."""
    with av.open(str(path), "w") as container:
        video = container.add_stream(codec, rate=fps, options=options or {})
        video.height = video.width = 32
        video.pix_fmt = "yuv420p"
        video.codec_context.time_base = unit
        if sound:
            audio = container.add_stream("pcm_s16le", rate=SOUND_RATE, layout="mono")
        packets = []
        for stamp in stamps:
            frame = av.VideoFrame.from_ndarray(np.zeros((32, 32, 3), np.uint8))
            frame.pts, frame.time_base = stamp, unit
            packets += video.encode(frame)
        packets += video.encode(None)
        if lasts is not None:
            packets[-1].duration = lasts
        container.mux(packets)
        if sound:
            silence = np.zeros((1, round(sound * SOUND_RATE)), np.int16)
            frame = av.AudioFrame.from_ndarray(silence, "s16", "mono")
            frame.rate, frame.pts = SOUND_RATE, 0
            container.mux([*audio.encode(frame), *audio.encode(None)])
    return path


def times(path):
    """The clock after all frames, and their times."""
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        clock = Clock(container, stream)
        return clock, [clock.next(frame) for frame in container.decode(stream)]


def test_a_time_that_is_rounded_to_a_unit_is_regular(tmp_path):
    _, shown = times(write(tmp_path / "a.mkv", [0, 33, 67, 100], fps=30))
    assert shown == [Fraction(n, 30) for n in range(4)]


def test_a_time_that_is_a_unit_off_is_not_regular_where_frames_are_as_short(tmp_path):
    _, shown = times(write(tmp_path / "a.mkv", [0, 1, 3, 4], fps=1000))
    assert shown == [0, MS, 3 * MS, 4 * MS]


def test_a_time_of_a_varying_rate_that_is_near_the_grid_by_chance_stays(tmp_path):
    lasts = [50, 100, 150, 50, 100, 150, 50, 100]
    frames = [Image.new("RGB", (32, 32), (20 * n, 9, 9)) for n in range(len(lasts))]
    frames[0].save(tmp_path / "a.gif", save_all=True, append_images=frames[1:], duration=lasts)
    clock, shown = times(tmp_path / "a.gif")
    assert shown == [sum(lasts[:n]) * MS for n in range(len(lasts))]
    grid = [n * clock.interval for n in range(len(lasts))]
    assert any(0 < abs(a - b) <= 10 * MS for a, b in zip(shown[1:], grid[1:], strict=True))


@pytest.mark.parametrize(("first", "start"), [(1, 0), (2, 2 * MS)])
def test_a_first_frame_within_a_unit_of_the_files_start_begins_with_it(tmp_path, first, start):
    clock, shown = times(write(tmp_path / "a.mkv", [first, first + 40], sound=0.1))
    assert shown == [start, start + 40 * MS]
    assert clock.start == start


def test_the_order_of_decoding_is_the_time_in_an_avi_without_the_decoders_delay(tmp_path):
    unit, options = Fraction(1, 25), {"bf": "2", "b_strategy": "0"}
    path = write(tmp_path / "a.avi", range(6), unit=unit, codec="libx264", options=options)
    with av.open(str(path)) as container:
        assert next(container.decode(video=0)).dts > 0  # the delay
    assert times(path)[1] == [number * unit for number in range(6)]


@pytest.mark.parametrize("lasts", [10, 40, 90])
def test_the_end_is_that_of_the_last_frame_which_lasts_a_usual_one_s_time_at_least(tmp_path, lasts):
    clock, _ = times(write(tmp_path / "a.mp4", [0, 40], lasts=lasts))
    usual = Fraction(40 + lasts, 2)
    assert clock.end == (40 + max(lasts, usual)) * MS


def test_matroska_states_the_end_of_a_stream_and_not_its_length(tmp_path):
    path = write(tmp_path / "a.mkv", [2000, 2040, 2080])
    with av.open(str(path)) as container:
        stream = container.streams.video[0]
        assert stream.metadata["DURATION"] == "00:00:02.120000000"
        assert promised_seconds(container, stream) == (120 * MS, True)


@pytest.mark.parametrize(
    ("lost", "told"), [(1, ""), (2, ", to second 998.00 of 1000.00: its end is missing")]
)
def test_of_a_long_video_too_more_than_a_second_is_missed(tmp_path, lost, told):
    path = write(tmp_path / "a.mp4", range(0, 1_000_000, 200), fps=5, lasts=200)
    clock, _ = times(path)
    clock.end -= lost
    with av.open(str(path)) as container:
        assert missing(container, container.streams.video[0], clock) == told


@pytest.mark.parametrize(
    ("seconds", "sound", "told"),
    [
        (2, 0, ""),  # less than a second is little
        (3, 0, ", to second 1.00 of 3.00: its end is missing"),
        (3, 3, ""),  # which may go on after the pictures
    ],
)
def test_what_a_file_promises_counts_roughly_and_where_it_has_no_sound(
    tmp_path, seconds, sound, told
):
    stamps = range(0, 1000 * seconds, 1000)
    path = write(tmp_path / "a.flv", stamps, fps=1, codec="flv", sound=sound)
    with av.open(str(path)) as container:  # its header is of the whole file, of no stream
        stream = container.streams.video[0]
        assert promised_seconds(container, stream) == (seconds, False)
        clock = Clock(container, stream)
        clock.next(next(container.decode(stream)))
        assert missing(container, stream, clock) == told
