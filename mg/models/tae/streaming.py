"""A clip that comes piece by piece, computed part by part of the network.

A part that mixes frames keeps the last frames it has seen and gives an output frame as soon as all
that it reads is there, so nothing is computed twice and the frames that come out are those of the
whole clip. (Wan, arXiv 2503.20314, does so for causal convolutions; ours look one frame ahead, so
each layer is that much behind.) A part's pieces are all of one size but for the first and the
last, so that a graph compiler makes few graphs. Inside, a video is `(b t c h w)`.
"""

import functools
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace

from mg.backend import Module, Tensor, cat, copy, no_grad

Step = Callable[[Tensor, tuple[Tensor, ...], bool], tuple[Tensor, tuple[Tensor, ...]]]
"""(frames, kept, ends) to (output frames, kept); see mg/models/tae/layers.py."""


@dataclass
class Part:
    """A part of the network.

    Args:
        step: what it computes of a piece.
        coarseness: frames of the video to one of its input.
        num_kept: tensors that it keeps.
        lag: frames by which its output is behind its input, if both come at the same rate.
        first: frames that its first piece must have at least, if the clip does not end with it.
        multiple: its pieces have a multiple of so many frames, the first `first` and a multiple, if
            the clip does not end with them.
    """

    step: Step
    coarseness: int
    num_kept: int = 1
    lag: int = 1
    first: int = 2
    multiple: int = 1


class Section:
    """Parts that follow one another, all of which but the last give as many frames as they take.

    Attributes:
        parts: these.
        joined: all of them as one part, whose first piece is larger.
    """

    def __init__(self, *parts: Part):
        self.parts = list(parts)
        self.joined = replace(functools.reduce(_joined, parts))  # a copy, of a single part too

    def compile(self, compiled: Callable[[Step], Step]) -> None:
        """Let `compiled` of the joint step take its place. Parts apart stay as they are: frames are
        so large then that graphs gain nothing, and take much memory."""
        self.joined.step = compiled(self.joined.step)


def parts_of(sections: Sequence[Section], frames: int) -> list[Part]:
    """The parts of all sections; those of each joined into one, unless the first piece of some
    joined part would be longer than so many frames of the video."""
    joined = [section.joined for section in sections]
    if all(part.first * part.coarseness <= frames for part in joined):
        return joined
    return [part for section in sections for part in section.parts]


def _joined(one: Part, other: Part) -> Part:
    # Frames that one's first piece lacks for other's to begin, since one gives `lag` fewer.
    short = max(0, one.lag + other.first - one.first)
    return Part(
        _Joined(one.step, other.step, one.num_kept),
        one.coarseness,
        num_kept=one.num_kept + other.num_kept,
        lag=one.lag + other.lag,
        first=one.first + -(-short // one.multiple) * one.multiple,
        multiple=max(one.multiple, other.multiple),
    )


class _Joined(Module):
    """Two steps as one. A module and no closure, so that a copy of the network has steps of its
    own, and MindSpore can compile it."""

    def __init__(self, one: Step, other: Step, num_kept: int):
        super().__init__()
        self.one, self.other, self.num_kept = one, other, num_kept

    def forward(self, x, kept, ends):
        x, one_kept = self.one(x, kept[: self.num_kept], ends)
        x, other_kept = self.other(x, kept[self.num_kept :], ends)
        return x, one_kept + other_kept


class Stage:
    """A part of the network, the frames that wait for it, and what it keeps of one clip.

    Args:
        part: the part.
        size: frames of a piece, rounded to `part.multiple`; only the first and the last may differ.
    """

    def __init__(self, part: Part, size: int):
        self._part = part
        self._size = max(1, size // part.multiple) * part.multiple
        self._kept: tuple[Tensor, ...] = ()
        self._has_begun = self._has_all = False
        self._waiting: deque[Tensor] = deque()
        self._taken = 0  # frames of the first that waits

    def put(self, x: Tensor, ends: bool) -> None:
        """Take the next frames, one at least; `ends` says that they are the last."""
        self._waiting.append(x)
        self._has_all = ends

    def advance(self) -> tuple[Tensor, bool] | None:
        """The next piece computed, and whether it is the last; None if too few frames wait."""
        available = sum(x.shape[1] for x in self._waiting) - self._taken
        if count := self._next_piece(available - int(self._has_all)):
            self._has_begun = True
            return self._computed(self._take(count), ends=False), False
        if self._has_all and available:
            return self._computed(self._take(available), ends=True), True
        return None

    def _next_piece(self, available: int) -> int:
        """How many of the available frames to compute now."""
        if self._has_begun:
            return self._size if available >= self._size else 0
        part = self._part
        more = min(available, max(self._size, part.first)) - part.first
        return part.first + more // part.multiple * part.multiple if more >= 0 else 0

    def _take(self, count: int) -> Tensor:
        taken = []
        while count:
            x, start = self._waiting[0], self._taken
            frames = min(count, x.shape[1] - start)
            taken.append(x[:, start : start + frames] if frames < x.shape[1] else x)
            self._taken += frames
            if self._taken == x.shape[1]:
                self._waiting.popleft()
                self._taken = 0
            count -= frames
        return taken[0] if len(taken) == 1 else cat(taken, 1)

    def _computed(self, x: Tensor, ends: bool) -> Tensor:
        with no_grad():
            y, self._kept = self._part.step(x, self._kept, ends)
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
            # What waits must not change with the caller's array.
            x = copy(x) if self._last is None else cat([self._last, x], 1)
            count = x.shape[1] - 1
            self._last = copy(x[:, count:])
        if count:
            self._stages[0].put(x[:, :count], ends=False)
            del x
            yield from self._advance()

    def flush(self) -> Iterator[Tensor]:
        """The clip has ended: gives the frames that are left."""
        assert self._last is not None
        self._stages[0].put(self._last, ends=True)
        yield from self._advance()

    def _advance(self) -> Iterator[Tensor]:
        """Let the furthest stage that can advance do so, so that little waits, until none can."""
        number = last = len(self._stages) - 1
        while number >= 0:
            result = self._stages[number].advance()
            if result is None:
                number -= 1
            elif number < last:
                number += 1
                self._stages[number].put(*result)
            else:
                with no_grad():
                    result = self._leave(result[0])
                yield result
            del result  # its memory, before the next is computed
