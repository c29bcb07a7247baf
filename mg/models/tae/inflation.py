"""Image autoencoder weights to TAE weights: diffusers' AutoencoderKL, as of Stable Diffusion 3.5.

The spatial weights are renamed by rule; everything temporal keeps its initial value, at which the
TAE treats each frame as the image autoencoder does.
"""

import json
import os
import re
from pathlib import Path

from mg.arrays import Arrays, read_safetensors
from mg.backend import named_parameters, to_numpy
from mg.files import check_there
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import (
    CONFIG_FILE,
    check_numbers,
    check_sizes,
    file_of,
    infer_sizes,
)

_CONVS = "conv1|conv2|conv_in|conv_out|nin_shortcut"
_ATTENTION = {
    "group_norm": "norm",
    **{"to_q": "q", "to_k": "k", "to_v": "v", "to_out.0": "proj_out"},
    # as diffusers named them before its version 0.12
    **{"query": "q", "key": "k", "value": "v", "proj_attn": "proj_out"},
}
_TEMPORAL = re.compile(r"\.conv_temp\.|\.(down|up)sample_temp\.|\.attn_1\.1\.")


def tae_name(name: str, num_levels: int) -> str:
    """The TAE's name for a parameter of diffusers' AutoencoderKL with that many resolutions."""

    def attention(match):
        return f".mid.attn_1.0.{_ATTENTION.get(match[1], match[1])}."

    def up_level(match):
        return f".up.{num_levels - 1 - int(match[1])}."  # diffusers counts from the latents up

    name = re.sub(r"\.mid_block\.resnets\.(\d+)\.", lambda m: f".mid.block_{int(m[1]) + 1}.", name)
    name = re.sub(r"\.mid_block\.attentions\.0\.(to_out\.0|\w+)\.", attention, name)
    name = re.sub(r"\.down_blocks\.(\d+)\.", r".down.\1.", name)
    name = re.sub(r"\.up_blocks\.(\d+)\.", up_level, name)
    name = re.sub(r"\.resnets\.(\d+)\.", r".block.\1.", name)
    name = name.replace(".downsamplers.0.", ".downsample_spat.")
    name = name.replace(".upsamplers.0.", ".upsample_spat.")
    name = name.replace(".conv_norm_out.", ".norm_out.")
    name = name.replace(".conv_shortcut.", ".nin_shortcut.")
    name = re.sub(rf"\.({_CONVS})\.(weight|bias)$", r".\1.conv_spat.\2", name)
    name = re.sub(r"\.(norm\w*)\.weight$", r".\1.gamma", name)
    return re.sub(r"\.(norm\w*)\.bias$", r".\1.beta", name)


def image_vae_file(source: str | os.PathLike) -> Path:
    """The file that holds the weights of an AutoencoderKL: itself, or that of a directory.

    Raises:
        FileNotFoundError: no such file.
    """
    file = file_of(Path(source))
    check_there(file, "file of an AutoencoderKL's weights")
    return file


def read_image_vae(source: str | os.PathLike) -> tuple[Arrays, dict]:
    """The weights of an AutoencoderKL under the TAE's names, and the TAE config they make.

    Args:
        source: the weights' file, or the directory that holds it and `config.json`. With the
            directory, the config gives sizes, scaling and shift; with the file alone, sizes come
            from the weights, and scaling and shift are Stable Diffusion 3.5's.

    Raises:
        FileNotFoundError: no such file or directory.
        ValueError: a damaged file, or an autoencoder of another family.
    """
    source, file = Path(source), image_vae_file(source)
    arrays, _ = read_safetensors(file)
    levels = {m[1] for m in (re.match(r"encoder\.down_blocks\.(\d+)\.", n) for n in arrays) if m}
    if not levels:
        raise ValueError(f"{file}: not the weights of diffusers' AutoencoderKL (no down_blocks)")
    named = {tae_name(name, len(levels)): array for name, array in arrays.items()}
    for name, array in named.items():
        if ".attn_1.0." in name and array.ndim == 2:  # linear there, a 1x1 convolution here
            named[name] = array[:, :, None, None]
    try:
        config = sizes = infer_sizes(named)
    except ValueError as error:
        raise ValueError(f"{file}: {error}") from None
    described = source / CONFIG_FILE
    if source.is_dir() and described.is_file():
        config = _read_config(described)
        check_sizes(config, sizes, source=described)
    return named, config


def _read_config(path: Path) -> dict:
    """The TAE config that an AutoencoderKL's config.json describes."""
    try:
        vae = json.loads(path.read_text())
        if not isinstance(vae, dict):
            raise ValueError("not an object")
        channels, ch = vae["block_out_channels"], vae["block_out_channels"][0]
        if not vae.get("mid_block_add_attention", True):
            raise ValueError("mid_block_add_attention is false, the TAE has attention there")
        if vae.get("act_fn", "silu") != "silu":
            raise ValueError(f"act_fn is {vae['act_fn']!r}, the TAE has 'silu'")
        return {
            "in_channels": vae["in_channels"],
            "out_ch": vae["out_channels"],
            "ch": ch,
            "ch_mult": [width // ch for width in channels],
            "num_res_blocks": vae["layers_per_block"],
            "z_channels": vae["latent_channels"],
            "num_groups": vae.get("norm_num_groups", 32),
            "use_quant_conv": vae.get("use_quant_conv", True),  # diffusers' defaults
            "use_post_quant_conv": vae.get("use_post_quant_conv", True),
            "scaling_factor": float(vae.get("scaling_factor", 0.18215)),  # diffusers' default
            "shift_factor": float(vae.get("shift_factor") or 0.0),
        }
    except (LookupError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
        raise ValueError(f"{path}: not the config of a fitting AutoencoderKL ({error})") from None


def inflate(source: str | os.PathLike) -> tuple[Arrays, dict]:
    """The weights and config of the TAE that treats every frame as the image autoencoder does.

    Args:
        source: see `read_image_vae`.

    Raises:
        FileNotFoundError, ValueError: see `read_image_vae`; also a spatial weight that is missing,
            unexpected or of another shape, or holds numbers that are not finite.
    """
    spatial, config = read_image_vae(source)
    tae = TemporalAutoencoder(config=config)
    initial = {name: to_numpy(p) for name, p in named_parameters(tae).items()}
    for name, array in initial.items():
        given = spatial.get(name)
        if given is None and not _TEMPORAL.search(name):
            raise ValueError(f"{source}: {name} is missing, expected {array.shape}")
        if given is not None and given.shape != array.shape:
            raise ValueError(f"{source}: {name} is {given.shape}, expected {array.shape}")
    unexpected = sorted(set(spatial) - set(initial))
    if unexpected:
        raise ValueError(f"{source}: {unexpected[0]} is of no AutoencoderKL that can be inflated")
    check_numbers(spatial, source=source)
    return {**initial, **spatial}, tae.config
