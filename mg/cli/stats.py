"""Print the mean and standard deviation of a directory of latents."""

import json

from mg.cli.command import Parser
from mg.latents.stats import latent_statistics


def command(args: list[str] | None) -> None:
    parser = Parser(
        description="Print the mean and standard deviation of raw latents, over all and of each "
        "channel, as JSON. Scaled latents, scaling_factor * (z - shift_factor), have mean 0 and "
        "standard deviation 1 with the scaling_factor and shift_factor that are printed."
    )
    parser.add_argument("directory", help="What `mg encode-dataset` wrote.")
    statistics = latent_statistics(parser.parse_args(args).directory)
    print(json.dumps(statistics, indent=2))
