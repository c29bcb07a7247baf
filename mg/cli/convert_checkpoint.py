"""Rewrite a checkpoint in the other format: `.ckpt` (needs MindSpore) or `.safetensors`."""

import sys

from mg.cli.command import Parser, run


def command(args: list[str] | None) -> None:
    parser = Parser(
        description="Rewrite a TAE checkpoint, one of mindone's too, as .safetensors (read on both "
        "frameworks) or as .ckpt. Whatever is a .ckpt needs MindSpore."
    )
    parser.add_argument("--src", required=True, help="Checkpoint to read.")
    parser.add_argument("--target", required=True, help="Checkpoint to write.")
    parser.add_argument("--half", action="store_true", help="Store float16, half the size.")
    options = parser.parse_args(args)
    from mg.models.tae.tae import TemporalAutoencoder

    TemporalAutoencoder(options.src).save_checkpoint(options.target, half=options.half)
    print(f"Wrote {options.target}")


def main(args: list[str] | None = None) -> int:
    """The command `python -m mg.cli.convert_checkpoint`."""
    return run(command, args)


if __name__ == "__main__":
    sys.exit(main())
