"""A clip that comes piece by piece, computed part by part of the network.

A part that mixes frames keeps the last frames it has seen and gives an output frame as soon as all
that it reads is there, so nothing is computed twice and the frames that come out are those of the
whole clip. (Wan, arXiv 2503.20314, does so for causal convolutions; ours look one frame ahead, so
each layer is that much behind.) A part's pieces are all of one size but for the first and the
last, so that a graph compiler makes few graphs. Inside, a video is `(b t c h w)`.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

from mg.backend import Tensor, cat, copy, no_grad

Step = Callable[[Tensor, tuple[Tensor, ...], bool], tuple[Tensor, tuple[Tensor, ...]]]
"""(frames, kept, ends) to (output frames, kept); see mg/models/tae/layers.py."""


@dataclass
class Part:
    """A part of the network.

    Args:
        step: what it computes of a piece.
        coarse: frames, rows and columns of the video to one of its input.
        fine: the same for the finest that it computes.
        first: frames that it needs at least to give one, if the clip does not end with them.
        multiple: of how many frames a piece must be, if the clip does not end with them.
    """

    step: Step
    coarse: int
    fine: int
    first: int = 2
    multiple: int = 1


class Stage:
    """A part of the network and what it keeps of one clip.

    Args:
        part: it; a multiple of `part.multiple` frames, at least `part.first`, are its first piece.
        size: frames of all other pieces but the last, rounded to `part.multiple`.
    """

    def __init__(self, part: Part, size: int):
        self._part = part
        self._size = max(1, size // part.multiple) * part.multiple
        self._kept: tuple[Tensor, ...] = ()
        self._has_begun = False
        self._waiting: Tensor | None = None

    def feed(self, x: Tensor) -> Iterator[Tensor]:
        """Take the next frames; gives those that can be computed. The last one fed waits, so that
        `flush` has one to end with."""
        if self._waiting is not None:
            x = cat([self._waiting, x], 1)
        start = 0
        while count := self._next_piece(x.shape[1] - start - 1):
            self._has_begun = True
            yield self._computed(x[:, start : start + count], ends=False)
            start += count
        self._waiting = copy(x[:, start:]) if start else x

    def flush(self) -> Iterator[Tensor]:
        """The clip has ended: gives the frames that are left, one at least."""
        assert self._waiting is not None  # an earlier stage gives its last frames at its flush
        yield self._computed(self._waiting, ends=True)

    def _next_piece(self, available: int) -> int:
        """How many of the available frames to compute now."""
        if self._has_begun:
            return self._size if available >= self._size else 0
        part = self._part
        count = min(available, max(self._size, part.first)) // part.multiple * part.multiple
        return count if count >= part.first else 0

    def _computed(self, x: Tensor, ends: bool) -> Tensor:
        with no_grad():
            y, kept = self._part.step(x, self._kept, ends)
            self._kept = tuple(copy(frames) for frames in kept)  # a view would keep all it is of
        return y


class LayerStream:
    """Stages in a row: feed, then flush.

    Args:
        stages: each computes what the one before gives.
        enter, leave: applied before and after them.
    """

    def __init__(
        self,
        stages: Sequence[Stage],
        enter: Callable[[Tensor], Tensor],
        leave: Callable[[Tensor], Tensor],
    ):
        self._stages, self._enter, self._leave = list(stages), enter, leave

    def feed(self, x: Tensor) -> Iterator[Tensor]:
        """Take the next frames; gives those that can be computed."""
        with no_grad():
            x = self._enter(x)
        yield from self._left(_fed(self._stages, x))

    def flush(self) -> Iterator[Tensor]:
        """The clip has ended: gives the frames that are left."""
        for number, stage in enumerate(self._stages):
            for y in stage.flush():
                yield from self._left(_fed(self._stages[number + 1 :], y))

    def _left(self, outputs: Iterator[Tensor]) -> Iterator[Tensor]:
        for y in outputs:
            with no_grad():
                y = self._leave(y)
            yield y


def _fed(stages: Sequence[Stage], x: Tensor) -> Iterator[Tensor]:
    if not stages:
        yield x
        return
    for y in stages[0].feed(x):
        yield from _fed(stages[1:], y)
