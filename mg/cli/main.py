"""The program `mg`: one name for all commands. Each is imported when it is asked for."""

import importlib
import sys

from mg import __version__
from mg.cli.command import BAD_INPUT, run

COMMANDS = {
    "prepare": "make the CSV files of a folder of videos: train, val, test and bad",
    "inflate": "make a TAE's first checkpoint from an image autoencoder's",
    "train": "train a TAE on videos",
    "evaluate": "reconstruct videos by a TAE and measure PSNR and SSIM",
    "reconstruct": "reconstruct one video by a TAE",
    "encode": "encode one video to a latent file",
    "decode": "decode a latent file to a video",
    "encode-dataset": "encode a data set to shards of latents, for training on them",
    "stats": "print mean and standard deviation of such latents",
    "convert-checkpoint": "rewrite a checkpoint in another format, or with its own scaling",
    "convert-lpips": "make the LPIPS weights' file from torchvision's and the lpips package's",
}


def main(args: list[str] | None = None) -> int:
    """Run a command with the rest of the command line; gives its exit code."""
    args = sys.argv[1:] if args is None else args
    if not args:
        return _refuse("expected a command")
    name, *rest = args
    if name in ("-h", "--help"):
        print(_help())
        return 0
    if name == "--version":
        print(f"mg {__version__}")
        return 0
    if name not in COMMANDS:
        return _refuse(f"unknown command '{name}'")
    sys.argv[0] = f"mg {name}"  # what the command's own help calls it
    module = f"mg.cli.{name.replace('-', '_')}"
    # Imported inside, since Ctrl-C may come while that takes its time.
    return run(lambda args: importlib.import_module(module).command(args), rest)


def _refuse(reason: str) -> int:
    names = ", ".join(COMMANDS)
    print(f"mg: error: {reason}, choose from: {names} (mg --help explains them)", file=sys.stderr)
    return BAD_INPUT


def _help() -> str:
    width = max(map(len, COMMANDS))
    lines = [f"  {name:{width}}  {text}" for name, text in COMMANDS.items()]
    return "\n".join(
        [
            "usage: mg COMMAND [OPTIONS]",
            "",
            "Movie Gen's Temporal Autoencoder on MindSpore and PyTorch.",
            "",
            *lines,
            "",
            "mg COMMAND --help explains the options of a command, mg --version tells the version.",
        ]
    )


if __name__ == "__main__":
    sys.exit(main())
