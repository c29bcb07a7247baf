"""The latent file: what is written comes back, and nothing else is believed."""

import json
import tracemalloc
import zlib
from dataclasses import replace
from fractions import Fraction

import numpy as np
import pytest
import safetensors.numpy
from data.full_disk import small_disk

from mg.latents.file import FORMAT, LatentFile, Video, write_latents

from .latent_files import make_encoding

pytestmark = pytest.mark.once

VIDEO = Video("a clip.mp4", 9, 10, 12, Fraction(30000, 1001))
SHAPE = (3, 5, 5, 6)  # of a network that compresses 2x, of 3 channels
TIMES = np.cumsum([0, 0.1, 0.02, 0.3, 0.04, 0.1, 0.1, 0.2, 0.25])


@pytest.fixture
def z(rng):
    return rng.standard_normal(SHAPE).astype(np.float32)


def write(path, z, video=VIDEO, pieces=2, **settings):
    chunks = [z[:, start : start + pieces] for start in range(0, z.shape[1], pieces)]
    write_latents(path, chunks, make_encoding(**settings), lambda: video)
    return path


def read_all(path, num_latents=2):
    return np.concatenate([*LatentFile(path).read(num_latents)], axis=1)


@pytest.mark.parametrize("pieces", [1, 2, 5])
@pytest.mark.parametrize("num_latents", [1, 3, 100])
def test_latents_come_back_bit_by_bit_in_any_pieces(tmp_path, z, pieces, num_latents):
    path = write(tmp_path / "z.safetensors", z, pieces=pieces)
    assert np.array_equal(read_all(path, num_latents), z)


def test_the_file_says_what_decoding_takes(tmp_path, z):
    path = write(tmp_path / "z.safetensors", z, replace(VIDEO, times=TIMES), stored="sample")
    latents = LatentFile(path)
    assert latents.shape == SHAPE
    assert latents.encoding == make_encoding(stored="sample")
    assert replace(latents.video, times=None) == VIDEO
    assert np.array_equal(latents.video.times, TIMES)
    # Readable without this package.
    with safetensors.safe_open(path, framework="np") as file:
        assert sorted(file.keys()) == ["latents", "times"]
        assert np.array_equal(file.get_tensor("latents"), z)
        assert file.metadata()["format"] == FORMAT
        assert json.loads(file.metadata()["encoding"])["settings"]["scaled"] is False
        assert json.loads(file.metadata()["video"])["fps"] == "30000/1001"


def test_every_frame_rate_of_ffmpeg_comes_back(tmp_path, z):
    for fps in (Fraction(2**31 - 1, 2**31 - 2), Fraction(1, 2**31 - 1), Fraction(2**31 - 1)):
        path = write(tmp_path / "z.safetensors", z, replace(VIDEO, fps=fps))
        assert LatentFile(path).video.fps == fps


def test_a_constant_rate_needs_no_times(tmp_path, z):
    assert LatentFile(write(tmp_path / "z.safetensors", z)).video == VIDEO


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_raw_latents_come_back_whether_the_file_holds_raw_or_scaled_ones(tmp_path, z, precision):
    error = 1e-6 if precision == "fp32" else 4e-3
    for scaled in (False, True):
        path = write(tmp_path / f"{scaled}.safetensors", z, scaled=scaled, precision=precision)
        assert np.abs(read_all(path) - z).max() < error
    with safetensors.safe_open(tmp_path / "True.safetensors", framework="np") as file:
        stored = file.get_tensor("latents")
    assert stored.dtype == (np.float32 if precision == "fp32" else np.float16)
    assert np.abs(stored - 1.5 * (z - 0.25)).max() < 2 * error


def test_memory_does_not_grow_with_the_length(tmp_path):
    peaks = []
    for frames in (200, 1600):
        chunks = (np.full((3, 1, 32, 32), t, np.float32) for t in range(frames))
        video = Video("a.mp4", 2 * frames, 64, 64, Fraction(25))
        tracemalloc.start()
        write_latents(tmp_path / "z.safetensors", chunks, make_encoding(), lambda v=video: v)
        latents = LatentFile(tmp_path / "z.safetensors")
        for t, chunk in enumerate(latents.read(1)):
            assert (chunk == t).all()
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < 1.5 * peaks[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": np.full(SHAPE, np.nan, np.float32)}, "not finite numbers in float32"),
        ({"z": np.full(SHAPE, 1e6, np.float32), "precision": "fp16"}, "not finite .* float16"),
        ({"video": replace(VIDEO, frames=11)}, "latents of another size"),
        ({"video": replace(VIDEO, width=13)}, "latents of another size"),
        ({"name": "z.ckpt"}, "expected a latent file named"),
    ],
)
def test_what_is_no_video_is_not_written(tmp_path, z, change, message):
    options = {"z": z, "name": "z.safetensors", **change}
    name = options.pop("name")
    with pytest.raises(ValueError, match=message):
        write(tmp_path / name, **options)
    assert list(tmp_path.iterdir()) == []


def test_an_interrupted_write_leaves_the_old_file(tmp_path, z):
    path = write(tmp_path / "z.safetensors", z)
    before = path.read_bytes()

    def interrupted():
        yield z[:, :2]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_latents(path, interrupted(), make_encoding(), lambda: VIDEO)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("frames", "side", "size"),
    [
        pytest.param(4, 64, "100k", id="before the last chunk"),
        pytest.param(4, 64, "260k", id="after the last chunk"),
        pytest.param(200, 8, "100k", id="chunks smaller than buffers"),
    ],
)
def test_a_full_disk_is_one_line_and_leaves_nothing(tmp_path, frames, side, size):
    chunks = [np.ones((3, 1, side, side), np.float32)] * frames
    video = Video("a.mp4", 2 * frames, 2 * side, 2 * side, Fraction(25))
    with small_disk(tmp_path / "disk", size) as disk:
        with pytest.raises(OSError, match="z.safetensors: cannot be written: No space left"):
            write_latents(disk / "z.safetensors", chunks, make_encoding(), lambda: video)
        assert list(disk.iterdir()) == []


def assert_refused(path, *messages):
    with pytest.raises(ValueError) as caught:
        [*LatentFile(path).read(2)]
    text = str(caught.value)
    assert text.startswith(f"{path}: ")
    assert "\n" not in text
    for message in messages:
        assert message in text


def test_every_cut_and_every_flipped_byte_is_noticed(tmp_path, z, rng):
    content = write(tmp_path / "z.safetensors", z, replace(VIDEO, times=TIMES)).read_bytes()
    path = tmp_path / "bad.safetensors"
    for length in [0, 1, 7, 8, 9, 100, *rng.integers(0, len(content), 40), len(content) - 1]:
        path.write_bytes(content[:length])
        assert_refused(path)
    path.write_bytes(content + b"\0")
    assert_refused(path)
    start = 8 + int.from_bytes(content[:8], "little")
    for place in [*rng.integers(0, start, 200), *rng.integers(start, len(content), 40)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << int(rng.integers(8))
        path.write_bytes(damaged)
        assert_refused(path, *(["checksum"] if place >= start else []))


def test_another_size_or_rate_in_the_header_is_noticed(tmp_path, z):
    content = write(tmp_path / "z.safetensors", z).read_bytes()
    for old, new in ((rb"height\": 10", rb"height\": 11"), (rb"30000/1001", rb"20000/1001")):
        assert content.count(old) == 1
        (tmp_path / "bad.safetensors").write_bytes(content.replace(old, new))
        assert_refused(tmp_path / "bad.safetensors", "checksum")


def test_what_is_no_latent_file_is_named(tmp_path, z):
    path = tmp_path / "z.safetensors"
    safetensors.numpy.save_file({"latents": z}, path)
    assert_refused(path, f"expected a safetensors file whose format is '{FORMAT}'")
    path.write_bytes(b"hello, I am a text\n" * 100)
    assert_refused(path, "not a whole safetensors file")
    path.write_bytes((1 << 62).to_bytes(8, "little") + bytes(100))
    assert_refused(path, "not a whole safetensors file")
    with pytest.raises(FileNotFoundError, match="none.safetensors: no such file"):
        LatentFile(tmp_path / "none.safetensors")
    with pytest.raises(FileNotFoundError, match="is a folder"):
        LatentFile(tmp_path)


def forge(path, arrays, **metadata):
    """Rewrite a latent file with other arrays and metadata, and the checksum that they need."""
    with safetensors.safe_open(path, framework="np") as file:
        old = file.metadata()
    kept = {**old, **metadata, "crc32": "0" * 8}
    safetensors.numpy.save_file(
        arrays, path, {key: value for key, value in kept.items() if value is not None}
    )
    content = path.read_bytes()
    checksum = f'"{zlib.crc32(content):08x}"'.encode()
    path.write_bytes(content.replace(b'"00000000"', checksum))


def described(**changes):
    video = {"source": "a.mp4", "frames": 9, "height": 10, "width": 12, "fps": "25/1"}
    return json.dumps({**video, **changes})


@pytest.mark.parametrize(
    "video",
    [
        None,
        "",
        "[]",
        "not JSON",
        "[" * 100_000,
        described(frames=0),
        described(frames=-9),
        described(frames=9.0),
        described(frames=True),
        described(frames="9"),
        described(fps="0/1"),
        described(fps="25/0"),
        described(fps="4294967295/1"),
        described(fps="1/4294967295"),
        described(fps="1e999999999"),
        described(fps=25),
        described(source=3),
        described(times=[0]),
        described(more=1),
        described(height=None),
    ],
)
def test_a_forged_description_is_refused(tmp_path, z, video):
    path = write(tmp_path / "z.safetensors", z)
    forge(path, {"latents": z}, video=video)
    assert_refused(path, "it does not say what video it is of")


@pytest.mark.parametrize(
    ("video", "shape"),
    [
        (described(frames=11), SHAPE),
        (described(frames=10**18), SHAPE),
        (described(height=8), SHAPE),
        (described(width=10**9, height=10**9), SHAPE),
        (described(), (3, 5, 5, 7)),
        (described(), (2, 5, 5, 6)),
        (described(), (3, 5, 30)),
        (described(), (1, 3, 5, 5, 6)),
        (described(), (3, 0, 5, 6)),
    ],
)
def test_latents_that_do_not_fit_their_video_are_refused(tmp_path, z, video, shape):
    path = write(tmp_path / "z.safetensors", z)
    forge(path, {"latents": np.zeros(shape, np.float32)}, video=video)
    assert_refused(path, "latents are F32", "expected F32")


def test_other_numbers_than_stated_are_refused(tmp_path, z):
    path = write(tmp_path / "z.safetensors", z)
    for arrays, message in (
        ({"latents": z.astype(np.float64)}, "latents are F64"),
        ({"latents": z.astype(np.float16)}, "latents are F16"),
        ({"latent": z}, "it holds no 'latents'"),
        ({"latents": np.where(z > 1, np.nan, z)}, "NaN or infinite"),
        ({"latents": np.where(z > 1, np.inf, z)}, "NaN or infinite"),
        ({"latents": z, "times": TIMES[:8]}, "times are"),
        ({"latents": z, "times": TIMES.astype(np.float32)}, "times are"),
        ({"latents": z, "times": TIMES[::-1].copy()}, "times do not begin with 0 and increase"),
        ({"latents": z, "times": TIMES + 1}, "times do not begin with 0 and increase"),
        ({"latents": z, "times": TIMES * np.nan}, "times do not begin with 0 and increase"),
        ({"latents": z, "times": TIMES * 1e9}, "times do not begin with 0 and increase"),
    ):
        forge(path, arrays)
        assert_refused(path, message)


@pytest.mark.parametrize(
    "change",
    [
        {"z_channels": 0},
        {"z_channels": "3"},
        {"ch_mult": []},
        {"ch_mult": [1] * 60},
        {"scaling_factor": 0},
        {"scaling_factor": float("nan")},
        {"scaling_factor": "1"},
        {"shift_factor": float("inf")},
    ],
)
def test_a_forged_config_is_refused(tmp_path, z, change):
    path = write(tmp_path / "z.safetensors", z)
    encoding = json.loads(make_encoding().to_json())
    encoding["tae_config"] = {**encoding["tae_config"], **change}
    forge(path, {"latents": z}, encoding=json.dumps(encoding))
    assert_refused(path, "it does not say how its latents were encoded")


def test_moments_are_no_latents_of_one_video(tmp_path, z):
    path = write(tmp_path / "z.safetensors", z)
    forge(path, {"latents": z}, encoding=make_encoding(stored="moments").to_json())
    assert_refused(path, "'moments', expected 'mean' or 'sample'")
