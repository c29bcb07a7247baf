"""Movie Gen's Temporal Autoencoder (arXiv 2410.13720, section 3.1.1).

The interface is `(b c t h w)`: b batch, c channels, t frames, h height, w width. The encoder and
the decoder, in network.py, work on `(b t c h w)`.
"""

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from mg import backend
from mg.backend import Module, Tensor, cast, cat
from mg.models.tae.config import (
    MINDONE_TAE_CONFIG,
    TAE_CONFIG,
    Array,
    check_config,
    compression,
    latent_size,
    scaled,
    unscaled,
)
from mg.models.tae.layers import Setting, SpatialConv
from mg.models.tae.network import Decoder, Encoder
from mg.models.tae.piecewise import Direction, by_slices
from mg.models.tae.streaming import Section
from mg.models.tae.streams import DecodeStream, EncodeStream, Stream
from mg.models.tae.tiling import Tiling
from mg.models.tae.values import (
    TensorLike,
    check_holds,
    extended,
    generator,
    latents,
    pieces,
    target,
    video,
)
from mg.models.tae.weights import (
    PUBLISHED,
    Arrays,
    check_sizes,
    infer_sizes,
    is_mindone,
    load_strictly,
    read_weights,
    unwrapped,
    write_directory,
    write_weights,
)

__all__ = ["MINDONE_TAE_CONFIG", "TAE_CONFIG", "TemporalAutoencoder", "Tiling", "check_config"]

logger = logging.getLogger(__name__)


class TemporalAutoencoder(Module):
    """Video `(b c t h w)` in [-1, 1] to latents `(b z ceil(t/8) ceil(h/8) ceil(w/8))` and back.

    The network stays on the device of `mg.backend.set_device`, where noise and numpy arrays go too,
    and its weights stay float32: PyTorch's `.to(device)` is not supported, and `.half()` refused.

    Args:
        pretrained: a checkpoint, `.safetensors` or MindSpore's `.ckpt`, the directory that
            `save_pretrained` made, or "small", the bundled weights (docs/tae_small.md). It
            brings its config; one of mindone's gets MINDONE_TAE_CONFIG, and one without, as
            frameworks save parameters, TAE_CONFIG with a warning. None: initial weights.
        config: keys to change in that config, or in TAE_CONFIG.
        use_tile: encode and decode in tiles to save memory: `tiling = Tiling()`.
        dtype: of convolutions and matrix products: "fp32", "bf16" or "fp16". Weights, norms,
            softmax, latents and pixels are float32.
        use_recompute: in training, compute activations twice instead of keeping them.
        compile: compile `encode`, `decode` and, on MindSpore, streams of small frames, for each
            size of video: MindSpore's graph mode (at `jit_level`), `torch.compile`, or on a GPU,
            within `torch.no_grad()`, CUDA graphs; None: on MindSpore only.
            Graphs do not see what is put into the network later: other layers, or weights by
            MindSpore's own functions.
        seed: of the initial weights; the same on both frameworks.

    Attributes:
        config: every key of TAE_CONFIG, as this network has it.
        compression: frames, rows and columns of the video to one of the latents.
        tiling, use_tile, use_slicing: see the properties, and `enable_slicing`.

    Raises:
        ValueError: an unknown or unfit config; a checkpoint that is damaged or does not fit; a
            dtype that the device does not have.
        FileNotFoundError: no such checkpoint.
    """

    def __init__(
        self,
        pretrained: str | os.PathLike | None = None,
        config: dict | None = None,
        *,
        use_tile: bool = False,
        dtype: str = "fp32",
        use_recompute: bool = False,
        compile: bool | None = False,
        jit_level: str = "O0",
        seed: int = 0,
    ):
        if isinstance(pretrained, dict):
            raise TypeError("pretrained is a config, expected a checkpoint; name it: config=...")
        super().__init__()
        arrays = None
        if pretrained is not None:
            arrays, stored_config = read_weights(pretrained)
            config = _config_of(arrays, stored_config, config or {}, source=str(pretrained))
        self.config: dict[str, Any] = check_config(config or {})
        self.compression: int = compression(self.config)
        self._tiling: Tiling | None = None
        self.use_tile = use_tile
        self.use_slicing = False
        self._compute_dtype = backend.dtype(dtype)
        self._float32 = backend.dtype("fp32")
        self._warned_of_range = self._warned_of_tiles = False

        setting = Setting(
            groups=self.config["num_groups"],
            over_clip=self.config["norm_scope"] == "clip",
            attention_window=self.config["attention_window"],
            upsample_padding=self.config["upsample_padding"],
            use_recompute=use_recompute,
            rng=generator(seed),
        )
        z_channels = self.config["z_channels"]
        self.encoder = Encoder(setting, self.config)
        self.decoder = Decoder(setting, self.config)
        self.has_quant_conv = self.config["use_quant_conv"]
        if self.has_quant_conv:
            self.quant_conv = SpatialConv(setting, 2 * z_channels, 2 * z_channels, kernel=1)
        self.has_post_quant_conv = self.config["use_post_quant_conv"]
        if self.has_post_quant_conv:
            self.post_quant_conv = SpatialConv(setting, z_channels, z_channels, kernel=1)

        parameters = backend.named_parameters(self)
        self._names = {*parameters}
        if arrays is not None:
            load_strictly(parameters, arrays, source=str(pretrained))
        self._compiles, self._jit_level = backend.compiles(compile), jit_level
        self._compiled = _Compiled()

    def _functions(self) -> "_Functions":
        """What `encode`, `decode` and streams call."""
        if not self._compiles:
            return _Functions(
                self.moments, self.pixels, self.encoder.sections, self.decoder.sections
            )
        if self._compiled.functions is None:
            self._compiled.functions = self._compile()
        return self._compiled.functions

    def _compile(self) -> "_Functions":
        level = self._jit_level
        encoder_sections, decoder_sections = [], []
        if self.streams_exactly:
            encoder_sections, decoder_sections = self.encoder.sections(), self.decoder.sections()
        for section in (*encoder_sections, *decoder_sections):
            section.compile(lambda step: backend.compile_recurring(step, jit_level=level))
        return _Functions(
            backend.compile(self.moments, jit_level=level),
            backend.compile(self.pixels, jit_level=level),
            lambda: encoder_sections,
            lambda: decoder_sections,
        )

    @classmethod
    def from_pretrained(cls, directory: str | os.PathLike, **options) -> "TemporalAutoencoder":
        """The network of a directory with `config.json` and weights, as `save_pretrained` makes it.

        Args:
            directory: its path, or "small", the bundled weights, if no directory has that name.
            options: those of the constructor, `config` included.

        Raises:
            NotADirectoryError: no such directory.
            ValueError, FileNotFoundError: as the constructor.
        """
        if os.path.isdir(directory):
            return cls(Path(directory), **options)
        if directory in PUBLISHED:
            return cls(directory, **options)
        file = "; TemporalAutoencoder(path) takes a file" if os.path.isfile(directory) else ""
        raise NotADirectoryError(f"{directory}: no such directory, expected a saved TAE{file}")

    def save_pretrained(self, directory: str | os.PathLike) -> None:
        """Write `config.json` and the weights, named as diffusers names them.

        Raises:
            ValueError: as `save_checkpoint`.
            OSError: a file cannot be written.
        """
        write_directory(directory, self._arrays(), self.config)

    def save_checkpoint(self, path: str | os.PathLike, *, half: bool = False) -> None:
        """Write the weights and the config, as `.safetensors` or MindSpore's `.ckpt`, whole or
        not at all.

        Args:
            half: store float16, half the size.

        Raises:
            ValueError: another suffix; a number that half precision does not hold; parameters that
                no TAE has, those of a layer put into the network, say.
            OSError: the file cannot be written.
        """
        write_weights(path, self._arrays(), self.config, half=half)

    def _arrays(self):
        parameters = backend.named_parameters(self)
        arrays = unwrapped({name: backend.to_numpy(value) for name, value in parameters.items()})
        if changed := sorted(arrays.keys() ^ self._names):
            raise ValueError(
                f"the network's parameters are not those that it was made with ({changed[0]}), "
                "and could not be read back: take out what was put into it before it is saved"
            )
        return arrays

    # The network as two functions of tensors: what graphs are compiled from.

    def moments(self, x: Tensor) -> Tensor:
        """Mean and log variance `(b 2z t/8 h/8 w/8)` of x `(b c t h w)`; h and w multiples of 8."""
        return self._moments_of(self.encoder(self._encoder_input(x)))

    def pixels(self, z: Tensor) -> Tensor:
        """The video `(b c 8t 8h 8w)` of latents z `(b z t h w)`."""
        return self.last_layer(self.features(z))

    def features(self, z: Tensor) -> Tensor:
        """What the decoder's last layer reads, `(b 8t ch 8h 8w)` in the compute dtype, of latents
        z `(b z t h w)`; one frame only where all 8 are the same, those of a single latent."""
        return self.decoder(self._decoder_input(z))

    def last_layer(self, features: Tensor) -> Tensor:
        """The video `(b c 8t 8h 8w)` of what `features` gives."""
        video = self._video_of(self.decoder.conv_out(features))
        return cat([video] * self.compression, 2) if video.shape[2] == 1 else video

    def _encoder_input(self, x):
        return cast(x, self._compute_dtype).permute(0, 2, 1, 3, 4)

    def _moments_of(self, y):
        if self.has_quant_conv:
            y = self.quant_conv(y)
        return cast(y.permute(0, 2, 1, 3, 4), self._float32)

    def _decoder_input(self, z):
        y = cast(z, self._compute_dtype).permute(0, 2, 1, 3, 4)
        if self.has_post_quant_conv:
            y = self.post_quant_conv(y)
        return y

    def _video_of(self, y):
        return cast(y.permute(0, 2, 1, 3, 4), self._float32)

    def posterior(self, moments: Tensor) -> tuple[Tensor, Tensor]:
        """Mean and log variance, each `(b z t h w)`; the latter kept within [-30, 20], where its
        exponential is finite."""
        z_channels = moments.shape[1] // 2
        return moments[:, :z_channels], moments[:, z_channels:].clamp(-30.0, 20.0)

    def reconstruct(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """For training: (video, z, mean, logvar), with z = mean + exp(logvar / 2) noise.

        Args:
            x: `(b c t h w)` in [-1, 1]; h and w multiples of 8.
            noise: standard normal, of the size of the latents.
        """
        z, mean, logvar = self.sample(x, noise)
        return self.pixels(z)[:, :, : x.shape[2]], z, mean, logvar

    def sample(self, x: Tensor, noise: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """The latents of `reconstruct`: (z, mean, logvar)."""
        mean, logvar = self.posterior(self.moments(x))
        return mean + (0.5 * logvar).exp() * noise, mean, logvar

    # The interface.

    def encode(
        self, x: TensorLike, sample: bool = True, *, seed: int | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Compress a video.

        Args:
            x: `(b c t h w)` in [-1, 1], a tensor or an array, t >= 1, h and w >= 8. Heights and
                widths that are no multiple of 8 are extended by their last row and column.
            sample: z is drawn from the posterior; otherwise it is the posterior's mean.
            seed: of that draw; None draws anew at each call.

        Returns:
            (z, mean, logvar), each `(b z ceil(t/8) ceil(h/8) ceil(w/8))`, float32; z is raw, see
            `scale`. Without a sample, z is the same tensor as mean.

        Raises:
            ValueError: another shape, values that are integers or not finite, or a seed below 0.
                Values beyond [-1, 1] are warned of once.
            TypeError: a tensor of the other framework.
        """
        moments = self._in_pieces(self._encoding(), self.encodable(x))
        return self._drawn(moments, generator(seed) if sample else None)

    def decode(
        self,
        z: TensorLike,
        num_target_frames: int | None = None,
        target_size: tuple[int, int] | None = None,
    ) -> Tensor:
        """Give back the video of latents.

        Args:
            z: raw latents `(b z t h w)`, a tensor or an array; see `unscale`.
            num_target_frames: keep that many frames of the 8t; 1 for an image.
            target_size: (height, width) to keep of (8h, 8w).

        Returns:
            `(b c t h w)`, float32, in about [-1, 1] (not clipped).

        Raises:
            ValueError: another shape or number of channels, values that are integers or not finite,
                or a target that is no size, or larger than what there is.
            TypeError: a tensor of the other framework.
        """
        num_target_frames, target_size = target(num_target_frames, target_size)
        z = self.decodable(z)
        check_holds(num_target_frames, target_size, z.shape[2:], self.compression)
        x = self._in_pieces(self._decoding(), z)
        rows, columns = target_size or x.shape[3:]
        return backend.contiguous(x[:, :, : num_target_frames or x.shape[2], :rows, :columns])

    def encode_stream(
        self, chunks: Iterable[TensorLike], sample: bool = True, *, seed: int | None = None
    ) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        """`encode` of a video that comes in pieces `(b c t h w)`, in constant memory: an iterator
        over (z, mean, logvar), as `EncodeStream` gives them."""
        stream = self.encoder_stream(sample, seed=seed)
        for chunk in pieces(chunks):
            yield from stream.take(chunk)
        yield from stream.end()

    def decode_stream(
        self,
        chunks: Iterable[TensorLike],
        num_target_frames: int | None = None,
        target_size: tuple[int, int] | None = None,
    ) -> Iterator[Tensor]:
        """`decode` of raw latents that come in pieces `(b z t h w)`, in constant memory: an
        iterator over videos, as `DecodeStream` gives them."""
        stream = self.decoder_stream(num_target_frames, target_size)
        for chunk in pieces(chunks):
            yield from stream.take(chunk)
            if stream.has_all:
                return
        yield from stream.end()

    def encoder_stream(self, sample: bool = True, *, seed: int | None = None) -> EncodeStream:
        """A stream to feed with a video and to flush, in the tiles in space that are set."""
        rng, direction = generator(seed) if sample else None, self._encoding()
        return EncodeStream(
            self.encodable,
            lambda height, width: self._open(direction, height, width),
            lambda moments: self._drawn(moments, rng),
        )

    def decoder_stream(
        self,
        num_target_frames: int | None = None,
        target_size: tuple[int, int] | None = None,
    ) -> DecodeStream:
        """A stream to feed with latents and to flush, in the tiles in space that are set."""
        direction = self._decoding()
        return DecodeStream(
            self.decodable,
            lambda height, width: self._open(direction, height, width),
            self.compression,
            num_target_frames,
            target_size,
        )

    @backend.in_python
    def forward(self, x: TensorLike) -> Tensor:
        """Reconstruct x `(b c t h w)` from its posterior's mean, in the same size."""
        _, mean, _ = self.encode(x, sample=False)
        return self.decode(mean, x.shape[2], (x.shape[3], x.shape[4]))

    def scale(self, z: Array) -> Array:
        """Raw latents, a tensor or an array, to scaled latents, as latent diffusion models are
        trained on."""
        return scaled(z, self.config)

    def unscale(self, z: Array) -> Array:
        """Scaled latents, a tensor or an array, to raw latents."""
        return unscaled(z, self.config)

    def latent_size(self, t: int, h: int, w: int) -> tuple[int, int, int]:
        """The latents' frames, height and width of a video of t frames, h rows, w columns."""
        return latent_size(self.config, t, h, w)

    # Tiles and slices.

    @property
    def tiling(self) -> Tiling | None:
        """The sizes of tiles; None: the whole at once.

        Raises:
            ValueError: on setting, no `Tiling`, or one that does not fit the network's compression.
        """
        return self._tiling

    @tiling.setter
    def tiling(self, tiling: Tiling | None) -> None:
        if not isinstance(tiling, Tiling | None):
            raise ValueError(f"tiling is {tiling!r}, expected a Tiling or None")
        if tiling is not None:
            tiling.check(self.compression)
        self._tiling = tiling

    @property
    def use_tile(self) -> bool:
        """Whether videos are encoded and decoded in tiles."""
        return self._tiling is not None

    @use_tile.setter
    def use_tile(self, use_tile: bool) -> None:
        self.tiling = (self._tiling or Tiling()) if use_tile else None

    def enable_tiling(self, tiling: Tiling | None = None) -> None:
        """Encode and decode in tiles, by default the paper's; as diffusers calls it."""
        self.tiling = Tiling() if tiling is None else tiling

    def disable_tiling(self) -> None:
        """Encode and decode the whole at once."""
        self.tiling = None

    def enable_slicing(self) -> None:
        """Encode and decode the videos of a batch one after another, to save memory."""
        self.use_slicing = True

    def disable_slicing(self) -> None:
        """Encode and decode the videos of a batch together."""
        self.use_slicing = False

    # What streams are made of.

    def _encoding(self) -> Direction:
        """The way from a video to its moments, in the tiles that are set."""
        tiling, functions = self._tiling or _WHOLE, self._functions()
        return Direction(
            whole=functions.moments,
            enter=self._encoder_input,
            leave=self._moments_of,
            sections=functions.encoder_sections,
            coarseness=1,
            frames=tiling.encode_frames,
            overlap=tiling.encode_overlap,
            size=tiling.size,
            size_overlap=tiling.size_overlap,
        )

    def _decoding(self) -> Direction:
        """The way from latents to a video, in the tiles that are set."""
        tiling, functions = self._tiling or _WHOLE, self._functions()
        return Direction(
            whole=functions.pixels,
            enter=self._decoder_input,
            leave=self._video_of,
            sections=functions.decoder_sections,
            coarseness=self.compression,
            frames=tiling.decode_frames,
            overlap=tiling.decode_overlap,
            size=tiling.size,
            size_overlap=tiling.size_overlap,
        )

    def _open(self, direction: Direction, height: int, width: int) -> Stream:
        """A stream for input of that height and width: exact where the network allows it."""
        if self.streams_exactly:
            return direction.layer_stream(height, width)
        if not self._warned_of_tiles:
            self._warned_of_tiles = True
            logger.warning(
                "norm_scope %r with attention_window %r spans the clip: streaming in tiles",
                self.config["norm_scope"],
                self.config["attention_window"],
            )
        return direction.tile_stream()

    @property
    def streams_exactly(self) -> bool:
        """Whether a stream gives what the whole gives: no layer spans the clip."""
        config = self.config
        return config["norm_scope"] == "frame" and config["attention_window"] is not None

    def _drawn(
        self, moments: Tensor, rng: np.random.Generator | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(z, mean, logvar) of moments; z is the mean, or drawn by `rng` frame after frame."""
        mean, logvar = map(backend.contiguous, self.posterior(moments))
        if rng is None:
            return mean, mean, logvar
        b, z, t, h, w = mean.shape
        noise = rng.standard_normal((t, b, z, h, w), dtype=np.float32).transpose(1, 2, 0, 3, 4)
        return mean + (0.5 * logvar).exp() * backend.from_numpy(noise), mean, logvar

    def encodable(self, x: TensorLike) -> Tensor:
        """x as a tensor, its height and width extended to what the encoder takes.

        Raises:
            ValueError, TypeError: see `encode`.
        """
        x = video(x, self.config["in_channels"], smallest=self.compression)
        largest = float(backend.to_numpy(x.abs().max()))
        if largest > 1.0 + 1e-3 and not self._warned_of_range:
            self._warned_of_range = True
            logger.warning("the video's values reach %.4g in size, expected [-1, 1]", largest)
        return extended(x, self.compression)

    def decodable(self, z: TensorLike) -> Tensor:
        """z as a tensor.

        Raises:
            ValueError, TypeError: see `decode`.
        """
        return latents(z, self.config["z_channels"])

    def _in_pieces(self, direction, x):
        return by_slices(direction.in_tiles, x) if self.use_slicing else direction.in_tiles(x)


class _Functions(NamedTuple):
    moments: Callable[[Tensor], Tensor]
    pixels: Callable[[Tensor], Tensor]
    encoder_sections: Callable[[], list[Section]]
    decoder_sections: Callable[[], list[Section]]


class _Compiled:
    """Functions compiled of a network. A copy of it, or what is pickled, has none of them: it
    compiles its own, of its own weights."""

    functions: _Functions | None = None

    def __reduce__(self):
        return _Compiled, ()


_WHOLE = Tiling(encode_frames=None, decode_frames=None, size=None)


def _config_of(arrays: Arrays, stored: dict | None, changes: dict, *, source: str) -> dict:
    """The config of a checkpoint, changed: the one it carries, else what its names and shapes tell.
    They agree, so that a network is no larger than its file."""
    try:
        sizes = infer_sizes(arrays)
        base = MINDONE_TAE_CONFIG if is_mindone(arrays) else TAE_CONFIG
        config = check_config({**base, **sizes, **changes} if stored is None else stored)
    except ValueError as error:
        raise ValueError(f"{source}: {error}") from None
    check_sizes(config, sizes, source=source)
    assumed = [key for key in config if key not in sizes and key not in changes]
    if stored is None and base is TAE_CONFIG and assumed:  # saved by the framework, say
        keys = ", ".join(assumed)
        logger.warning(
            "%s carries no config: %s are assumed to be TAE_CONFIG's; where they are not, results "
            "are wrong: give the config it was trained with (config=)",
            source,
            keys,
        )
    return {**config, **changes}
