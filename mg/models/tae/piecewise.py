"""More than fits into memory: one video of a batch after another, tiles, and streams.

Axes: b batch, c channels, t frames, h height, w width.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import product

from mg.backend import Tensor, cat, no_grad
from mg.models.tae.streaming import LayerStream, Section, Stage, parts_of
from mg.models.tae.tiling import (
    TILE_FRAMES,
    Span,
    TileStream,
    cut_out,
    tile_spans,
    tiled,
    tiled_in_space,
)

# Of the video, a stage of a stream computes at most so much at a time, but at least one frame of
# its input.
STAGE_PIXELS = 2**19
STAGE_FRAMES = 64

TIME = 2  # axis of a video


@dataclass(frozen=True)
class Direction:
    """The way through the encoder, or through the decoder.

    Args:
        whole: the function of a video, or of latents, `(b c t h w)`.
        enter, leave: from `(b c t h w)` to the layers' `(b t c h w)`, and back.
        sections: gives the parts of the network in between.
        coarseness: the video's frames, rows and columns to one of the input.
        frames, overlap: a tile in time and what it shares with the next, in the video's frames.
        size, size_overlap: the same for rows and columns.
    """

    whole: Callable[[Tensor], Tensor]
    enter: Callable[[Tensor], Tensor]
    leave: Callable[[Tensor], Tensor]
    sections: Callable[[], list[Section]]
    coarseness: int
    frames: int | None
    overlap: int
    size: int | None
    size_overlap: int

    def in_tiles(self, x: Tensor) -> Tensor:
        """`whole` of x, in the tiles that are set."""
        if self.frames is None:
            return self._in_space(x)
        return tiled(self._in_space, x, axis=TIME, **self._tile_in_time())

    def tile_stream(self) -> TileStream:
        """`in_tiles` of a video that comes in pieces."""

        def tile(x: Tensor) -> Tensor:
            with no_grad():
                return self._in_space(x)

        return TileStream(tile, axis=TIME, **self._tile_in_time())

    def layer_stream(self, height: int, width: int) -> "LayerStream | SpaceStream":
        """`whole` of a video that comes in pieces, in the tiles in space that are set.

        Args:
            height, width: of the input.
        """
        if self.size is None:
            return self._layer_stream(height, width)
        tile = self.size // self.coarseness
        rows, columns = min(height, tile), min(width, tile)
        return SpaceStream(
            lambda: self._layer_stream(rows, columns),
            (height, width),
            tile=tile,
            overlap=self.size_overlap // self.coarseness,
        )

    def _layer_stream(self, height: int, width: int) -> LayerStream:
        most = STAGE_PIXELS // (height * width * self.coarseness**2)
        frames = min(STAGE_FRAMES, most)
        stages = [
            Stage(part, frames // part.coarseness) for part in parts_of(self.sections(), most)
        ]
        return LayerStream(stages, self.enter, self.leave)

    def _in_space(self, x: Tensor) -> Tensor:
        if self.size is None:
            return self.whole(x)
        return tiled_in_space(
            lambda *place: self.whole(cut_out(x, *place)),
            (x.shape[3], x.shape[4]),
            tile=self.size // self.coarseness,
            overlap=self.size_overlap // self.coarseness,
        )

    def _tile_in_time(self) -> dict[str, int]:
        frames = self.frames or TILE_FRAMES
        return {"tile": frames // self.coarseness, "overlap": self.overlap // self.coarseness}


class SpaceStream:
    """A stream for each tile of the frames; all go in step, and what they give is blended.

    Args:
        make: a stream of a tile, whose time goes as that of all others.
        size: height and width of the frames.
        tile, overlap: of rows and columns.
    """

    def __init__(
        self, make: Callable[[], LayerStream], size: tuple[int, int], *, tile: int, overlap: int
    ):
        self._size, self._tile, self._overlap = size, tile, overlap
        places = product(*(tile_spans(length, tile, overlap) for length in size))
        self._streams = {place: make() for place in places}

    def feed(self, x: Tensor) -> Iterator[Tensor]:
        """Take the next frames; gives those that can be computed."""
        return self._blended(lambda stream, *place: stream.feed(cut_out(x, *place)))

    def flush(self) -> Iterator[Tensor]:
        """The clip has ended: gives the frames that are left."""
        return self._blended(lambda stream, *_: stream.flush())

    def _blended(self, advance: Callable[..., Iterator[Tensor]]) -> Iterator[Tensor]:
        pieces = {place: [*advance(stream, *place)] for place, stream in self._streams.items()}
        if all(pieces.values()):  # or none has any

            def of_tile(*place: Span) -> Tensor:
                return cat(pieces.pop(place), TIME)

            yield tiled_in_space(of_tile, self._size, tile=self._tile, overlap=self._overlap)


def by_slices(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """`function` of a batch, computed of one video after another."""
    return cat([function(x[item : item + 1]) for item in range(x.shape[0])], 0)
