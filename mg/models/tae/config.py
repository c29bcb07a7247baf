"""The numbers that make a TAE."""

from typing import Any, TypeVar

from mg.ranges import TOO_LARGE

TAE_CONFIG = {
    "in_channels": 3,
    "out_ch": 3,
    "ch": 128,
    "ch_mult": [1, 2, 4, 4],
    "num_res_blocks": 2,
    "z_channels": 16,
    "num_groups": 32,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
    "attention_window": 4,  # latent frames that attend to one another; None: all of the clip's
    "norm_scope": "frame",  # group norm over each "frame", or over the whole "clip"
    "upsample_padding": "replicate",  # of the convolutions that double the frames; or "zeros"
}
"""The full-size network, shaped as Stable Diffusion 3.5's image autoencoder."""

MINDONE_TAE_CONFIG = {
    **TAE_CONFIG,
    "attention_window": None,
    "norm_scope": "clip",
    "upsample_padding": "zeros",
}
"""The network that mindone's published TAE checkpoints are for."""


_MOST_LEVELS = 16  # which compress 32768x

Array = TypeVar("Array")  # a numpy array, or a tensor of either framework


def check_config(config: dict[str, Any]) -> dict[str, Any]:
    """`config` with the defaults of TAE_CONFIG filled in.

    Raises:
        ValueError: an unknown key, a value of the wrong type, sizes that do not fit together, or
            factors that do not scale.
    """
    unknown = sorted(set(config) - set(TAE_CONFIG))
    if unknown:
        raise ValueError(f"unknown TAE config key {unknown[0]!r}, expected one of {[*TAE_CONFIG]}")
    full = {**TAE_CONFIG, **config}
    full["ch_mult"] = [*full["ch_mult"]] if isinstance(full["ch_mult"], list | tuple) else None
    for key, default in TAE_CONFIG.items():
        kinds = (int, float) if isinstance(default, float) else (type(default),)
        value = full[key]
        if key == "attention_window" and value is None:
            continue
        if type(value) not in kinds or (kinds == (int,) and value < 1):
            other = " or None" if key == "attention_window" else ""
            raise ValueError(
                f"TAE config {key} is {config[key]!r} ({type(config[key]).__name__}), expected one "
                f"like {default!r}{other}"
            )
    for key, above, expected in (
        ("scaling_factor", 0, "a finite number above 0, below 2^63"),
        ("shift_factor", -TOO_LARGE, "a finite number within 2^63"),
    ):
        if not above < full[key] < TOO_LARGE:
            raise ValueError(f"TAE config {key} is {full[key]!r}, expected {expected}")
    if not full["ch_mult"] or any(type(m) is not int or m < 1 for m in full["ch_mult"]):
        raise ValueError(f"TAE config ch_mult is {config['ch_mult']!r}, expected positive integers")
    if len(full["ch_mult"]) > _MOST_LEVELS:
        count = len(full["ch_mult"])
        raise ValueError(f"TAE config ch_mult has {count} levels, expected {_MOST_LEVELS} at most")
    for multiple in full["ch_mult"]:
        if full["ch"] * multiple % full["num_groups"]:
            raise ValueError(
                f"TAE config: {full['ch']} x {multiple} channels (ch, ch_mult) do not divide into "
                f"{full['num_groups']} groups (num_groups)"
            )
    for key, choices in (
        ("norm_scope", ("frame", "clip")),
        ("upsample_padding", ("replicate", "zeros")),
    ):
        if full[key] not in choices:
            raise ValueError(f"TAE config {key} is {full[key]!r}, expected one of {choices}")
    return full


def check_rgb(config: dict, *, source: str) -> None:
    """Raise unless the network of a config is one of colours.

    Raises:
        ValueError: it takes or gives other than 3 channels.
    """
    channels = config["in_channels"], config["out_ch"]
    if channels != (3, 3):
        raise ValueError(
            f"{source}: a network of {channels[0]} channels in and {channels[1]} out, expected 3 "
            "and 3, as videos have"
        )


def compression(config: dict[str, Any]) -> int:
    """Frames, rows and columns of the video to one of the latents."""
    return 2 ** (len(config["ch_mult"]) - 1)


def latent_size(config: dict[str, Any], t: int, h: int, w: int) -> tuple[int, int, int]:
    """The latents' frames, height and width of a video of t frames, h rows, w columns."""
    factor = compression(config)
    return -(-t // factor), -(-h // factor), -(-w // factor)


def scaled(z: Array, config: dict[str, Any]) -> Array:
    """Raw latents, an array or a tensor, to scaled latents."""
    values: Any = z
    return config["scaling_factor"] * (values - config["shift_factor"])


def unscaled(z: Array, config: dict[str, Any]) -> Array:
    """Scaled latents, an array or a tensor, to raw latents."""
    values: Any = z
    return values / config["scaling_factor"] + config["shift_factor"]
