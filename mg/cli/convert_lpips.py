"""Make the LPIPS weights' file from torchvision's features and the `lpips` package's heads."""

import re
from pathlib import Path

from mg.cli.command import Parser

_KEPT = re.compile(r"^(features\.\d+\.|lin\d+\.model\.1\.)")


def command(args: list[str] | None) -> None:
    parser = Parser(
        description="Join torchvision's VGG16 (vgg16-397923af.pth) or SqueezeNet 1.1 "
        "(squeezenet1_1-b8a52dc0.pth) and the lpips package's heads (lpips/weights/v0.1/vgg.pth or "
        "squeeze.pth) into one .safetensors. Needs PyTorch."
    )
    parser.add_argument("--features", required=True, help="torchvision's .pth file.")
    parser.add_argument("--heads", required=True, help="The lpips package's .pth file.")
    parser.add_argument("--target", required=True, help="The .safetensors file to write.")
    options = parser.parse_args(args)
    from mg.arrays import write_arrays
    from mg.losses.lpips import LPIPS

    if Path(options.target).suffix != ".safetensors":
        raise ValueError(f"{options.target}: expected a name ending in .safetensors")
    arrays = {**_read(options.features), **_read(options.heads)}
    try:
        LPIPS(arrays)
    except ValueError as error:
        raise ValueError(f"{options.features} with {options.heads}: {error}") from None
    write_arrays(options.target, arrays)
    print(f"Wrote {options.target}")


def _read(path: str) -> dict:
    """The arrays of a PyTorch file that LPIPS has, read without unpickling anything but tensors."""
    import pickle

    try:
        import torch
    except ImportError:
        raise ValueError("reading .pth files needs PyTorch: pip install torch") from None
    if torch.__version__ < "2.6":  # as versions; CVE-2025-32434 is of older ones
        raise ValueError(f"reading .pth files safely needs PyTorch 2.6, not {torch.__version__}")
    if not Path(path).is_file():
        raise FileNotFoundError(f"{path}: no such file")
    try:
        loaded = torch.load(path, map_location="cpu", weights_only=True)
        for name, tensor in loaded.items():
            if tensor.untyped_storage().nbytes() < tensor.nbytes:
                raise ValueError(f"{name} is larger than what the file holds of it")
        kept = {str(name): tensor for name, tensor in loaded.items() if _KEPT.match(str(name))}
        return {name: tensor.contiguous().numpy() for name, tensor in kept.items()}
    # TypeError: of bf16, which numpy does not have.
    except (
        pickle.UnpicklingError,
        EOFError,
        RuntimeError,
        AssertionError,
        LookupError,
        AttributeError,
        TypeError,
        ValueError,
        OSError,
    ) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else "empty"
        raise ValueError(f"{path}: not a PyTorch file of tensors ({reason})") from None
