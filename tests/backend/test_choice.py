"""MG_BACKEND, or what is installed, chooses the framework."""

import os
import subprocess
import sys
from importlib.util import find_spec

import pytest

pytestmark = pytest.mark.once

HIDE = """
import importlib.util
find_spec = importlib.util.find_spec
hidden = {hidden!r}
{before}
importlib.util.find_spec = lambda name, *args: None if name in hidden else find_spec(name, *args)
from mg.backend import name
print(name)
"""


def choose(requested=None, hidden=(), before=""):
    """The name chosen in a process of its own where frameworks are hidden, after a statement, and
    its errors."""
    environment = {key: value for key, value in os.environ.items() if key != "MG_BACKEND"}
    if requested is not None:
        environment["MG_BACKEND"] = requested
    finished = subprocess.run(
        [sys.executable, "-c", HIDE.format(hidden=hidden, before=before)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    return finished.stdout.strip(), finished.stderr.strip().splitlines()


def needs(*frameworks):
    missing = [name for name in frameworks if find_spec(name) is None]
    return pytest.mark.skipif(bool(missing), reason=f"{missing} not installed")


@needs("mindspore", "torch")
def test_mindspore_comes_first_where_nothing_is_asked_for():
    assert choose()[0] == "mindspore"


@needs("mindspore", "torch")
def test_one_that_is_imported_comes_before_one_that_is_not():
    assert choose(before="import torch")[0] == "torch"
    assert choose(before="import mindspore")[0] == "mindspore"
    assert choose(before="import torch, mindspore")[0] == "mindspore"
    assert choose(requested="mindspore", before="import torch")[0] == "mindspore"


@needs("torch")
def test_torch_is_used_where_mindspore_is_not_installed():
    assert choose(hidden=("mindspore",))[0] == "torch"
    assert choose(requested="", hidden=("mindspore",))[0] == "torch"


@needs("torch")
def test_what_is_asked_for_is_used():
    assert choose(requested="torch")[0] == "torch"


@pytest.mark.parametrize("requested", ["pytorch", "MindSpore", "jax"])
def test_an_unknown_name_is_an_error(requested):
    name, errors = choose(requested)
    assert name == ""
    assert errors[-1] == (
        f"ImportError: MG_BACKEND is {requested!r}, expected 'mindspore' or 'torch'"
    )


@pytest.mark.parametrize("requested", ["mindspore", "torch"])
def test_asking_for_what_is_not_installed_is_an_error(requested):
    _, errors = choose(requested, hidden=(requested,))
    assert errors[-1] == (
        f"ImportError: MG_BACKEND is {requested!r}, but {requested} is not installed"
    )


def test_neither_installed_is_an_error_that_says_what_to_install():
    _, errors = choose(hidden=("mindspore", "torch"))
    assert errors[-1].startswith("ImportError: neither MindSpore nor PyTorch is installed: ")
    assert "pip install mindspore==2.8.0" in errors[-1]
    assert "pip install torch" in errors[-1]
