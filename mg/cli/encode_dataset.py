"""Encode the videos of a data set to latents, once each, for training on them."""

from mg.cli.command import SOME_FAILED, counted, parse, settings_parser
from mg.inference.dataset_settings import DatasetEncoding


def command(args: list[str] | None) -> int:
    parser = settings_parser(
        DatasetEncoding,
        "Encode the videos of a data set to shards of latents and a manifest.parquet, which "
        "mg.latents.LatentDataset reads. Run it again, and it goes on where it was stopped.",
    )
    settings = parse(parser, DatasetEncoding, args)
    from mg import ranks
    from mg.inference.encode_dataset import encode_dataset

    summary = encode_dataset(settings)
    if not ranks.is_first():
        return 0
    print(
        f"Encoded {counted(summary.encoded, 'video')}, {summary.done} done before, "
        f"{summary.failed} failed. {counted(summary.rows, 'clip')}: "
        f"{settings.output_path}/manifest.parquet"
    )
    if summary.failed:
        print(f"{settings.output_path}/bad.csv says why")
    return SOME_FAILED if summary.failed else 0
