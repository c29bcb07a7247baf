"""Ctrl-C, SIGTERM and SIGHUP wait where they would do harm."""

import os
import signal
from contextlib import suppress

import pytest

from mg.interruption import SIGNALS, each_uninterrupted, uninterrupted

pytestmark = pytest.mark.once


def swallowing(number):
    """Items of a decoder that swallows whatever is raised while it makes the second."""
    yield 0
    with suppress(BaseException):
        os.kill(os.getpid(), number)
    yield 1
    yield 2


@pytest.mark.parametrize("number", SIGNALS)
def test_a_decoder_that_swallows_interruptions_ends_the_work_after_its_item(number):
    given = []
    with pytest.raises(KeyboardInterrupt):
        given += each_uninterrupted(swallowing(number))
    assert given == [0]


def test_items_that_nothing_interrupts_are_given():
    assert [*each_uninterrupted(iter(range(5)))] == [*range(5)]


@pytest.mark.parametrize("number", SIGNALS)
def test_the_first_interruption_waits_and_the_second_does_not(number):
    done = []
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), number)
        done.append("first")
    with pytest.raises(KeyboardInterrupt), uninterrupted():
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        done.append("second")
    assert done == ["first"]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_ignored_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)  # as nohup does
    try:
        with uninterrupted():
            os.kill(os.getpid(), signal.SIGHUP)
        assert signal.getsignal(signal.SIGHUP) is signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_an_error_in_the_block_is_that_error():
    with pytest.raises(OSError, match="disk"), uninterrupted():
        os.kill(os.getpid(), signal.SIGINT)
        raise OSError("disk")
