"""Processes that wait for one another; tests/training/test_parallel.py starts real ones."""

import random
import threading
import time

import pytest

from mg.ranks import Meeting

pytestmark = pytest.mark.once


def test_nobody_leaves_a_meeting_before_all_have_come(tmp_path):
    size, rounds = 3, 20
    come = [[0] * size for _ in range(rounds)]
    early = []

    def take_part(rank):
        rng, meeting = random.Random(rank), Meeting(tmp_path, rank, size)
        for number in range(rounds):
            time.sleep(rng.uniform(0, 0.01))
            come[number][rank] = 1
            meeting.wait()
            early.extend((rank, number) for _ in range(size - sum(come[number])))

    threads = [threading.Thread(target=take_part, args=(rank,)) for rank in range(size)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert all(map(all, come)) and early == []
    assert {path.name for path in tmp_path.iterdir()} == {
        f"{rounds}-{rank}" for rank in range(size)
    }
