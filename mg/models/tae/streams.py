"""Encode and decode a video that comes piece by piece: feed, then flush.

Axes: b batch, c channels, z latent channels, t frames, h height, w width.
"""

from collections.abc import Callable, Iterator
from typing import Protocol, TypeVar

import numpy as np

from mg.backend import Tensor, contiguous
from mg.models.tae.values import TensorLike, check_holds, target

Latents = tuple[Tensor, Tensor, Tensor]
"""(z, mean, logvar), each `(b z t h/8 w/8)`."""


class Stream(Protocol):
    """What takes a clip in pieces and gives its results in pieces."""

    def feed(self, x: Tensor) -> Iterator[Tensor]:
        """Take the next frames; gives those that can be computed."""
        ...

    def flush(self) -> Iterator[Tensor]:
        """The clip has ended: gives the frames that are left."""
        ...


Piece = TypeVar("Piece", Tensor, Latents)


class _Clip:
    """Whether a stream's clip has ended, for both streams."""

    _ended = False

    def _check_open(self) -> None:
        if self._ended:
            raise ValueError("the stream has ended, or failed, expected a new one for another clip")

    def _unless_broken(self, pieces: Iterator[Piece]) -> Iterator[Piece]:
        """The pieces. One that cannot be computed ends the stream: its frames would be missing."""
        try:
            yield from pieces
        except GeneratorExit:  # nobody asks for more now, which is no failure
            raise
        except BaseException:
            self._ended = True
            raise


class EncodeStream(_Clip):
    """`TemporalAutoencoder.encode` of a video that comes in pieces, in constant memory; made by
    `TemporalAutoencoder.encoder_stream`.

    The latents are those of the whole video, up to rounding; none is computed twice. They come
    later than their frames: a layer waits for the frames that it reads. Nothing is differentiated.
    A network whose norm or attention spans the clip (`norm_scope: clip`, `attention_window: None`)
    is computed in tiles in time instead.

    Args:
        check: makes of a piece what the encoder takes.
        open_stream: of the frames' height and width, gives moments for videos.
        draw: makes latents of moments.
    """

    def __init__(
        self,
        check: Callable[[TensorLike], Tensor],
        open_stream: Callable[[int, int], Stream],
        draw: Callable[[Tensor], Latents],
    ):
        self._check, self._open, self._draw = check, open_stream, draw
        self._sizes: tuple[int, ...] | None = None

    def feed(self, x: TensorLike) -> list[Latents]:
        """Take the next frames.

        Args:
            x: `(b c t h w)` in [-1, 1], t >= 1; all but t as in the first piece.

        Returns:
            (z, mean, logvar) of the latent frames that can be computed, `(b z t' h/8 w/8)` each,
            in pieces; none, as a rule, for the first frames.

        Raises:
            ValueError: as `encode`, a piece of another size, or one after `flush`.
        """
        return list(self.take(x))

    def flush(self) -> list[Latents]:
        """The video has ended, and with it the stream: gives the latents that are left.

        Raises:
            ValueError: no frame was fed, or the stream has ended before.
        """
        return list(self.end())

    def take(self, x: TensorLike) -> Iterator[Latents]:
        """`feed`, one piece at a time: the next is computed when it is asked for."""
        self._check_open()
        shape = np.shape(x)
        x = self._check(x)
        sizes = (*shape[:2], *shape[3:])  # before they are extended
        if self._sizes is None:
            self._stream = self._open(*x.shape[3:])
            self._sizes = sizes
        _check_sizes(sizes, self._sizes)
        yield from self._unless_broken(map(self._draw, self._stream.feed(x)))

    def end(self) -> Iterator[Latents]:
        """`flush`, one piece at a time."""
        self._check_open()
        if self._sizes is None:
            raise ValueError("the video holds no frame")
        self._ended = True
        yield from map(self._draw, self._stream.flush())


class DecodeStream(_Clip):
    """`TemporalAutoencoder.decode` of latents that come in pieces, in constant memory; made by
    `TemporalAutoencoder.decoder_stream`. See `EncodeStream`.

    Args:
        check: makes of a piece what the decoder takes.
        open_stream: of the latents' height and width, gives videos for latents.
        compression: frames to a latent frame, rows and columns to one of it.
        num_target_frames, target_size: as in `decode`.

    Raises:
        ValueError: a target that is no size.
    """

    def __init__(
        self,
        check: Callable[[TensorLike], Tensor],
        open_stream: Callable[[int, int], Stream],
        compression: int,
        num_target_frames: int | None,
        target_size: tuple[int, int] | None,
    ):
        self._check, self._open, self._compression = check, open_stream, compression
        self._num_frames, self._target_size = target(num_target_frames, target_size)
        self._sizes: tuple[int, ...] | None = None
        self._fed = self._given = 0  # latent frames, and frames

    def feed(self, z: TensorLike) -> list[Tensor]:
        """Take the next latents.

        Args:
            z: raw latents `(b z t h w)`, t >= 1; all but t as in the first piece.

        Returns:
            The frames that can be computed, `(b c t' 8h 8w)` in pieces, cut to `target_size`.

        Raises:
            ValueError: as `decode`, a piece of another size, or one after `flush`.
        """
        return list(self.take(z))

    def flush(self) -> list[Tensor]:
        """The latents have ended, and with them the stream: gives the frames that are left.

        Raises:
            ValueError: no latents were fed, they hold fewer than `num_target_frames`, or the
                stream has ended before.
        """
        return list(self.end())

    def take(self, z: TensorLike) -> Iterator[Tensor]:
        """`feed`, one piece at a time: the next is computed when it is asked for."""
        self._check_open()
        z = self._check(z)
        sizes = (*z.shape[:2], *z.shape[3:])
        if self._sizes is None:
            check_holds(None, self._target_size, z.shape[2:], self._compression)
            self._stream = self._open(*sizes[2:])
            self._sizes = sizes
        _check_sizes(sizes, self._sizes)
        self._fed += z.shape[2]
        if not self.has_all:
            yield from self._unless_broken(self._cut(self._stream.feed(z)))

    def end(self) -> Iterator[Tensor]:
        """`flush`, one piece at a time."""
        self._check_open()
        if self._sizes is None:
            raise ValueError("there are no latents to decode")
        latent_size = (self._fed, *self._sizes[2:])
        check_holds(self._num_frames, self._target_size, latent_size, self._compression)
        self._ended = True
        if not self.has_all:
            yield from self._cut(self._stream.flush())

    @property
    def has_all(self) -> bool:
        """Whether it has given the `num_target_frames` that were asked for."""
        return self._given == self._num_frames

    def _cut(self, video: Iterator[Tensor]) -> Iterator[Tensor]:
        for x in video:
            rows, columns = self._target_size or x.shape[3:]
            wanted = x.shape[2]
            if self._num_frames is not None:
                wanted = min(wanted, self._num_frames - self._given)
            self._given += wanted
            yield contiguous(x[:, :, :wanted, :rows, :columns])
            if self.has_all:
                return


def _check_sizes(sizes: tuple[int, ...], first: tuple[int, ...]) -> None:
    if sizes != first:
        raise ValueError(
            f"a piece of (b c h w) = {sizes}, expected {first} as the stream's first has"
        )
