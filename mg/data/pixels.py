"""Decoded frames to RGB, 8 bits, upright; and back to an encoder's format."""

import logging
import os
from functools import lru_cache
from typing import Any

import av
import numpy as np
from av.video.codeccontext import VideoCodecContext
from av.video.format import VideoFormat
from av.video.reformatter import ColorTrc, Interpolation
from PIL import Image

logger = logging.getLogger(__name__)

# But for the usual formats, swscale comes out up to 2 levels too dark without accurate rounding
# (SWS_ACCURATE_RND) and full chroma (SWS_FULL_CHR_H_INT); not every PyAV has names for them.
_EXACT = Interpolation.BILINEAR | 0x40000 | 0x2000
# With more, swscale (FFmpeg 8.1) starts a pool for every frame, and spoils some in yuv422p10le.
_THREADS = 1
_HDR: dict[int, str] = {ColorTrc.SMPTE2084: "PQ", ColorTrc.ARIB_STD_B67: "HLG"}


def to_rgb(frame: av.VideoFrame, size: tuple[int, int], path: str | os.PathLike) -> np.ndarray:
    """The pixels of a decoded frame, uint8 (h w 3), scaled to `size` and turned upright.

    Transparency is composited on black. More than 8 bits are converted to 8; the tones of HDR video
    are taken as they are, without tone mapping. A warning says so, once for each file.

    Args:
        frame: as decoded.
        size: (width, height) before it is turned.
        path: the file it comes from.
    """
    width, height = size
    has_alpha, bits = _traits(frame.format.name)
    hdr = _HDR.get(frame.color_trc)
    if bits > 8:
        say_once(os.fspath(path), f"its {bits}-bit pixels are converted to 8 bits")
    if hdr is not None:
        say_once(
            os.fspath(path), f"HDR ({hdr}) is taken as it is, without tone mapping: it looks flat"
        )
    image = frame.to_ndarray(
        format="rgba" if has_alpha else "rgb24",
        width=width,
        height=height,
        interpolation=_EXACT if has_alpha or bits > 8 else None,
        threads=_THREADS,
    )
    image = _on_black(image, path) if has_alpha else image
    return np.rot90(image, round(frame.rotation / 90))


def from_rgb(image: np.ndarray, encoder: VideoCodecContext) -> av.VideoFrame:
    """A frame in an encoder's format, matrix and range of colours, of uint8 (h w 3)."""
    if encoder.pix_fmt == "pal8":
        return _with_palette(image)
    frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
    return frame.reformat(
        format=encoder.pix_fmt,
        dst_colorspace=encoder.colorspace,
        dst_color_range=encoder.color_range,
        threads=_THREADS,
    )


def _with_palette(image: np.ndarray) -> av.VideoFrame:
    """A frame with the 256 colours that suit it, of uint8 (h w 3)."""
    indexed = Image.fromarray(image).quantize(256)
    colours = np.reshape(indexed.getpalette() or [], (-1, 3))
    palette = np.full((256, 4), 255, np.uint8)  # alpha, red, green, blue
    palette[: len(colours), 1:] = colours
    # PyAV's types know of no palette.
    pair: Any = (np.asarray(indexed), palette)
    return av.VideoFrame.from_ndarray(pair, format="pal8")


def _on_black(image: np.ndarray, path: str | os.PathLike) -> np.ndarray:
    rgb, alpha = image[..., :3], image[..., 3:]
    if alpha.min() == 255:
        return np.ascontiguousarray(rgb)
    say_once(os.fspath(path), "its transparency is composited on black")
    return ((rgb.astype(np.uint16) * alpha + 127) // 255).astype(np.uint8)


@lru_cache
def _traits(pixel_format: str) -> tuple[bool, int]:
    """Whether it may be transparent, and the bits of its colours."""
    traits = VideoFormat(pixel_format)
    has_alpha = traits.has_palette or any(part.is_alpha for part in traits.components)
    return has_alpha, max((part.bits for part in traits.components if not part.is_alpha), default=8)


@lru_cache(maxsize=1 << 14)
def say_once(path: str, what: str) -> None:
    """Warn of something in a file, the first time."""
    logger.warning("%s: %s", path, what)
