"""Apply a function to a long tensor piece by piece, blending where the pieces overlap.

`tiled` knows nothing of the model: it cuts one axis of the input, calls the function on each tile
and joins the results, so tiling several axes is `tiled` of `tiled`.
"""

from collections.abc import Callable

import numpy as np

from mg.backend import Tensor, cast, cat, from_numpy


def tile_spans(length: int, tile: int, overlap: int) -> list[tuple[int, int]]:
    """Where tiles start and stop so that they cover `length`: all but the last are `tile` long,
    and each shares `overlap` with the next.

    Raises:
        ValueError: unless 0 <= 2 * overlap <= tile and tile >= 1, so that at most two tiles meet.
    """
    if tile < 1 or not 0 <= 2 * overlap <= tile:
        raise ValueError(f"tile {tile} with overlap {overlap}: expected 0 <= 2 * overlap <= tile")
    starts = range(0, max(length - overlap, 1), tile - overlap)
    return [(start, min(start + tile, length)) for start in starts]


def tiled(
    function: Callable[[Tensor], Tensor], x: Tensor, *, axis: int, tile: int, overlap: int = 0
) -> Tensor:
    """`function` of `x`, computed on tiles of `x` along `axis` and blended linearly.

    Args:
        function: gives a tensor whose length along `axis` is that of its input times a whole
            number, or divided by one and rounded up.
        tile, overlap: lengths along `axis` of the input, both multiples of that divisor. Where two
            tiles overlap their weights are linear and sum to 1.

    Raises:
        ValueError: see `tile_spans`.
    """
    spans = tile_spans(x.shape[axis], tile, overlap)
    pieces = []
    shared = 0  # length along `axis` of what two results have in common
    for start, stop in spans:
        y = function(_cut(x, axis, start, stop))
        if not pieces:  # the first tile is whole, unless it is the only one
            shared = y.shape[axis] * overlap // tile
        elif shared:
            before = pieces.pop()
            kept = before.shape[axis] - shared
            if kept:
                pieces.append(_cut(before, axis, 0, kept))
            end = _cut(before, axis, kept, before.shape[axis])
            pieces.append(_blend(end, _cut(y, axis, 0, shared), axis))
            y = _cut(y, axis, shared, y.shape[axis])
        pieces.append(y)
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
