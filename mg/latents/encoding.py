"""What all latents of a directory have in common: the network, and how it was used."""

import json
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import DTypeLike

from mg.models.tae.config import check_config, latent_size, scaled, unscaled

Stored = Literal["mean", "sample", "moments"]
Precision = Literal["fp32", "fp16"]
PRECISIONS = {"fp32": np.dtype(np.float32), "fp16": np.dtype(np.float16)}
SAFETENSORS_NAMES = {PRECISIONS["fp32"]: "F32", PRECISIONS["fp16"]: "F16"}


@dataclass(frozen=True)
class Encoding:
    """How latents came about. Latents of one directory agree in all of it.

    Attributes:
        checkpoint_sha256: of the TAE's checkpoint.
        tae_config: of the TAE.
        settings: what decides the latents besides: "stored", one of `Stored`; "scaled", whether
            they are scaled latents; "precision", one of `PRECISIONS`; and how videos were read
            and encoded.
    """

    checkpoint_sha256: str
    tae_config: dict[str, Any]
    settings: dict[str, Any]

    @property
    def stored(self) -> str:
        """ "mean" or "sample" of the posterior, or its "moments": mean, then log variance."""
        return self.settings["stored"]

    @property
    def scaled(self) -> bool:
        """Whether the stored latents are scaled."""
        return self.settings["scaled"]

    @property
    def dtype(self) -> np.dtype:
        """Of the stored arrays."""
        return PRECISIONS[self.settings["precision"]]

    def shape(self, frames: int, height: int, width: int) -> tuple[int, ...]:
        """The stored array's shape `(c t h w)` for a video of that size; c is z_channels, or twice
        that for moments."""
        channels = self.tae_config["z_channels"] * (2 if self.stored == "moments" else 1)
        return (channels, *latent_size(self.tae_config, frames, height, width))

    def scale(self, z: np.ndarray) -> np.ndarray:
        """Raw latents to scaled latents."""
        return scaled(z, self.tae_config)

    def unscale(self, z: np.ndarray) -> np.ndarray:
        """Scaled latents to raw latents."""
        return unscaled(z, self.tae_config)

    def to_stored(self, z: np.ndarray) -> np.ndarray:
        """Raw latents, or moments, as they are stored.

        Raises:
            ValueError: they are not finite in the precision stored.
        """
        with np.errstate(over="ignore"):
            stored = (self.scale(z) if self.scaled else z).astype(self.dtype)
        if not np.isfinite(stored).all():
            raise ValueError(f"its latents are not finite numbers in {self.dtype}")
        return stored

    def to_raw(self, stored: np.ndarray, dtype: DTypeLike = np.float32) -> np.ndarray:
        """Raw latents, or moments, of what is stored, computed in `dtype`."""
        z = stored.astype(dtype)
        return self.unscale(z) if self.scaled else z

    def difference(self, other: "Encoding") -> str | None:
        """The first thing in which another encoding differs, "KEY is THIS, not OTHER"."""
        flat, others = ({**e.settings, **e.tae_config} for e in (self, other))
        for key in sorted(flat.keys() | others.keys()):
            if flat.get(key) != others.get(key):
                return f"{key} is {flat.get(key)!r}, not {others.get(key)!r}"
        if self.checkpoint_sha256 != other.checkpoint_sha256:
            shas = (self.checkpoint_sha256[:12], other.checkpoint_sha256[:12])
            return f"the checkpoint's SHA-256 is {shas[0]}..., not {shas[1]}..."
        return None

    def to_json(self) -> str:
        """The same text for equal encodings."""
        return json.dumps(asdict(self), sort_keys=True)


def draw(mean: np.ndarray, logvar: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """Raw latents `(z t h w)`, float32, drawn from a posterior frame after frame: in pieces they
    are those of the whole."""
    z, t, h, w = mean.shape
    noise = rng.standard_normal((t, z, h, w), dtype=np.float32).transpose(1, 0, 2, 3)
    return (mean + np.exp(0.5 * logvar) * noise).astype(np.float32)


def encoding_from_json(text: str) -> Encoding:
    """What `Encoding.to_json` gave. A key that the config has got since then has its default, as
    in checkpoints.

    Raises:
        ValueError: it lacks something, or holds what no encoding does.
    """
    try:
        encoding = Encoding(**json.loads(text))
        encoding = replace(encoding, tae_config=check_config(encoding.tae_config))
        if _is_right(encoding):
            return encoding
    except (ValueError, TypeError, KeyError, RecursionError):
        pass
    raise ValueError("it does not say how its latents were encoded")


def _is_right(encoding: Encoding) -> bool:
    settings = encoding.settings
    return (
        isinstance(encoding.checkpoint_sha256, str)
        and settings["stored"] in get_args(Stored)
        and type(settings["scaled"]) is bool
        and not (settings["scaled"] and settings["stored"] == "moments")
        and settings["precision"] in PRECISIONS
    )
