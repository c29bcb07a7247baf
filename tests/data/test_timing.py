"""When frames are shown and what is missing, of stand-ins for PyAV's objects; test_video_stream.py
has real files."""

from fractions import Fraction
from types import SimpleNamespace

import pytest

from mg.data.timing import Clock, missing, promised_seconds

MS = Fraction(1, 1000)


def opened(unit=MS, fps=25, *, kind="matroska", start=0, seconds=0, audio=(), duration=""):
    """A container and its video stream."""
    stream = SimpleNamespace(
        time_base=unit,
        average_rate=Fraction(fps),
        start_time=start,
        duration=None,
        metadata={"DURATION": duration},
    )
    container = SimpleNamespace(
        format=SimpleNamespace(name=kind),
        start_time=0,
        duration=seconds * 1_000_000,
        streams=SimpleNamespace(audio=audio),
    )
    return container, stream


def frame(pts, dts=None, duration=0):
    return SimpleNamespace(pts=pts, dts=dts, duration=duration)


def times(clock, *stamps):
    return [clock.next(frame(stamp)) for stamp in stamps]


def test_a_time_that_is_rounded_to_a_unit_is_regular():
    clock = Clock(*opened(fps=30))
    assert times(clock, 0, 33, 67, 100) == [Fraction(n, 30) for n in range(4)]


def test_a_time_that_is_a_unit_off_is_not_regular_where_frames_are_as_short():
    clock = Clock(*opened(fps=1000))
    assert times(clock, 0, 1, 3, 4) == [0, MS, 3 * MS, 4 * MS]


@pytest.mark.parametrize(("first", "start"), [(1, 0), (-1, 0), (2, 2 * MS)])
def test_a_first_frame_within_a_unit_of_the_files_start_begins_with_it(first, start):
    clock = Clock(*opened())
    assert times(clock, first) == [start]
    assert clock.start == start


def test_the_order_of_decoding_is_the_time_in_an_avi_without_the_decoders_delay():
    clock = Clock(*opened(Fraction(1, 25), kind="avi", start=3))
    shown = [clock.next(frame(None, dts)) for dts in (5, 6, 7)]
    assert shown == [Fraction(n, 25) for n in (3, 4, 5)]


@pytest.mark.parametrize(("duration", "end"), [(0, 40), (10, 40), (90, 90)])
def test_the_end_is_that_of_the_last_frame(duration, end):
    clock = Clock(*opened())
    clock.next(frame(0, duration=duration))
    assert clock.end == end * MS


def test_matroska_states_the_end_of_a_stream_and_not_its_length():
    promised = promised_seconds(*opened(start=2000, duration="00:01:12.500000000"))
    assert promised == (Fraction("70.5"), True)


@pytest.mark.parametrize(
    ("seconds", "audio", "told"),
    [
        (2, (), ""),  # less than a second is little
        (3, (), ", to second 1.00 of 3.00"),
        (3, ("sound",), ""),  # which may go on after the pictures
    ],
)
def test_what_a_file_promises_counts_roughly_and_where_it_has_no_sound(seconds, audio, told):
    container, stream = opened(fps=1, seconds=seconds, audio=audio)
    clock = Clock(container, stream)
    clock.next(frame(0))
    assert missing(container, stream, clock) == told
