"""Checkpoints: `.safetensors`, and `.ckpt`, MindSpore's, both on both frameworks.

Both hold the same parameter names. The config travels in the file: in the metadata of a
`.safetensors`, in an entry of its own of a `.ckpt`. Nothing in a file is ever executed.
"""

import json
import logging
import os
import re
from pathlib import Path

import numpy as np

from mg import backend
from mg.arrays import Arrays, check_floating, read_safetensors, write_arrays
from mg.files import atomic_path

logger = logging.getLogger(__name__)

CONFIG_KEY = "tae_config"
_UNUSED = re.compile(r"\.temb_proj\.(weight|bias)$")  # in mindone's checkpoints; never in a forward
# What wrappers for training, for several devices and of torch.compile put into names.
_WRAPPERS = re.compile(r"^(autoencoder\.|_backbone\.|module\.|_orig_mod\.)+|\b_orig_mod\.")


PUBLISHED = {"small": Path(__file__).parents[2] / "assets" / "tae_small.safetensors"}
"""The bundled weights, by name; docs/tae_small.md says what they are worth."""

WEIGHTS_FILE = "diffusion_pytorch_model.safetensors"  # of a directory, as diffusers names it
CONFIG_FILE = "config.json"
CLASS_NAME = "TemporalAutoencoder"


def read_weights(path: str | os.PathLike) -> tuple[Arrays, dict | None]:
    """The arrays of a checkpoint by parameter name, and its config if it carries one.

    What wrappers put into the names is taken out.

    Args:
        path: a file, a directory that `write_directory` made, or as a string a name of PUBLISHED;
            "./small" is a path.

    Raises:
        FileNotFoundError: no such file.
        ValueError: another suffix, or a file that is damaged or not a checkpoint.
    """
    file, path = weights_file(path), _located(path)
    if path.is_dir():
        return read_weights(file)[0], _read_config(path / CONFIG_FILE)
    if path.suffix == ".safetensors":
        arrays, metadata = read_safetensors(path)
        text = metadata.get(CONFIG_KEY)
    elif path.suffix == ".ckpt":
        from mg.models.tae.ckpt import read_ckpt  # here: a network without files does without it

        arrays = read_ckpt(path)
        stored = arrays.pop(CONFIG_KEY, None)
        text = None if stored is None else stored.astype(np.uint8).tobytes()
        for name, array in arrays.items():
            check_floating(array.dtype, array.dtype.kind == "f", f"{path}: {name}")
    else:
        raise ValueError(f"{path}: expected a checkpoint named *.safetensors or *.ckpt")
    try:
        config = None if text is None else json.loads(text)
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: its config is not JSON") from None
    if not isinstance(config, dict | None):
        raise ValueError(f"{path}: its config is {text!r}, expected an object")
    bare = unwrapped(arrays)
    if len(bare) < len(arrays):
        raise ValueError(f"{path}: holds some weights twice, with a wrapper's name and without")
    return bare, config


def unwrapped(arrays: Arrays) -> Arrays:
    """The arrays by their names without what wrappers put into these."""
    return {_WRAPPERS.sub("", name): array for name, array in arrays.items()}


def weights_file(path: str | os.PathLike) -> Path:
    """The file that holds the weights of a checkpoint: itself, that of a directory or of a name.

    Raises:
        FileNotFoundError: no such file.
    """
    path = _located(path)
    file = file_of(path)
    if not file.is_file():
        hint = "mg inflate makes one of an image autoencoder, and small names the bundled one"
        if path.is_dir():  # of a training run, or one of its checkpoints
            names = sorted(path.name for path in path.glob("tae.*"))
            hint = f"the folder holds {' and '.join(names) or 'none'}"
        raise FileNotFoundError(f"{file}: no such checkpoint file; {hint}")
    return file


def file_of(path: Path) -> Path:
    """Where the weights are: a directory's have the name that diffusers gives them."""
    return path / WEIGHTS_FILE if path.is_dir() else path


def _located(path: str | os.PathLike) -> Path:
    published = PUBLISHED.get(path) if isinstance(path, str) else None
    return published or Path(path)


def _read_config(path: Path) -> dict:
    """The config of a directory; keys that begin with an underscore are notes about it."""
    if not path.is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        config = json.loads(path.read_bytes())
    except (ValueError, RecursionError):
        raise ValueError(f"{path}: not JSON") from None
    if not isinstance(config, dict):
        raise ValueError(f"{path}: expected an object")
    name = config.get("_class_name", CLASS_NAME)
    if name != CLASS_NAME:
        hint = "; inflate it first" if name == "AutoencoderKL" else ""
        raise ValueError(f"{path}: the config of class {name}, expected {CLASS_NAME}{hint}")
    return {key: value for key, value in config.items() if not key.startswith("_")}


def write_directory(directory: str | os.PathLike, arrays: Arrays, config: dict) -> None:
    """Write `config.json` and the weights' file of a directory, each whole or not at all.

    Raises:
        OSError: a file cannot be written.
    """
    directory = Path(directory)
    write_weights(directory / WEIGHTS_FILE, arrays, config)
    with atomic_path(directory / CONFIG_FILE) as temporary:
        temporary.write_text(json.dumps({"_class_name": CLASS_NAME, **config}, indent=2) + "\n")


def write_weights(
    path: str | os.PathLike, arrays: Arrays, config: dict, *, half: bool = False
) -> None:
    """Write a checkpoint with its config; the file is whole or absent.

    Args:
        half: store float16.

    Raises:
        ValueError: a suffix other than `.safetensors` or `.ckpt`; a number that half
            precision does not hold.
        OSError: the file cannot be written.
    """
    path = Path(path)
    if path.suffix not in (".safetensors", ".ckpt"):
        raise ValueError(f"{path}: expected a checkpoint named *.safetensors or *.ckpt")
    text = json.dumps(config)
    if half:
        arrays = {name: _halved(array, f"{path}: {name}") for name, array in arrays.items()}
    if path.suffix == ".safetensors":
        write_arrays(path, arrays, {CONFIG_KEY: text})
        return
    stored = np.frombuffer(text.encode(), np.uint8)
    from mg.models.tae.ckpt import write_ckpt

    with atomic_path(path) as temporary:
        try:
            write_ckpt(temporary, {**arrays, CONFIG_KEY: stored})
        except ValueError as error:
            raise ValueError(f"{path}: {error}") from None
        except OSError as error:
            raise OSError(f"{path}: cannot be written ({error})") from None


def _halved(array: np.ndarray, where: str) -> np.ndarray:
    if not np.abs(array).max(initial=0) <= np.finfo(np.float16).max:
        raise ValueError(f"{where} holds numbers that half precision does not")
    return array.astype(np.float16)


def load_strictly(parameters: dict, arrays: Arrays, *, source: str) -> None:
    """Give `parameters` the values of `arrays`, all or none.

    Parameters of mindone's checkpoints that no forward pass uses are dropped with a log line.

    Raises:
        ValueError: a parameter is missing, unexpected, or of another shape; all are counted, the
            first is named with both shapes. Or it holds numbers that are not finite.
    """
    unused = [name for name in arrays if _UNUSED.search(name)]
    if unused:
        logger.info("%s: dropped %d temb_proj arrays, which no forward uses", source, len(unused))
    arrays = {name: array for name, array in arrays.items() if name not in unused}
    check_fit(parameters, arrays, source=source)
    check_numbers(arrays, source=source)
    for name, parameter in parameters.items():
        backend.assign(parameter, arrays[name])


def check_numbers(arrays: Arrays, *, source: str | os.PathLike) -> None:
    """Raise a ValueError that names the first array with numbers that are not finite."""
    for name, array in arrays.items():
        if not np.isfinite(array).all():
            raise ValueError(f"{source}: {name} holds NaN or infinite values")


def check_fit(parameters: dict, arrays: Arrays, *, source: str) -> None:
    """Raise unless the arrays have the parameters' names and shapes.

    Raises:
        ValueError: see `load_strictly`.
    """
    problems = [
        f"{name}: the network has {tuple(parameter.shape)}, the file has "
        f"{arrays[name].shape if name in arrays else 'none'}"
        for name, parameter in parameters.items()
        if name not in arrays or tuple(parameter.shape) != arrays[name].shape
    ]
    problems += [
        f"{name}: the network has none, the file has {array.shape}"
        for name, array in arrays.items()
        if name not in parameters
    ]
    if problems:
        raise ValueError(
            f"{source}: {len(problems)} parameters do not fit the network; {problems[0]}"
        )


def is_mindone(arrays: Arrays) -> bool:
    """Whether these arrays come from mindone, whose networks carry unused temb_proj parameters."""
    return any(_UNUSED.search(name) for name in arrays)


def infer_sizes(arrays: Arrays) -> dict:
    """The config keys that the shapes of a TAE's (spatial) weights tell.

    Of each residual block of the encoder both convolutions are looked at, so that a small
    file cannot ask for a huge network.

    Raises:
        ValueError: the arrays are no TAE's.
    """

    def shape(name):
        if name not in arrays:
            raise ValueError(f"not the weights of a TAE: there is no {name}")
        shape = arrays[name].shape
        if len(shape) != 4 or min(shape) < 1:
            raise ValueError(f"not the weights of a TAE: {name} is {shape}, expected (o c h w)")
        return shape

    def count(pattern):
        found = (re.match(pattern, name) for name in arrays)
        return len({match[1] for match in found if match})

    def spatial(name):
        return f"{name}.conv_spat.weight"

    ch, in_channels = shape(spatial("encoder.conv_in"))[:2]
    out_channels = shape(spatial("decoder.conv_out"))[0]
    z_channels = shape(spatial("decoder.conv_in"))[1]
    num_levels = max(1, count(r"encoder\.down\.(\d+)\."))
    num_res_blocks = count(r"encoder\.down\.0\.block\.(\d+)\.")
    levels = [f"encoder.down.{level}.block" for level in range(num_levels)]
    widths = [shape(spatial(f"{level}.0.conv1"))[0] for level in levels]
    expected = {
        spatial("encoder.conv_in"): (ch, in_channels, 3, 3),
        spatial("encoder.conv_out"): (2 * z_channels, widths[-1], 3, 3),
        spatial("decoder.conv_in"): (widths[-1], z_channels, 3, 3),
        spatial("decoder.conv_out"): (out_channels, widths[0], 3, 3),
    }
    for level, before, width in zip(levels, [ch, *widths[:-1]], widths, strict=True):
        for block in range(num_res_blocks):
            into = width if block else before
            expected[spatial(f"{level}.{block}.conv1")] = (width, into, 3, 3)
            expected[spatial(f"{level}.{block}.conv2")] = (width, width, 3, 3)
    for name, channels in (("quant_conv", 2 * z_channels), ("post_quant_conv", z_channels)):
        if f"{name}.weight" in arrays:
            expected[f"{name}.weight"] = (channels, channels, 1, 1)
    for name, sizes in expected.items():
        if shape(name) != sizes:
            raise ValueError(f"not the weights of a TAE: {name} is {shape(name)}, expected {sizes}")
    return {
        "in_channels": in_channels,
        "out_ch": out_channels,
        "ch": ch,
        "ch_mult": [width // ch for width in widths],
        "num_res_blocks": num_res_blocks,
        "z_channels": z_channels,
        "use_quant_conv": "quant_conv.weight" in arrays,
        "use_post_quant_conv": "post_quant_conv.weight" in arrays,
    }


def check_sizes(config: dict, sizes: dict, *, source: str | os.PathLike) -> None:
    """Raise unless the sizes of a config are those that `infer_sizes` found.

    Raises:
        ValueError: a size is another; it is named with both.
    """
    for key, value in sizes.items():
        if config[key] != value:
            raise ValueError(f"{source}: {key} is {config[key]!r}, but the weights have {value!r}")
