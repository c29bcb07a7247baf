"""The table of frames that a temporal convolution reads."""

import itertools

import numpy as np
import pytest

from mg.backend.shared import ZERO_FRAME, frame_runs, frame_table

pytestmark = pytest.mark.once

SETTINGS = list(itertools.product(range(1, 20), (1, 3, 5), (1, 2, 3), (1, 2, 4)))


def rows(num_frames, taps, **settings):
    return np.reshape(frame_table(num_frames, taps, **settings), (-1, taps))


def test_there_is_a_row_for_every_output_frame():
    for num_frames, taps, stride, upsample in SETTINGS:
        table = rows(num_frames, taps, stride=stride, upsample=upsample)
        assert len(table) == -(-num_frames * upsample // stride)


def test_the_centre_tap_reads_the_frame_of_the_output_itself():
    for num_frames, taps, stride, upsample in SETTINGS:
        for padding in ("replicate", "zeros"):
            table = rows(num_frames, taps, stride=stride, upsample=upsample, padding=padding)
            centres = np.arange(0, num_frames * upsample, stride) // upsample
            np.testing.assert_array_equal(table[:, taps // 2], centres)


def test_replicated_rows_never_go_back_nor_outside():
    for num_frames, taps, stride, upsample in SETTINGS:
        table = rows(num_frames, taps, stride=stride, upsample=upsample)
        assert (np.diff(table, axis=1) >= 0).all()
        assert (np.diff(table, axis=0) >= 0).all()
        assert table.min() == 0
        assert table.max() <= num_frames - 1


def test_zeros_stand_exactly_where_replication_repeats_an_end():
    for num_frames, taps, stride, upsample in SETTINGS:
        replicated = rows(num_frames, taps, stride=stride, upsample=upsample)
        zeros = rows(num_frames, taps, stride=stride, upsample=upsample, padding="zeros")
        inside = zeros != ZERO_FRAME
        np.testing.assert_array_equal(zeros[inside], replicated[inside])
        reads = np.arange(len(zeros))[:, None] * stride + np.arange(taps) - taps // 2
        np.testing.assert_array_equal(inside, (reads >= 0) & (reads < num_frames * upsample))


def test_examples_written_by_hand():
    assert frame_table(3, 3) == (0, 0, 1, 0, 1, 2, 1, 2, 2)
    assert frame_table(4, 3, stride=2) == (0, 0, 1, 1, 2, 3)
    assert frame_table(2, 3, upsample=2) == (0, 0, 0, 0, 0, 1, 0, 1, 1, 1, 1, 1)
    assert frame_table(1, 3, padding="zeros") == (ZERO_FRAME, 0, ZERO_FRAME)


def test_runs_are_the_table_and_no_frame_is_multiplied_twice_for_one_output():
    for num_frames, taps, stride, upsample in SETTINGS:
        for padding in ("replicate", "zeros"):
            settings = {"stride": stride, "upsample": upsample, "padding": padding}
            table = rows(num_frames, taps, **settings)
            read = np.full_like(table, ZERO_FRAME)
            products = []
            for run in frame_runs(tuple(table.flat), taps):
                for step in range(run.length):
                    read[run.to + step, run.taps] = run.of + step
                    products.append((run.to + step, run.of + step))
            np.testing.assert_array_equal(read, table)
            assert len(set(products)) == len(products)


def test_runs_of_stride_one_are_one_for_each_tap_and_the_ends_however_long_the_clip():
    for num_frames in (3, 100):
        assert len(frame_runs(frame_table(num_frames, 3), 3)) == 5
