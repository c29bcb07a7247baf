"""The progress bar of work on one file: frames, frames a second and the time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


@contextmanager
def frame_progress(*totals: int | None) -> Iterator[tqdm]:
    """Give a bar on stderr to `update` by numbers of frames; what is logged goes above it.

    Args:
        totals: upper bounds of the number of frames, as far as they are known.
    """
    total = min((total for total in totals if total is not None), default=None)
    with tqdm(total=total, unit="frame") as progress, logging_redirect_tqdm():
        yield progress
