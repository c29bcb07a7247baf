"""`manifest.parquet`: a row for each clip of each file of a directory of latents."""

import os
from collections.abc import Sequence
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as parquet

from mg.files import atomic_path
from mg.latents.encoding import Encoding, encoding_from_json
from mg.latents.inventory import Row

MANIFEST = "manifest.parquet"
_ENCODING = b"mg latents manifest 2"  # the key of the encoding in the table's metadata
_TYPES = {str: pa.string(), int: pa.int64(), float: pa.float64()}
_FIELDS = [pa.field(name, _TYPES[kind]) for name, kind in Row.__annotations__.items()]
# Of the encoding, the same in every row: for those who read the table without this package.
_SHARED = [
    pa.field("stored", pa.string()),
    pa.field("scaled", pa.bool_()),
    pa.field("checkpoint_sha256", pa.string()),
]
_SCHEMA = pa.schema([*_FIELDS, *_SHARED])
_ROWS_AT_ONCE = 4096
_MOST_UNPACKED = 1000  # a million clips of one video: 200


def write_manifest(directory: str | os.PathLike, rows: Sequence[Row], encoding: Encoding) -> None:
    """Write the manifest, whole or not at all.

    Raises:
        OSError: it cannot be written.
    """
    columns = [pa.array([row[i] for row in rows], f.type) for i, f in enumerate(_FIELDS)]
    columns += [pa.array([getattr(encoding, f.name)] * len(rows)) for f in _SHARED]
    metadata = {_ENCODING: encoding.to_json().encode()}
    table = pa.table(columns, schema=_SCHEMA.with_metadata(metadata))
    with atomic_path(Path(directory) / MANIFEST) as temporary:
        parquet.write_table(table, temporary, compression="zstd", write_page_checksum=True)


def read_manifest(directory: str | os.PathLike) -> tuple[pa.Table, Encoding]:
    """Read the manifest: a table whose columns are the fields of `Row`, and the encoding.

    Raises:
        FileNotFoundError: there is none.
        ValueError: it is damaged, or no manifest of latents.
    """
    path = Path(directory) / MANIFEST
    if not path.is_file():
        raise FileNotFoundError(
            f"{path}: no such manifest, expected a directory that `mg encode-dataset` finished"
        )
    try:
        # A file opened by Python: its name stays a name. `read_table` and `pre_buffer` would leave
        # threads that a fork loses.
        with path.open("rb") as file:
            manifest = parquet.ParquetFile(file, pre_buffer=False, page_checksum_verification=True)
            if not manifest.schema_arrow.equals(_SCHEMA):
                raise ValueError(
                    f"its columns are {manifest.schema_arrow.names}; if an earlier version wrote "
                    "it, run `mg encode-dataset` again"
                )
            table = _read_bounded(manifest, path.stat().st_size)
        table.validate(full=True)  # reading takes any bytes for text
        encoding = encoding_from_json((table.schema.metadata or {}).get(_ENCODING, b"").decode())
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ValueError(f"{path}: not a manifest of latents: {error}") from None
    _check(path, table, encoding)
    return table.select([field.name for field in _FIELDS]).combine_chunks(), encoding


def _read_bounded(manifest: parquet.ParquetFile, size: int) -> pa.Table:
    """The table, unless a small file would fill the memory once unpacked: values that are the same
    in all rows take next to no bytes in it."""
    batches, left = [], _MOST_UNPACKED * size
    for batch in manifest.iter_batches(_ROWS_AT_ONCE, use_threads=False):
        batches.append(batch)
        left -= batch.nbytes
        if left < 0:
            raise ValueError(f"{size} bytes hold more than {_MOST_UNPACKED} times as many")
    return pa.Table.from_batches(batches, manifest.schema_arrow)


def _check(path: Path, table: pa.Table, encoding: Encoding) -> None:
    for name in table.schema.names:
        if table[name].null_count:
            raise ValueError(f"{path}: column '{name}' has empty places")
    for field in _SHARED:
        value = getattr(encoding, field.name)
        for found in table[field.name].unique().to_pylist():
            if found != value:
                raise ValueError(f"{path}: a row's {field.name} is {found!r}, expected {value!r}")
