"""Make train.csv, val.csv, test.csv and bad.csv of a folder of videos."""

from mg.cli.command import parse, settings_parser
from mg.data.prepare import Preparation, prepare


def command(args: list[str] | None) -> None:
    parser = settings_parser(
        Preparation,
        "Decode every video of a folder once, and write train.csv, val.csv, test.csv "
        "(video, frames, fps, width, height, duration in seconds) and bad.csv (video, reason). A "
        "video that ends too early counts with the frames it has.",
        folder="Folder of videos, searched with all folders below it.",
    )
    preparation = parse(parser, Preparation, args)
    summary = prepare(preparation)
    print(
        f"Wrote {preparation.out}: train.csv {summary.train}, val.csv {summary.val}, "
        f"test.csv {summary.test}, bad.csv {summary.bad} videos; "
        f"{summary.hours:.2f} hours of video in {summary.seconds:.1f} s"
    )
    if preparation.split_files is not None:
        print(
            f"Of the split files' videos {summary.missing} are missing; "
            f"{summary.unlisted} videos of the folder are in none and were left out"
        )
    if summary.bad:
        print(f"{summary.bad} videos cannot be used: {preparation.out}/bad.csv says why")
