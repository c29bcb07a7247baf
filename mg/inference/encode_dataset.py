"""Encode the videos of a data set, once each, however often and wherever it is interrupted."""

import logging
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from mg import backend, ranks
from mg.data.index import BAD_LIST, Failure, read_index, write_rows
from mg.evaluation.network import open_network
from mg.files import atomic_path, clear_half_written, make_folder, sha256
from mg.inference.dataset_encoder import DatasetEncoder
from mg.inference.dataset_settings import DatasetEncoding
from mg.inference.exchange import FOLDERS, Exchange
from mg.inference.sources import find_sources
from mg.latents.encoding import Encoding
from mg.latents.inventory import read_inventory
from mg.latents.manifest import read_manifest, write_manifest
from mg.models.tae.weights import weights_file

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Summary:
    """What a run found: numbers of videos of its CSV that are `encoded` now (one that holds what
    another does takes over its latents), that were `done` before, that `failed`; rows of the
    whole manifest."""

    encoded: int
    done: int
    failed: int
    rows: int


def encode_dataset(settings: DatasetEncoding) -> Summary:
    """Encode the videos of a CSV that are not in `output_path` yet, and write there shards of
    latents, `manifest.parquet` (see `mg.latents.inventory.Row`) and `bad.csv`.

    Each process takes its share of what is left to do and writes shards of its own. Shards are
    whole or absent and say what they hold (see `mg.latents.shards`), so a kill loses nothing but
    the latents that waited for their shard.

    A video of this CSV that cannot be encoded is listed in `bad.csv`, and the rest goes on.

    Raises:
        ValueError, OSError: something is wrong with settings, data set, checkpoint or directory;
            the directory's latents were encoded in another way; another run is at work in it; or no
            video could be encoded.
    """
    names = read_index(settings.csv_path, settings.video_folder, settings.video_column)
    names = [*dict.fromkeys(names)]
    if settings.compile is None and settings.num_frames and settings.image_size is None:
        settings = replace(settings, compile=False)  # a graph for each size would take too long
    tae = open_network(settings, in_parallel=True)
    encoding = Encoding(sha256(weights_file(settings.ckpt_path)), tae.config, settings.deciding())
    output = Path(settings.output_path)
    with _in_directory(output):
        exchange = Exchange(output)
        inventory = read_inventory(output, encoding)
        # All processes wait for one another in here, and have read the shards before one writes.
        sources = find_sources(names, Path(settings.video_folder), inventory, exchange)
        encoder = DatasetEncoder(settings, tae, encoding, inventory)
        share = sources.pending[backend.rank() :: backend.world_size()]
        failed = exchange.gather("failed", encoder.encode_all(share))
        failed = [Failure(*failure) for part in failed for failure in part]
        failed += sources.failed
        num_rows = _write_tables(output, encoding, sorted(failed)) if ranks.is_first() else 0
        exchange.close()
    total = len(names)
    if total == len(failed):
        reason = f"{failed[0].video}: {failed[0].reason}"
        raise ValueError(
            f"{settings.csv_path}: none of its {total} videos can be encoded; the first: {reason}"
        )
    return Summary(total - sources.done - len(failed), sources.done, len(failed), num_rows)


def _write_tables(output: Path, encoding: Encoding, failed: list[Failure]) -> int:
    """Write bad.csv, and the manifest of all processes' shards; gives its number of rows."""
    with atomic_path(output / BAD_LIST) as temporary:
        write_rows(temporary, Failure, failed)
    rows = read_inventory(output, encoding).rows()
    lost = sorted(_listed(output) - {row.file for row in rows})
    if lost:
        logger.warning(
            "%s: %d videos, %s for one, were encoded, but their shards are gone: encode them again",
            output,
            len(lost),
            lost[0],
        )
    if rows:
        write_manifest(output, rows, encoding)
    return len(rows)


def _listed(output: Path) -> set[str]:
    """The files of the manifest that is there."""
    try:
        return {*read_manifest(output)[0]["file"].to_pylist()}
    except (FileNotFoundError, ValueError):
        return set()


@contextmanager
def _in_directory(output: Path) -> Iterator[None]:
    """Make the directory, keep other runs out, and clear what a killed one left half written."""

    def clear() -> None:
        for remains in output.glob(FOLDERS):
            shutil.rmtree(remains)
        clear_half_written(output, r"shard-\w+|manifest|bad")

    if ranks.is_first():
        make_folder(output)
    busy = "another process writes latents into this directory"
    with ranks.alone_in(output, busy=busy, begin=clear):
        yield
