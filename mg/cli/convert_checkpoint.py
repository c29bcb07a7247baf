"""Rewrite a checkpoint: as `.ckpt`, MindSpore's format, or `.safetensors`, in half precision, or
with its own scaling."""

from mg.cli.command import Parser
from mg.files import sha256
from mg.latents import LatentDataset
from mg.latents.stats import latent_statistics


def command(args: list[str] | None) -> None:
    parser = Parser(
        description="Rewrite a TAE checkpoint, one of mindone's too, as .safetensors or as "
        "MindSpore's .ckpt. Both are read on both frameworks."
    )
    parser.add_argument("--src", required=True, help="Checkpoint to read.")
    parser.add_argument("--target", required=True, help="Checkpoint to write.")
    parser.add_argument("--half", action="store_true", help="Store float16, half the size.")
    parser.add_argument(
        "--latents",
        help="What `mg encode-dataset` wrote with this checkpoint: give its config the "
        "scaling_factor and shift_factor that `mg stats` prints of them.",
    )
    options = parser.parse_args(args)
    from mg.models.tae.tae import TemporalAutoencoder

    factors = None if options.latents is None else _factors(options.latents, options.src)
    TemporalAutoencoder(options.src, factors).save_checkpoint(options.target, half=options.half)
    print(f"Wrote {options.target}")


def _factors(directory: str, checkpoint: str) -> dict[str, float]:
    from mg.models.tae.weights import weights_file

    latents = LatentDataset(directory)
    if latents.encoding.checkpoint_sha256 != sha256(weights_file(checkpoint)):
        raise ValueError(f"{directory}: latents of another checkpoint, expected {checkpoint}'s")
    statistics = latent_statistics(latents)
    return {key: statistics[key] for key in ("scaling_factor", "shift_factor")}
