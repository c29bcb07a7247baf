"""Apply a function to a large tensor piece by piece, blending where the pieces overlap.

Nothing here knows the model. Axes: b batch, c channels, t frames, h height, w width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields

import numpy as np

from mg.backend import Tensor, cast, cat, copy, from_numpy

HEIGHT, WIDTH = 3, 4  # axes of a video

TILE_FRAMES = 32  # the paper's, section 3.1.1

Span = tuple[int, int]
"""Where a tile starts and stops along an axis."""


@dataclass(frozen=True)
class Tiling:
    """Sizes of tiles, in frames and pixels of the video; the paper's in time.

    Args:
        encode_frames: of a tile to encode; None for all of the video's.
        encode_overlap: frames that such a tile shares with the next.
        decode_frames, decode_overlap: the same to decode.
        size: height and width of a tile; None for the whole frame.
        size_overlap: rows, or columns, that it shares with the next.
    """

    encode_frames: int | None = TILE_FRAMES
    encode_overlap: int = 0
    decode_frames: int | None = TILE_FRAMES
    decode_overlap: int = 16
    size: int | None = 512
    size_overlap: int = 128

    def __post_init__(self):
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, np.integer):  # MindSpore's slices take Python's integers alone
                object.__setattr__(self, field.name, int(value))

    def check(self, compression: int) -> None:
        """Raise unless a network of that compression can use these sizes.

        Raises:
            ValueError: a size that is no multiple of the compression, or an overlap above half
                of its tile.
        """
        for field in fields(self):
            value = getattr(self, field.name)
            if value is None and "overlap" not in field.name:
                continue
            if not isinstance(value, int) or value % compression:
                raise ValueError(f"{field.name} is {value!r}, expected a multiple of {compression}")
        for tile, overlap in (
            ("encode_frames", "encode_overlap"),
            ("decode_frames", "decode_overlap"),
            ("size", "size_overlap"),
        ):
            if getattr(self, tile) is not None:
                try:
                    tile_spans(1, getattr(self, tile), getattr(self, overlap))
                except ValueError as error:
                    raise ValueError(f"{tile} and {overlap}: {error}") from None


def tile_spans(length: int, tile: int, overlap: int) -> list[Span]:
    """Where tiles start and stop so that they cover `length`: all but the last are `tile` long,
    and each shares `overlap` with the next.

    Raises:
        ValueError: unless 0 <= 2 * overlap <= tile and tile >= 1, so that at most two tiles meet.
    """
    if tile < 1 or not 0 <= 2 * overlap <= tile:
        raise ValueError(f"tile {tile} with overlap {overlap}: expected 0 <= 2 * overlap <= tile")
    starts = range(0, max(length - overlap, 1), tile - overlap)
    return [(start, min(start + tile, length)) for start in starts]


class TileStream:
    """`function` of a tensor that comes piece by piece, computed on tiles of it along `axis` and
    blended linearly.

    Args:
        function: gives a tensor whose length along `axis` is that of its input times a whole
            number, or divided by one and rounded up.
        tile, overlap: lengths along `axis` of the input, both multiples of that divisor. Where two
            tiles overlap their weights are linear and sum to 1.

    Raises:
        ValueError: see `tile_spans`.
    """

    def __init__(
        self, function: Callable[[Tensor], Tensor], *, axis: int, tile: int, overlap: int = 0
    ):
        tile_spans(1, tile, overlap)
        self._function, self._axis = function, axis
        self._tile, self._overlap = tile, overlap
        self._waiting: Tensor | None = None
        self._joint: _Joint | None = None

    def feed(self, x: Tensor) -> Iterator[Tensor]:
        """Take the next piece; gives what is final. What is not asked for comes with the next."""
        self._waiting = copy(x) if self._waiting is None else cat([self._waiting, x], self._axis)
        yield from self._whole_tiles()
        self._waiting = copy(self._waiting)  # and not all that it is a slice of

    def flush(self) -> Iterator[Tensor]:
        """There are no more pieces: gives the rest."""
        yield from self._whole_tiles()
        assert self._waiting is not None
        yield self._joined(self._waiting)
        assert self._joint is not None
        yield from self._joint.end()

    def _whole_tiles(self) -> Iterator[Tensor]:
        assert self._waiting is not None
        axis, step = self._axis, self._tile - self._overlap
        # More than the overlap is left for `flush`.
        while (length := self._waiting.shape[axis]) > self._tile:
            tile = _cut(self._waiting, axis, 0, self._tile)
            self._waiting = _cut(self._waiting, axis, step, length)
            yield self._joined(tile)

    def _joined(self, x: Tensor) -> Tensor:
        y = self._function(x)
        if self._joint is None:  # the first tile is whole, unless it is the only one
            only = x.shape[self._axis] < self._tile
            shared = 0 if only else y.shape[self._axis] * self._overlap // self._tile
            self._joint = _Joint(self._axis, shared)
        return self._joint.add(y)


class _Joint:
    """Joins results along `axis` of which each shares `shared` positions with the next."""

    def __init__(self, axis: int, shared: int):
        self._axis, self._shared = axis, shared
        self._end: Tensor | None = None

    def add(self, y: Tensor) -> Tensor:
        """What the next result leaves as it is of those so far."""
        axis, shared = self._axis, self._shared
        if not shared:
            return y
        length = y.shape[axis]
        if self._end is not None:
            blended = _blend(self._end, _cut(y, axis, 0, shared), axis)
            y = cat([blended, _cut(y, axis, shared, length)], axis)
        self._end = _cut(y, axis, length - shared, length)
        return _cut(y, axis, 0, length - shared)

    def end(self) -> Iterator[Tensor]:
        """The last result's end."""
        if self._end is not None:
            yield self._end


def tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, *, axis: int, tile: int, overlap: int = 0
) -> Tensor:
    """`function` of `x`, computed on tiles of `x` along `axis` and blended linearly; see
    `TileStream`."""
    stream = TileStream(function, axis=axis, tile=tile, overlap=overlap)
    pieces = [*stream.feed(x), *stream.flush()]
    return pieces[0] if len(pieces) == 1 else cat(pieces, axis)


def tiled_in_space(
    function: Callable[[Span, Span], Tensor],
    size: tuple[int, int],
    *,
    tile: int,
    overlap: int,
) -> Tensor:
    """The results of tiles of a video's frames, blended linearly into one.

    Args:
        function: of the rows and the columns of a tile; gives a tensor `(. . . h w)` whose height
            and width are the tile's times a whole number or divided by one.
        size: height and width of the frames.
        tile, overlap: heights and widths, both multiples of that divisor.
    """
    rows, columns = (tile_spans(length, tile, overlap) for length in size)
    results = [[function(row, column) for column in columns] for row in rows]
    strips = [_join(row, columns, WIDTH, overlap) for row in results]
    return _join(strips, rows, HEIGHT, overlap)


def cut_out(x: Tensor, rows: Span, columns: Span) -> Tensor:
    """A tile of frames `(. . . h w)`."""
    return _cut(_cut(x, HEIGHT, *rows), WIDTH, *columns)


def _join(results: list, spans: list[Span], axis: int, overlap: int) -> Tensor:
    start, stop = spans[0]
    shared = results[0].shape[axis] * overlap // (stop - start) if len(spans) > 1 else 0
    joint = _Joint(axis, shared)
    pieces = [*(joint.add(result) for result in results), *joint.end()]
    return pieces[0] if len(pieces) == 1 else cat(pieces, axis)


def _cut(x: Tensor, axis: int, start: int, stop: int) -> Tensor:
    return x[(slice(None),) * axis + (slice(start, stop),)]


def _blend(before: Tensor, after: Tensor, axis: int) -> Tensor:
    """From `before` to `after`, by weights linear along `axis`."""
    length = before.shape[axis]
    shape = [1] * before.ndim
    shape[axis] = length
    ramp = np.arange(1, length + 1, dtype=np.float32) / (length + 1)
    weight = cast(from_numpy(ramp.reshape(shape)), before.dtype)
    return before + (after - before) * weight
