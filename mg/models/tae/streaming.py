"""A clip that comes piece by piece: what the layers remember, and how they are fed.

A layer that mixes frames keeps the last frames it has seen and gives an output frame as soon as all
that it reads is there, so nothing is computed twice and the frames that come out are those of the
whole clip. (Wan, arXiv 2503.20314, does so for causal convolutions; ours look one frame ahead, so
each layer is that much behind.) Inside, a video is `(b t c h w)`.
"""

from collections.abc import Callable, Iterator, Sequence

from mg.backend import Tensor, cat, copy, no_grad
from mg.backend.shared import frames_to_keep


class Pending(Exception):
    """A layer needs later frames before it can give any."""


class Memory:
    """What layers remember of the frames they have seen, each under itself as the key."""

    def __init__(self):
        self.is_last = False  # whether the frames that come now end the clip
        self._frames: dict = {}
        self._begun: set = set()

    def with_neighbours(self, conv, x: Tensor) -> tuple[Tensor, bool, bool]:
        """x after the earlier frames that a temporal convolution reads with it, and whether these
        begin and end the clip.

        Raises:
            Pending: no output frame can be computed of them.
        """
        if conv.taps == 1:
            return x, True, True
        x = self._after_kept(conv, x)
        begins = conv not in self._begun
        if not self.is_last:
            count, kept = frames_to_keep(
                x.shape[1], conv.taps, stride=conv.stride, upsample=conv.upsample, begins=begins
            )
            self._keep(conv, x, kept)
            if count == 0:
                raise Pending
            self._begun.add(conv)
        return x, begins, self.is_last

    def whole_windows(self, attention, x: Tensor, window: int) -> Tensor:
        """As many frames as make whole windows, and at the end of the clip the rest.

        Raises:
            Pending: there is no whole window yet.
        """
        x = self._after_kept(attention, x)
        rest = x.shape[1] % window
        if self.is_last or rest == 0:
            return x
        self._keep(attention, x, rest)
        if rest == x.shape[1]:
            raise Pending
        return x[:, : x.shape[1] - rest]

    def hold(self, block, x: Tensor) -> None:
        """Keep what goes past a block's layers until they give the same frames."""
        held = self._after_kept(block, x)
        self._keep(block, held, held.shape[1])

    def take(self, block, count: int) -> Tensor:
        """The first `count` frames held."""
        held = self._frames.pop(block)
        self._keep(block, held, held.shape[1] - count)
        return held[:, :count]

    def _after_kept(self, layer, x: Tensor) -> Tensor:
        kept = self._frames.pop(layer, None)
        return x if kept is None else cat([kept, x], 1)

    def _keep(self, layer, x: Tensor, count: int) -> None:
        if count == x.shape[1]:
            self._frames[layer] = x
        elif count:
            self._frames[layer] = copy(x[:, x.shape[1] - count :])  # a view would keep all of x


class Stage:
    """A part of the network with its memory, fed with few frames at a time.

    Args:
        function: of (frames, memory).
        size: how many frames at a time.
    """

    def __init__(self, function: Callable[[Tensor, Memory], Tensor], size: int):
        self._function, self._size = function, size
        self._memory = Memory()
        self._waiting: Tensor | None = None

    def feed(self, x: Tensor) -> Iterator[Tensor]:
        """Take the next frames; gives those that can be computed. The last one fed waits, so that
        `flush` has one to end with."""
        x = x if self._waiting is None else cat([self._waiting, x], 1)
        while x.shape[1] > 1:
            size = min(self._size, x.shape[1] - 1)
            yield from self._computed(x[:, :size])
            x = x[:, size:]
        self._waiting = copy(x)

    def flush(self) -> Iterator[Tensor]:
        """The clip has ended: gives the frames that are left, one at least."""
        assert self._waiting is not None  # an earlier stage gives its last frames at its flush
        self._memory.is_last = True
        yield from self._computed(self._waiting)

    def _computed(self, x: Tensor) -> Iterator[Tensor]:
        try:
            with no_grad():
                y = self._function(x, self._memory)
        except Pending:
            return
        yield y


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
