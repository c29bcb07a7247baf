"""The progress bar of work on one file: frames, frames a second and the time left."""

from collections.abc import Iterator
from contextlib import contextmanager

from tqdm import tqdm
from tqdm.contrib.logging import logging_redirect_tqdm


@contextmanager
def frame_progress(total: int | None) -> Iterator[tqdm]:
    """Give a bar on stderr to `update` by numbers of frames; what is logged goes above it.

    Args:
        total: the number of frames, as far as it is known.
    """
    with tqdm(total=total, unit="frame") as progress, logging_redirect_tqdm():
        yield progress
