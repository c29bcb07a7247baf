import json
import logging
import pickle
import shutil
import struct
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest

from mg.latents import LatentDataset, shard_writer
from mg.latents.encoding import draw
from mg.latents.inventory import read_inventory
from mg.latents.manifest import MANIFEST, write_manifest
from mg.latents.shard_writer import ShardWriter
from mg.latents.shards import Clip, checksum, clip_key, read_shard, shard_paths

from .latent_files import CONFIG, SIZES, make_encoding, write_latents

pytestmark = pytest.mark.once


def scaled(z):
    return CONFIG["scaling_factor"] * (z.astype(np.float64) - CONFIG["shift_factor"])


# What is read


def test_every_item_comes_back_as_written(tmp_path):
    arrays = write_latents(tmp_path)
    assert len(shard_paths(tmp_path)) > 2
    dataset = LatentDataset(tmp_path)
    assert len(dataset) == len(SIZES)
    for (name, number), size, item in zip(arrays, SIZES, dataset, strict=True):
        latents = item.pop("latents")
        assert latents.dtype == np.float32 and latents.flags.writeable
        np.testing.assert_array_equal(latents, arrays[name, number])
        sizes = dict(zip(("frames", "height", "width"), size, strict=True))
        assert item == {"file": name, "clip": number, "start": 4 * number, "fps": 12.5, **sizes}


def test_a_video_that_was_dropped_fills_no_shard(tmp_path):
    encoding = make_encoding()
    array = np.ones(encoding.shape(4, 8, 8), encoding.dtype)
    writer = ShardWriter(tmp_path, encoding, max_bytes=2.5 * array.nbytes, max_seconds=1e9)
    for content in ("a" * 64, "b" * 64, "c" * 64):
        where = (clip_key(content, 0), content, 0, 0)
        writer.add_clip(Clip(*where, 4, 8, 8, 12.5, checksum(array)), array)
        if content[0] == "b":
            writer.drop(content)
    assert shard_paths(tmp_path) == []


def test_indices_are_those_of_a_list(tmp_path):
    write_latents(tmp_path)
    dataset = LatentDataset(tmp_path)
    np.testing.assert_array_equal(dataset[-1]["latents"], dataset[len(SIZES) - 1]["latents"])
    assert dataset[np.int64(2)]["file"] == "1.mp4"
    for index in (len(SIZES), -len(SIZES) - 1):
        with pytest.raises(IndexError):
            dataset[index]
    with pytest.raises(TypeError, match="'slice'"):
        dataset[:2]


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.parametrize("stored_scaled", [False, True])
def test_latents_are_raw_or_scaled_as_asked_however_they_are_stored(
    tmp_path, stored_scaled, precision
):
    arrays = write_latents(tmp_path, scaled=stored_scaled, precision=precision)
    raw = LatentDataset(tmp_path)
    as_trained = LatentDataset(tmp_path, scaled=True)
    for index, array in enumerate(arrays.values()):
        tolerance = {"rtol": 1e-5, "atol": 1e-5}
        given = array.astype(np.float32)
        (stored, other) = (as_trained, raw) if stored_scaled else (raw, as_trained)
        assert other[index]["latents"].dtype == np.float32
        np.testing.assert_array_equal(stored[index]["latents"], given)
        np.testing.assert_allclose(
            scaled(raw[index]["latents"]), as_trained[index]["latents"], **tolerance
        )
        assert np.abs(other[index]["latents"] - given).max() > 0.1


def test_moments_are_drawn_anew_at_each_access(tmp_path):
    arrays = write_latents(tmp_path, stored="moments")
    mean, logvar = np.split(arrays["0.mp4", 0].astype(np.float64), 2)
    dataset = LatentDataset(tmp_path)
    first, second = (dataset[0]["latents"] for _ in range(2))
    assert np.abs(first - second).max() > 0.1
    draws = np.stack([dataset[0]["latents"] for _ in range(2000)]).astype(np.float64)
    spread = np.exp(logvar / 2)
    assert np.abs((draws.mean(0) - mean) / spread).max() < 5 / np.sqrt(2000)
    assert np.abs(draws.std(0) / spread - 1).max() < 0.1
    np.testing.assert_array_equal(
        LatentDataset(tmp_path, sample=False)[0]["latents"], mean.astype(np.float32)
    )


def test_with_a_seed_draws_are_a_function_of_epoch_and_index(tmp_path):
    write_latents(tmp_path, stored="moments", sizes=[(2, 4, 4)] * 4)
    one, two = (LatentDataset(tmp_path, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one[1]["latents"], one[1]["latents"])
    np.testing.assert_array_equal(one[1]["latents"], two[1]["latents"])
    before = one[1]["latents"]
    one.epoch = 1
    assert np.abs(one[1]["latents"] - before).max() > 0.1
    moments = [two.stored(i).astype(np.float32) for i in range(4)]
    mean, logvar = np.split(moments[1], 2)
    drawn = draw(mean, logvar, np.random.default_rng((3, 0, 1)))
    np.testing.assert_array_equal(two[1]["latents"], drawn)


@pytest.mark.parametrize("value", [-1, 1.5, "x", None])
def test_a_seed_or_an_epoch_that_is_no_whole_number_is_an_error(tmp_path, value):
    write_latents(tmp_path, stored="moments")
    dataset = LatentDataset(tmp_path, seed=1)
    with pytest.raises(ValueError, match="seed is .*, expected a whole number from 0"):
        next(dataset.shuffled(seed=value))
    dataset.epoch = value
    for access in (lambda: dataset[0], lambda: next(dataset.shuffled())):
        with pytest.raises(ValueError, match="epoch is .*, expected a whole number from 0"):
            access()


def test_an_item_that_is_not_there_is_an_error_that_says_how_many_are(tmp_path):
    write_latents(tmp_path, sizes=[(2, 4, 4)] * 3)
    dataset = LatentDataset(tmp_path)
    np.testing.assert_array_equal(dataset[-1]["latents"], dataset[2]["latents"])
    for index in (3, -4):
        with pytest.raises(IndexError, match=f"item {index} of 3"):
            dataset[index]


# Order


def test_random_order_gives_each_item_once_and_again(tmp_path):
    arrays = write_latents(tmp_path, sizes=[(2, 4, 4)] * 30)
    dataset = LatentDataset(tmp_path)

    def order(**options):
        items = list(dataset.shuffled(**options))
        for item in items:
            np.testing.assert_array_equal(
                item["latents"], arrays[item["file"], item["clip"]].astype(np.float32)
            )
        return [(item["file"], item["clip"]) for item in items]

    first = order(seed=1, epoch=0)
    assert sorted(first) == sorted(arrays) and first != list(arrays)
    assert first == order(seed=1, epoch=0)
    assert len({tuple(order(seed=seed, epoch=epoch)) for seed in (1, 2) for epoch in (0, 1)}) == 4
    dataset.epoch = 1
    assert order(seed=1) == order(seed=1, epoch=1)


def test_shuffled_moments_are_drawn_by_seed_and_epoch(tmp_path):
    write_latents(tmp_path, stored="moments")
    dataset = LatentDataset(tmp_path)

    def items(epoch):
        return {(i["file"], i["clip"]): i["latents"] for i in dataset.shuffled(5, epoch)}

    first, again, next_epoch = items(0), items(0), items(1)
    for key in first:
        np.testing.assert_array_equal(first[key], again[key])
        assert np.abs(first[key] - next_epoch[key]).max() > 0.01


# Where it is used


def test_it_imports_no_framework():
    program = (
        "import sys; import mg.latents, mg.latents.stats; "
        "print({'torch', 'mindspore', 'av'} & {name.split('.')[0] for name in sys.modules})"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stdout.strip() == "set()", done.stderr


def test_it_leaves_no_thread(tmp_path):
    write_latents(tmp_path)
    program = """if True:
        import os, sys
        from mg.latents import LatentDataset
        before = {*os.listdir("/proc/self/task")}
        LatentDataset(sys.argv[1])[0]
        print({*os.listdir("/proc/self/task")} - before)
    """
    command = [sys.executable, "-c", program, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr


def test_it_can_be_pickled(tmp_path):
    arrays = write_latents(tmp_path)
    copy = pickle.loads(pickle.dumps(LatentDataset(tmp_path, scaled=True)))
    np.testing.assert_allclose(copy[3]["latents"], scaled(arrays["1.mp4", 1]), rtol=1e-5)


@pytest.mark.parametrize("context", ["fork", "spawn"])
def test_a_pytorch_data_loader_takes_it(tmp_path, context):
    data = pytest.importorskip("torch.utils.data")
    arrays = write_latents(tmp_path, sizes=[(2, 4, 4)] * 10)
    loader = data.DataLoader(
        LatentDataset(tmp_path),
        batch_size=4,
        shuffle=True,
        num_workers=2,
        multiprocessing_context=context,
    )
    seen = []
    for batch in loader:
        for latents, name, clip in zip(
            batch["latents"], batch["file"], batch["clip"].tolist(), strict=True
        ):
            np.testing.assert_array_equal(latents.numpy(), arrays[name, clip])
            seen.append((name, clip))
    assert sorted(seen) == sorted(arrays)


# What is wrong


def corrupt(path, offset, value=0xFF):
    data = bytearray(path.read_bytes())
    data[offset] ^= value
    path.write_bytes(data)


def read_shards(directory):
    return read_inventory(directory, make_encoding())


def refused(directory, *expected, read=LatentDataset):
    """Reading names what is wrong in one line."""
    with pytest.raises((ValueError, FileNotFoundError)) as error:
        read(directory)
    text = str(error.value)
    assert all(part in text for part in expected), text
    assert str(directory) in text
    return text


def test_a_damaged_number_is_found_when_it_is_read(tmp_path):
    write_latents(tmp_path, max_bytes=1 << 20)
    (path,) = shard_paths(tmp_path)
    corrupt(path, path.stat().st_size - 1, 0x01)
    dataset = LatentDataset(tmp_path)
    damaged = 0
    for index in range(len(dataset)):
        try:
            dataset[index]
        except ValueError as error:
            assert str(path) in str(error) and "damaged" in str(error)
            damaged += 1
    assert damaged == 1


def test_a_shard_that_shrinks_after_opening_is_named(tmp_path):
    write_latents(tmp_path, max_bytes=1 << 20)
    (path,) = shard_paths(tmp_path)
    dataset = LatentDataset(tmp_path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(ValueError, match="ends within"):
        for item in dataset:
            assert item
    path.unlink()
    with pytest.raises(FileNotFoundError):
        dataset[0]


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 100, -1])
def test_a_truncated_shard_is_refused_at_opening(tmp_path, kept):
    write_latents(tmp_path, max_bytes=1 << 20)
    (path,) = shard_paths(tmp_path)
    path.write_bytes(path.read_bytes()[:kept])
    refused(tmp_path, path.name, f"has {path.stat().st_size} bytes, the manifest tells of")
    refused(tmp_path, path.name, "not a whole shard", read=read_shards)


def test_a_longer_shard_is_refused(tmp_path):
    write_latents(tmp_path, max_bytes=1 << 20)
    (path,) = shard_paths(tmp_path)
    path.write_bytes(path.read_bytes() + b"\0")
    refused(tmp_path, path.name, "bytes", read=read_shards)


def forge(path, change):
    """Rewrite a shard's header."""
    data = path.read_bytes()
    length = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + length])
    for part in ("clips", "files", "encoding"):
        header["__metadata__"][part] = json.loads(header["__metadata__"][part])
    change(header)
    for part in ("clips", "files", "encoding"):
        header["__metadata__"][part] = json.dumps(header["__metadata__"][part])
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text + data[8 + length :])


def first_array(header):
    return next(value for key, value in header.items() if key != "__metadata__")


def first_clip(header):
    return header["__metadata__"]["clips"][0]


def tae_config(header):
    return header["__metadata__"]["encoding"]["tae_config"]


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda h: first_array(h).update(shape=[10**9, 10**9, 10**9, 10**9]), "entry"),
        (lambda h: first_array(h).update(shape=[-1, 3]), "entry"),
        (lambda h: first_array(h).update(shape=["3"]), "entry"),
        (lambda h: first_array(h).update(data_offsets=[0, 2**62]), "entry"),
        (lambda h: first_array(h).update(data_offsets=[-64, 704]), "entry"),
        (lambda h: first_array(h).update(shape=[10**4000] * 300), "entry"),
        (lambda h: first_array(h).update(shape=[2**64, 1, 1, 0]), "entry"),
        (lambda h: first_array(h).update(dtype="F64"), "entry"),
        (lambda h: first_array(h).update(dtype={}), "entry"),
        (lambda h: h.update(extra=3), "entry"),
        (lambda h: first_clip(h).update(frames=10**12), "expected"),
        (lambda h: first_clip(h).update(frames=0), "0 frames"),
        (lambda h: first_clip(h).update(frames="4"), "Clip"),
        (lambda h: first_clip(h).update(start=10**30), "Clip"),
        (lambda h: first_clip(h).update(fps=float("inf")), "Clip"),
        (lambda h: h["__metadata__"]["files"][0].update(file="\ud800"), "EncodedFile"),
        (lambda h: first_clip(h).update(height=-8), "Clip"),
        (lambda h: first_clip(h).update(width=1000), "expected"),
        (lambda h: first_clip(h).pop("crc32"), "Clip"),
        (lambda h: first_clip(h).update(key="other"), "arrays"),
        (lambda h: first_clip(h).update(other=1), "Clip"),
        (lambda h: h["__metadata__"]["clips"].append(first_clip(h)), "twice"),
        (lambda h: h["__metadata__"].update(clips=3), "Clip"),
        (lambda h: h["__metadata__"].update(format="other"), "mg latents shard"),
        (lambda h: h["__metadata__"]["encoding"].update(tae_config=[]), "how"),
        (lambda h: tae_config(h).update(z_channels=5), "expected"),
        (lambda h: tae_config(h).update(ch_mult=[1] * 99), "how"),
        (lambda h: tae_config(h).update(shift_factor=-(10**30)), "how"),
        (lambda h: tae_config(h).update(scaling_factor=9**999), "how"),
        (lambda h: h["__metadata__"]["encoding"]["settings"].update(stored="all"), "how"),
        (lambda h: h["__metadata__"]["encoding"]["settings"].update(stored=[]), "how"),
    ],
)
def test_a_forged_header_is_refused(tmp_path, change, expected):
    write_latents(tmp_path, max_bytes=1 << 20)
    (path,) = shard_paths(tmp_path)
    forge(path, change)
    refused(tmp_path, path.name, expected, read=read_shards)


@pytest.mark.parametrize("length", [0, 1, 10**6, 2**40, 2**63 + 5, 2**64 - 1])
def test_a_forged_header_length_is_refused(tmp_path, length):
    write_latents(tmp_path, max_bytes=1 << 20)
    (path,) = shard_paths(tmp_path)
    path.write_bytes(struct.pack("<Q", length) + path.read_bytes()[8:])
    refused(tmp_path, path.name, "not a whole shard", read=read_shards)


def test_a_header_nested_without_end_is_refused(tmp_path):
    write_latents(tmp_path, max_bytes=1 << 20)
    (path,) = shard_paths(tmp_path)
    path.write_bytes(struct.pack("<Q", 10**6) + b"[" * 10**6)
    refused(tmp_path, path.name, "JSON", read=read_shards)


def test_damaged_bytes_of_a_header_are_refused_or_harmless(tmp_path, rng):
    write_latents(tmp_path / "whole", max_bytes=1 << 20)
    whole = [item["latents"] for item in LatentDataset(tmp_path / "whole")]
    length = struct.unpack("<Q", shard_paths(tmp_path / "whole")[0].read_bytes()[:8])[0]
    for place in rng.choice(8 + length, 150, replace=False):
        directory = tmp_path / "damaged"
        shutil.rmtree(directory, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", directory)
        corrupt(shard_paths(directory)[0], place, int(rng.integers(1, 256)))
        try:
            write_manifest(directory, read_shards(directory).rows(), make_encoding())
            items = [item["latents"] for item in LatentDataset(directory)]
        except ValueError as error:
            assert str(directory) in str(error)
        else:
            for item in items:
                assert any(np.array_equal(item, expected) for expected in whole)


def test_a_missing_shard_is_named(tmp_path):
    write_latents(tmp_path)
    path = shard_paths(tmp_path)[1]
    path.unlink()
    refused(tmp_path, path.name, "no such shard")


def test_a_shard_of_another_checkpoint_or_config_is_named(tmp_path):
    write_latents(tmp_path)
    paths = shard_paths(tmp_path)
    path = next(path for path in paths if read_shard(path).clips)

    def other_checkpoint(header):
        header["__metadata__"]["encoding"]["checkpoint_sha256"] = "cd" * 32

    before = path.read_bytes()
    forge(path, other_checkpoint)
    refused(tmp_path, path.name, "another way", "cdcdcd", "ababab", read=read_shards)
    path.write_bytes(before)
    forge(path, lambda h: tae_config(h).update(shift_factor=0.5))
    refused(tmp_path, path.name, "shift_factor is 0.5, not 0.25", read=read_shards)


def test_a_manifest_that_does_not_match_its_shards_is_named(tmp_path):
    write_latents(tmp_path)
    dataset = LatentDataset(tmp_path)
    rows = [dataset.row(index) for index in range(len(dataset))]

    def change(**values):
        write_manifest(tmp_path, [rows[0]._replace(**values), *rows[1:]], dataset.encoding)

    for values, expected in (
        ({"offset": 10**15}, "the manifest tells of 1000000000000"),
        ({"frames": 10**6}, "the manifest tells of"),
        ({"frames": 2**62, "height": 2**62, "width": 2**62}, "the manifest tells of"),
        ({"frames": 0}, "'frames': 0"),
        ({"width": -8}, "'width': -8"),
        ({"offset": -1}, "'offset_min': -1"),
        ({"shard": "shard-0.safetensors"}, "no such shard"),
        ({"shard": "../shard-0.safetensors"}, "expected a shard's name"),
    ):
        change(**values)
        refused(tmp_path, expected)
    for values in ({"crc32": 1}, {"offset": 8}, {"width": 4}, {"shard": rows[-1].shard}):
        change(**values)
        with pytest.raises(ValueError, match=f"{rows[0].key} of 0.mp4 are damaged"):
            LatentDataset(tmp_path)[0]


def test_a_manifest_that_is_no_manifest_is_named(tmp_path):
    write_latents(tmp_path)
    path = tmp_path / MANIFEST
    whole = path.read_bytes()
    for damaged in (b"", b"PAR1", whole[:-10], whole[: len(whole) // 2], b"x" * 1000):
        path.write_bytes(damaged)
        refused(tmp_path, MANIFEST, "not a manifest")
    path.write_bytes(whole)
    table = parquet.read_table(path)
    for other in (
        table.replace_schema_metadata({}),
        table.drop(["key"]),
        table.set_column(0, "file", table["frames"]),
    ):
        parquet.write_table(other, path)
        refused(tmp_path, MANIFEST, "not a manifest")
    write_manifest(tmp_path, [], make_encoding())
    refused(tmp_path, "names no latents")
    path.unlink()
    refused(tmp_path, "no such manifest", "mg encode-dataset")


def test_a_small_manifest_that_would_fill_the_memory_is_refused(tmp_path):
    write_latents(tmp_path)
    path = tmp_path / MANIFEST
    table = parquet.read_table(path)
    parquet.write_table(table.take([0] * 2_000_000), path, compression="zstd")
    assert path.stat().st_size < 300_000
    refused(tmp_path, MANIFEST, "times as many")


def test_damaged_bytes_of_a_manifest_are_refused_or_harmless(tmp_path, rng):
    write_latents(tmp_path)
    path = tmp_path / MANIFEST
    whole, before = path.read_bytes(), [*LatentDataset(tmp_path)]
    for place in rng.choice(len(whole), 600, replace=False):
        path.write_bytes(whole)
        corrupt(path, place, int(rng.integers(1, 256)))
        try:
            items = [*LatentDataset(tmp_path)]
        except (ValueError, FileNotFoundError) as error:
            assert str(tmp_path) in str(error)
            continue
        for item, known in zip(items, before, strict=True):
            np.testing.assert_array_equal(item.pop("latents"), known["latents"])
            assert item.items() <= known.items()


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        *[(name, None, f"'{name}' has empty places") for name in ("frames", "key", "stored")],
        ("stored", "sample", "a row's stored is 'sample', expected 'mean'"),
        ("scaled", True, "a row's scaled is True, expected False"),
        ("checkpoint_sha256", "cd" * 32, "a row's checkpoint_sha256 is 'cdcd"),
    ],
)
def test_a_row_of_the_manifest_that_is_not_as_the_others_is_refused(
    tmp_path, name, value, expected
):
    write_latents(tmp_path)
    path = tmp_path / MANIFEST
    table = parquet.read_table(path)
    field, place = table.schema.field(name), table.schema.get_field_index(name)
    changed = pa.array([value, *table[name].to_pylist()[1:]], field.type)
    parquet.write_table(table.set_column(place, field, changed), path)
    refused(tmp_path, expected)


def test_a_manifest_older_than_the_shards_is_warned_of(tmp_path, caplog):
    write_latents(tmp_path)
    encoding = LatentDataset(tmp_path).encoding
    rows = [LatentDataset(tmp_path).row(index) for index in range(len(SIZES))]
    assert not caplog.records
    kept = [row for row in rows if row.file != "1.mp4"]
    write_manifest(tmp_path, kept, encoding)
    with caplog.at_level(logging.WARNING):
        dataset = LatentDataset(tmp_path)
    assert len(dataset) == len(kept)
    assert "lacks 1 videos" in caplog.text


def test_a_file_that_lacks_a_clip_has_no_row(tmp_path):
    write_latents(tmp_path, max_bytes=1)
    rows = read_inventory(tmp_path, make_encoding()).rows()
    (tmp_path / rows[0].shard).unlink()
    left = read_inventory(tmp_path, make_encoding()).rows()
    assert left == [row for row in rows if row.file != rows[0].file]


def test_scaled_moments_are_refused(tmp_path):
    with pytest.raises(ValueError, match="it does not say how its latents were encoded"):
        write_latents(tmp_path, stored="moments", scaled=True)


def test_a_shard_lists_no_more_than_so_many_clips_and_files(tmp_path, monkeypatch):
    monkeypatch.setattr(shard_writer, "_MAX_RECORDS", 3)
    arrays = write_latents(tmp_path, max_bytes=10**6)
    shards = [read_shard(path) for path in shard_paths(tmp_path)]
    assert max(len(shard.clips) + len(shard.files) for shard in shards) == 3
    assert sum(len(shard.clips) for shard in shards) == len(arrays)


def test_a_data_set_is_found_from_another_directory(tmp_path, monkeypatch):
    (tmp_path / "other").mkdir()
    write_latents(tmp_path)
    monkeypatch.chdir(tmp_path)
    dataset = LatentDataset(".")
    monkeypatch.chdir(tmp_path / "other")
    assert dataset[0]["latents"].ndim == 4


@pytest.mark.parametrize("seed", [-1, 1.5])
def test_a_seed_that_is_no_whole_number_is_refused_at_once(tmp_path, seed):
    write_latents(tmp_path)
    with pytest.raises(ValueError, match=f"seed is {seed}, expected a whole number from 0"):
        LatentDataset(tmp_path, seed=seed)
