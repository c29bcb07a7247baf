"""The rooms of mg/ and who may enter whom, read from the imports."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

import mg

pytestmark = pytest.mark.once

ROOT = Path(mg.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
MAY_ENTER = {
    "cli": {
        "training",
        "inference",
        "evaluation",
        "losses",
        "latents",
        "data",
        "models",
        "options",
        "ranks",
        "interruption",
    },
    "training": {
        "evaluation",
        "losses",
        "data",
        "models",
        "backend",
        "options",
        "ranks",
        "interruption",
    },
    "inference": {
        "evaluation",
        "latents",
        "data",
        "models",
        "backend",
        "ranks",
        "interruption",
        "memory",
    },
    "evaluation": {"losses", "data", "models", "backend", "ranks", "journal"},
    "losses": {"backend"},
    "data": {"journal"},
    "latents": {"models"},
    "models": {"backend"},
    "ranks": {"backend"},
    "backend": {"memory"},
    "arrays": {"files"},
    "files": set(),
    "journal": set(),
    "interruption": set(),
    "memory": set(),
    "options": set(),
    "ranges": set(),
    "__main__": {"cli"},
}
FRAMEWORKS = {"torch", "mindspore"}
WITHOUT_BACKEND = [
    "data",
    "latents",
    "evaluation/metrics.py",
    "evaluation/settings.py",
    "training/recipe.py",
    "arrays.py",
    "files.py",
    "journal.py",
]


def module_name(file):
    parts = ["mg", *file.relative_to(ROOT).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {module_name(file): file for file in FILES}


def imports(file, tree=None):
    """Every module that a file (or a part of it) imports, wherever in it that stands."""
    for node in ast.walk(tree or ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            for alias in node.names:
                name = f"{node.module}.{alias.name}"
                yield name if name in MODULES else node.module


def room(module):
    """ "models" for mg.models.tae.tae; None for mg itself and for what is not ours."""
    parts = module.split(".")
    return parts[1] if parts[0] == "mg" and len(parts) > 1 else None


def relative(file):
    return file.relative_to(ROOT).as_posix()


def test_every_room_is_known():
    assert {room(module) for module in MODULES} - {None} == set(MAY_ENTER)


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_rooms_are_entered_downward_only(file):
    own = room(module_name(file))
    for module in imports(file):
        entered = room(module)
        if (
            entered is None
            or entered == own
            or entered in ("arrays", "files", "ranges")
            or own is None
        ):
            continue
        assert entered in MAY_ENTER[own], f"mg/{relative(file)} imports {module}"


def test_latents_know_of_the_models_their_config_alone():
    entered = {
        module
        for file in FILES
        if room(module_name(file)) == "latents"
        for module in imports(file)
        if room(module) == "models"
    }
    assert entered == {"mg.models.tae.config"}


def test_no_modules_import_each_other_in_a_circle():
    graph = {
        name: {module for module in imports(file) if module in MODULES and module != name}
        for name, file in MODULES.items()
    }
    graph["mg.backend"] -= {"mg.backend.torch", "mg.backend.mindspore"}  # chosen, then re-exported
    finished, path = set(), []

    def visit(name):
        assert name not in path, " -> ".join([*path[path.index(name) :], name])
        if name not in finished:
            path.append(name)
            for module in graph[name]:
                visit(module)
            finished.add(path.pop())

    for name in graph:
        visit(name)
    assert finished == set(MODULES)


@pytest.mark.parametrize("file", FILES, ids=relative)
def test_frameworks_are_named_in_the_backend_only(file):
    named = FRAMEWORKS & {module.split(".")[0] for module in imports(file)}
    if room(module_name(file)) == "backend":
        allowed = {file.stem.split("_")[0]} & FRAMEWORKS
    elif relative(file) == "cli/convert_lpips.py":  # reads PyTorch's files, inside a function
        top = [node for node in ast.parse(file.read_text()).body if not hasattr(node, "body")]
        assert not FRAMEWORKS & set(imports(file, ast.Module(top, [])))
        allowed = {"torch"}
    else:
        allowed = set()
    assert named <= allowed


@pytest.mark.parametrize(
    "file",
    [file for file in FILES if any(relative(file).startswith(place) for place in WITHOUT_BACKEND)],
    ids=relative,
)
def test_numpy_rooms_reach_no_backend(file):
    """Neither themselves nor through what they import."""
    reached, waiting = set(), [module_name(file)]
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting += [module for module in imports(MODULES[name]) if module in MODULES]
    assert not [name for name in reached if room(name) == "backend"]


@pytest.mark.parametrize(
    "file", [file for file in FILES if room(module_name(file)) != "cli"], ids=relative
)
def test_only_commands_print(file):
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name):
            assert node.func.id != "print", f"mg/{relative(file)}:{node.lineno}"


def test_no_module_is_called_utils():
    for file in FILES:
        for part in Path(relative(file)).with_suffix("").parts:
            assert not part.lower().strip("_").endswith(("util", "utils", "helpers", "misc"))


def test_nothing_edits_the_import_path_or_takes_weights_leniently():
    for file in FILES:
        text = file.read_text(encoding="utf-8")
        assert "sys.path" not in text, relative(file)
        assert "strict=False" not in text, relative(file)
        assert "weights_only=False" not in text, relative(file)


ABSENT = (
    "PIL av diffusers jsonargparse mindspore pandas pyarrow safetensors scipy skimage tensorboardX "
    "tqdm yaml"
)
BARE_IMPORTS = """
import sys
from importlib.machinery import PathFinder

class Bare(PathFinder):
    @classmethod
    def find_spec(cls, name, *args):
        absent = name.split(".")[0] in ABSENT.split()
        return None if absent else super().find_spec(name, *args)

sys.meta_path = [Bare if finder is PathFinder else finder for finder in sys.meta_path]
"""
TRAINING = """
import numpy as np
from mg import backend
from mg.losses.lpips import LPIPS
from mg.losses.objective import Objective
from mg.models.tae.tae import TemporalAutoencoder
from mg.training.step import TrainStep

tae = TemporalAutoencoder(config={"ch": 4, "num_groups": 4, "ch_mult": [1, 1], "num_res_blocks": 1})
weights = dict.fromkeys(("reconstruction", "kl", "outlier_penalty"), 1.0)
optimizer = backend.AdamW(
    list(backend.named_parameters(tae).values()), betas=(0.9, 0.999), epsilon=1e-8, weight_decay=0.0
)
step = TrainStep(tae, Objective(weights), optimizer, compile=False)
losses = [step(number, [np.ones((1, 3, 2, 8, 8), np.float32)], 1e-2)["loss"] for number in (0, 1)]
assert losses[1] < losses[0], losses
"""


def test_network_losses_and_train_step_need_pytorch_and_numpy_only():
    pytest.importorskip("torch")
    command = [sys.executable, "-c", f"ABSENT = {ABSENT!r}{BARE_IMPORTS}{TRAINING}"]
    done = subprocess.run(
        command, env={**os.environ, "MG_BACKEND": "torch"}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
