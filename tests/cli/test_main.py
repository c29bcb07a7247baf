"""The program `mg`, as a user starts it."""

import sys
from importlib.metadata import version
from pathlib import Path

import pytest

import mg.cli
from mg.cli.command import INTERRUPTED
from mg.cli.main import COMMANDS, main

from .support import run, run_process

pytestmark = pytest.mark.once

NO_COMMANDS = {"__init__", "command", "main"}  # command.py is what commands share


def test_every_command_of_the_room_is_offered():
    files = {path.stem for path in Path(mg.cli.__file__).parent.glob("*.py")} - NO_COMMANDS
    assert {name.replace("-", "_") for name in COMMANDS} == files


def test_the_version_is_that_of_the_installed_package(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"mg {version('moviegen-tae')}\n"


def test_help_lists_each_command_with_one_line(capsys):
    outcome = run(main, ["--help"], capsys)
    assert outcome.code == 0
    assert outcome.err == []
    for name, text in COMMANDS.items():
        assert [line.split(maxsplit=1) for line in outcome.out].count([name, text]) == 1


@pytest.mark.parametrize("args", [[], ["trian"], ["--verbose"], ["mg.cli.train"], [""]])
def test_anything_but_a_command_is_refused_in_one_line(args, capsys):
    run(main, args, capsys).assert_refused("mg: error:", *args, "train", "mg --help")


@pytest.mark.parametrize("name", COMMANDS)
def test_each_command_has_its_own_help_and_name(name, tmp_path):
    outcome = run_process("-m", "mg", name, "--help", cwd=tmp_path)
    assert outcome.code == 0, outcome.err
    assert outcome.out[0].startswith(f"usage: mg {name}")
    assert outcome.err == []


def test_exit_codes_and_errors_are_the_commands(tmp_path):
    args = ["-m", "mg", "prepare", "nowhere", "--out", "csv"]
    run_process(*args, cwd=tmp_path).assert_refused("nowhere: no such folder of videos")
    unknown = run_process("-m", "mg", "prepare", "x", "--output", "y", cwd=tmp_path)
    unknown.assert_refused("mg prepare: error:")


def test_ctrl_c_during_the_imports_of_a_command_ends_in_one_line(tmp_path):
    (tmp_path / "script.py").write_text(
        "import signal, sys\nfrom mg.cli.main import main\n"
        "class Interrupting:\n"
        "    def find_spec(self, name, *_):\n"
        "        if name == 'mg.cli.stats':\n"
        "            signal.raise_signal(signal.SIGINT)\n"
        "sys.meta_path.insert(0, Interrupting())\n"
        "sys.exit(main(['stats', 'latents']))\n"
    )
    outcome = run_process("script.py", cwd=tmp_path)
    assert (outcome.code, outcome.out, outcome.err) == (INTERRUPTED, [], ["interrupted"])


def test_listing_commands_imports_none_of_them(tmp_path):
    (tmp_path / "script.py").write_text(
        "import sys\nfrom mg.cli.main import main\nmain(['--help'])\n"
        "print([m for m in ('numpy', 'av', 'torch', 'mindspore') if m in sys.modules])\n"
    )
    root = str(Path(mg.cli.__file__).parents[2])
    outcome = run_process("script.py", cwd=tmp_path, PYTHONPATH=root)
    assert outcome.out[-1] == "[]"


def test_the_installed_program_is_this_one(tmp_path):
    from importlib.metadata import entry_points

    declared = {point.name: point.value for point in entry_points(group="console_scripts")}
    if "mg" not in declared:
        pytest.skip("installed before there was a program")
    assert declared["mg"] == "mg.cli.main:main"
    assert (Path(sys.executable).parent / "mg").is_file()
