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

    def feed(self, x: Tensor, ends: bool) -> Iterator[tuple[Tensor, bool]]:
        """Take the next frames; `ends` says that they are the last, one at least. Gives what can be
        computed, and of each piece whether it is the last."""
        if self._waiting is not None:
            x = cat([self._waiting, x], 1)
            self._waiting = None
        start = 0
        while count := self._next_piece(x.shape[1] - start - int(ends)):
            self._has_begun = True
            yield self._computed(x[:, start : start + count], ends=False), False
            start += count
        rest = x[:, start:] if start else x
        if ends:
            yield self._computed(rest, ends=True), True
        elif start < x.shape[1]:
            self._waiting = copy(rest)

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
        self._last: Tensor | None = None

    def feed(self, x: Tensor) -> Iterator[Tensor]:
        """Take the next frames; gives those that can be computed. The last one waits, so that
        `flush` has one to end with."""
        with no_grad():
            x = self._enter(x)
            if self._last is not None:
                x = cat([self._last, x], 1)
            count = x.shape[1] - 1
            self._last = copy(x[:, count:])
        if count:
            yield from self._through(x[:, :count], ends=False)

    def flush(self) -> Iterator[Tensor]:
        """The clip has ended: gives the frames that are left."""
        assert self._last is not None
        yield from self._through(self._last, ends=True)

    def _through(self, x: Tensor, ends: bool) -> Iterator[Tensor]:
        for y in _fed(self._stages, x, ends):
            with no_grad():
                y = self._leave(y)
            yield y


def _fed(stages: Sequence[Stage], x: Tensor, ends: bool) -> Iterator[Tensor]:
    if not stages:
        yield x
        return
    for y, is_last in stages[0].feed(x, ends):
        yield from _fed(stages[1:], y, is_last)
