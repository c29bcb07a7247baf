"""The commands as a user starts them: in processes of their own, from another directory."""

import json
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from mg import backend
from mg.cli import command, main
from mg.cli.command import parse, settings_parser
from mg.inference.settings import FileEncoding

from .support import (
    ROOT,
    data_flags,
    flags,
    run,
    run_process,
    train_flags,
    write_dataset,
    write_index,
)

SCRIPTS = {
    "scripts/train_tae.py": "--config",
    "scripts/inference_tae.py": "--ckpt_path",
    "inflate_vae_to_tae.py": "--src",
}
CHECKPOINT = f"tae{backend.checkpoint_suffix}"

HIDE_FRAMEWORKS = """
import importlib.util

find_spec = importlib.util.find_spec


def without_frameworks(name, package=None):
    return None if name in ("mindspore", "torch") else find_spec(name, package)


importlib.util.find_spec = without_frameworks
"""


def of_python(args):
    bytes(1 << 62)


def of_numpy(args):
    np.empty(1 << 60, np.uint8)


def of_the_framework(args):
    column = backend.from_numpy(np.ones((1 << 21, 1), np.float32))
    backend.to_numpy(column * column.reshape(1, -1))


@pytest.mark.parametrize(
    ("takes_too_much", "told"),
    [
        (of_python, "error: out of memory$"),
        (of_numpy, "error: out of memory: Unable to allocate"),
        (of_the_framework, "error: out of memory: ."),
    ],
)
def test_a_lack_of_memory_is_told_in_one_line(capsys, takes_too_much, told):
    outcome = run(lambda args: command.run(takes_too_much, args), [], capsys)
    outcome.assert_refused("out of memory")
    assert re.match(told, outcome.err[0])


def test_train_then_evaluate_from_another_directory(tmp_path):
    folder = write_dataset(tmp_path, ["a.mp4", "b.mp4"])
    write_index(folder, ["a.mp4", "b.mp4", "none.mp4"])
    (tmp_path / "recipe.yaml").write_text("seed: 3\ntrain_steps: 50\nnum_workers: 1\n")
    config = ["--config", "recipe.yaml"]
    args = train_flags(".", "run", csv_path="videos.csv", train_steps=1, num_workers=1)
    script = ROOT / "scripts" / "train_tae.py"
    trained = run_process(script, *config, *args, cwd=tmp_path)
    assert trained.code == 0, trained.err
    assert trained.out == [f"Trained. Checkpoint: run/{CHECKPOINT}"]
    assert "seed: 3" in (tmp_path / "run" / "recipe.yaml").read_text()

    options = data_flags(".", "recons") | {"ckpt_path": f"run/{CHECKPOINT}", "batch_size": 2}
    options |= {"num_frames": 4, "image_size": 16, "compile": False}
    del options["output_path"]
    script = ROOT / "scripts" / "inference_tae.py"
    evaluated = run_process(script, *flags(**options), cwd=tmp_path)
    assert evaluated.code == 1, evaluated.err
    assert "means over 2 videos, 1 failed" in evaluated.out[0]
    assert not any("Traceback" in line for line in evaluated.err)
    recons = tmp_path / "samples" / "recons"
    assert (recons / "a_side_by_side.mp4").is_file()
    assert json.loads((recons / "metrics.json").read_text())["failed"] == 1


@pytest.mark.once
@pytest.mark.parametrize("script", SCRIPTS)
def test_an_unknown_backend_is_one_line(tmp_path, script):
    args = {
        "scripts/train_tae.py": train_flags(tmp_path, "run"),
        "scripts/inference_tae.py": flags(ckpt_path="x", csv_path="x", video_folder="x"),
        "inflate_vae_to_tae.py": flags(src="x", target="x.safetensors"),
    }[script]
    outcome = run_process(ROOT / script, *args, cwd=tmp_path, backend="nonsense")
    outcome.assert_refused("MG_BACKEND", "nonsense", "mindspore", "torch")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.once
@pytest.mark.parametrize("backend", ["", "mindspore", "torch"])
def test_without_a_framework_one_line_says_what_to_install(tmp_path, backend):
    hidden = tmp_path / "hidden"
    hidden.mkdir()
    (hidden / "sitecustomize.py").write_text(HIDE_FRAMEWORKS)
    args = flags(src="x.safetensors", target="tae.safetensors")
    outcome = run_process(
        ROOT / "inflate_vae_to_tae.py",
        *args,
        cwd=tmp_path,
        backend=backend,
        PYTHONPATH=str(hidden),
    )
    if backend:
        outcome.assert_refused("MG_BACKEND", f"{backend} is not installed")
    else:
        outcome.assert_refused("neither", "pip install mindspore", "pip install torch")


@pytest.mark.once
def test_the_usage_of_a_command_is_what_it_cannot_do_without(capsys):
    for name, expected in (
        ("reconstruct", "[OPTIONS] source target"),
        ("evaluate", "--ckpt_path CKPT_PATH --csv_path CSV_PATH --video_folder VIDEO_FOLDER "),
    ):
        outcome = run(main.main, [name, "--help"], capsys)
        assert outcome.out[0].startswith(f"usage: mg {name} {expected}")


@pytest.mark.once
@pytest.mark.parametrize(("script", "option"), SCRIPTS.items())
def test_help_comes_from_any_directory(tmp_path, script, option):
    outcome = run_process(ROOT / script, "--help", cwd=tmp_path)
    assert outcome.code == 0
    assert option in "\n".join(outcome.out)
    assert outcome.err == []


@pytest.mark.once
@pytest.mark.parametrize(
    ("args", "scaled", "compiles"),
    [
        (["a.mp4", "b"], False, None),
        (["a.mp4", "b", "--compile", "--scaled"], True, True),
        (["--scaled", "--compile", "false", "a.mp4", "b"], True, False),
        (["--compile=null", "--scaled", "False", "a.mp4", "b"], False, None),
    ],
)
def test_a_flag_without_a_value_is_true(args, scaled, compiles):
    parser = settings_parser(FileEncoding, "", source="", target="")
    settings = parse(parser, FileEncoding, args)
    assert (settings.source, settings.target) == ("a.mp4", "b")
    assert (settings.scaled, settings.compile) == (scaled, compiles)


@pytest.mark.once
def test_errors_become_one_line_and_an_exit_code(capsys):
    for error, code, line in (
        (ValueError("a\n  b"), 2, "error: a b"),
        (FileNotFoundError("no file"), 2, "error: no file"),
        (ImportError("no framework"), 2, "error: no framework"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ):

        def fails(args, error=error):
            raise error

        assert command.run(fails, []) == code
        assert capsys.readouterr().err.splitlines() == [line]


@pytest.mark.once
def test_a_developer_may_see_where_an_error_comes_from(monkeypatch):
    def fails(args):
        raise ValueError("a mistake")

    monkeypatch.setenv("MG_TRACEBACK", "1")
    with pytest.raises(ValueError, match="a mistake"):
        command.run(fails, [])


@pytest.mark.once
def test_a_file_of_options_names_no_file_to_work_on(tmp_path, capsys):
    config = tmp_path / "a.yaml"
    config.write_text("source: a.mp4\n")
    args = ["encode", "--config", config, "b.mp4", tmp_path / "b.safetensors"]
    outcome = run(main.main, args, capsys)
    outcome.assert_refused(str(config), "a key source, expected that on the command line")


@pytest.mark.once
def test_output_may_be_closed(tmp_path):
    for closed, code in (("1>&-", 0), ("2>&-", 0)):
        line = f"{sys.executable} -m mg encode-dataset --help {closed}"
        done = subprocess.run(["bash", "-c", line], capture_output=True, text=True)
        assert done.returncode == code, done
        assert "Traceback" not in done.stderr


@pytest.mark.once
def test_output_on_a_full_disk_is_one_line(monkeypatch):
    monkeypatch.setenv("PYTHONUNBUFFERED", "")  # what is printed waits until the end
    with open("/dev/full", "w") as full:
        program = "import sys; from mg.cli.command import run; sys.exit(run(print, ['found']))"
        line = [sys.executable, "-c", program]
        done = subprocess.run(line, stdout=full, stderr=subprocess.PIPE, text=True)
    assert done.returncode == 2
    assert done.stderr == "error: standard output: No space left on device\n"


HOSTILE = "a\x1b]0;title\x07\x9b\udcff"
SHOWN = r"a\x1b]0;title\x07\x9b\udcff"


@pytest.mark.once
def test_what_a_strangers_file_says_does_not_command_the_terminal(capsys):
    def fails(args):
        raise ValueError(HOSTILE)

    assert command.run(fails, []) == 2
    assert capsys.readouterr().err == f"error: {SHOWN}\n"

    def endless(args):
        raise ValueError("a" * 10**6)

    assert command.run(endless, []) == 2
    assert len(capsys.readouterr().err) < 3000


@pytest.mark.once
def test_a_name_with_a_line_break_forges_no_other_message(tmp_path):
    program = f"""
import logging
from mg.cli.command import run
def command(args):
    logging.getLogger("mg").warning("%s: bad", {HOSTILE + chr(10) + "ERROR: forged"!r})
    print({HOSTILE!r})
raise SystemExit(run(command, []))
"""
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**os.environ, "PYTHONIOENCODING": "utf-8"},
    )
    assert done.returncode == 0
    assert done.stderr.splitlines() == [f"WARNING: {SHOWN}", "  ERROR: forged: bad"]
    assert r"\udcff" in done.stdout


@pytest.mark.once
def test_our_own_mistakes_are_not_hidden():
    def fails(args):
        raise AttributeError("a bug")

    with pytest.raises(AttributeError):
        command.run(fails, [])


@pytest.mark.once
def test_exit_code_is_the_commands():
    assert command.run(lambda args: None, []) == 0
    assert command.run(lambda args: 1, []) == 1


@pytest.mark.once
def test_sigterm_is_an_interruption_too_and_only_within_a_command(capsys):
    # MindSpore turns Ctrl-C into SIGTERM while it runs a graph.
    before = signal.getsignal(signal.SIGTERM)

    def waits(args):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(10)

    assert command.run(waits, []) == 130
    assert capsys.readouterr().err.splitlines() == ["interrupted"]
    assert signal.getsignal(signal.SIGTERM) == before
