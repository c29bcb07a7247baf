"""Make a TAE's first checkpoint from an image autoencoder's."""

from mg.cli.command import Parser
from mg.files import check_apart


def command(args: list[str] | None) -> None:
    parser = Parser(
        description="Inflate an image autoencoder (diffusers' AutoencoderKL, such as Stable "
        "Diffusion 3.5's or FLUX.1's) to a TAE that treats every frame as it does."
    )
    parser.add_argument(
        "--src",
        required=True,
        help="diffusion_pytorch_model.safetensors, or the directory that holds it and config.json, "
        "which then gives sizes, scaling and shift.",
    )
    parser.add_argument(
        "--target",
        required=True,
        help="Checkpoint to write, named *.safetensors or, in MindSpore's format, *.ckpt.",
    )
    options = parser.parse_args(args)
    from mg.models.tae.inflation import image_vae_file, inflate
    from mg.models.tae.weights import write_weights

    check_apart([options.target], [image_vae_file(options.src)])
    arrays, config = inflate(options.src)
    write_weights(options.target, arrays, config)
    count = sum(array.size for array in arrays.values())
    print(f"Wrote {options.target}: {count / 1e6:.1f} M parameters, config {config}")
