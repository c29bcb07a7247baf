"""What the texts say: the code of README and docs/latent_diffusion.md runs, and links lead
somewhere."""

import ast
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from cli.support import ROOT, run, waves
from models.random_network import random_network
from PIL import Image

from mg import backend
from mg.cli.main import main
from mg.data import write_video

PAGE = ROOT / "docs" / "latent_diffusion.md"
TEXTS = [*sorted(ROOT.glob("*.md")), *sorted(ROOT.glob("docs/*.md"))]
LANGUAGES = {"python", "python torch", "python mindspore", "shell"}
VIDEOS = {  # frames, height, width
    "vid001": (20, 40, 48),
    "vid002": (36, 64, 64),
    "vid003": (33, 50, 40),
}


class Block(NamedTuple):
    """A fenced block: what follows its opening fence, the line of that fence, its text."""

    language: str
    line: int
    code: str


def blocks_of(text: str) -> list[Block]:
    fenced = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1], text.count("\n", 0, m.start()) + 1, m[2]) for m in fenced]


def prose_of(page: Path) -> str:
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.M | re.S)


def anchors_of(page: Path) -> list[str]:
    """What links to the page's headings end with, as GitHub makes it."""
    headings = re.findall(r"^#+ (.*)$", prose_of(page), re.M)
    return [re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings]


def commands_of(block: Block) -> list[list[str]]:
    """The command lines of a shell block, where a backslash joins lines."""
    return [
        shlex.split(line, comments=True) for line in block.code.replace("\\\n", " ").splitlines()
    ]


@pytest.fixture
def prepared(tmp_path, monkeypatch):
    """A working directory with what the page takes for granted."""
    for seed, (name, shape) in enumerate(VIDEOS.items()):
        write_video(tmp_path / "videos" / f"{name}.mp4", waves(seed, *shape), fps=25)
    names = "".join(f"{name}.mp4\n" for name in VIDEOS)
    (tmp_path / "videos.csv").write_text(f"video\n{names}", encoding="utf-8")
    (tmp_path / "images").mkdir()
    Image.fromarray(waves(9, 1, 70, 80)[0]).save(tmp_path / "images" / "photo.png")
    tae = random_network({"z_channels": 16})
    tae.save_checkpoint(tmp_path / "models" / "tae.safetensors")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["mg"])


def run_blocks(blocks: list[Block], page: str, names: dict, capsys) -> None:
    """Run what is not of the other framework alone; Python's blocks share `names`."""
    for block in blocks:
        if block.language == "shell":
            for program, *args in commands_of(block):
                assert program == "mg"
                outcome = run(main, args, capsys)
                assert outcome.code == 0, (args, outcome.err)
        elif block.language in ("python", f"python {backend.name}"):
            # As many empty lines before it, so that a traceback shows the page's own lines.
            exec(compile("\n" * block.line + block.code, page, "exec"), names)


def test_the_page_on_latent_diffusion_runs(prepared, capsys):
    run_blocks(blocks_of(PAGE.read_text(encoding="utf-8")), PAGE.name, {"__name__": "page"}, capsys)


def test_the_usage_of_latents_in_the_readme_runs(prepared, capsys):
    text = (ROOT / "README.md").read_text(encoding="utf-8")
    start, stop = text.index("## Usage for latent diffusion models"), text.index("## The network")
    usage = re.sub(r"/path/to/tae\.\w+", "models/tae.safetensors", text[start:stop])
    names = {"x": backend.from_numpy(np.zeros((2, 3, 9, 32, 32), np.float32))}
    run_blocks(blocks_of(usage), "README.md", names, capsys)
    assert tuple(names["x"].shape) == (2, 3, 1, 32, 32)
    assert names["item"]["latents"].dtype == np.float32


@pytest.mark.once
def test_every_block_of_the_page_is_checked():
    blocks = blocks_of(PAGE.read_text(encoding="utf-8"))
    assert {block.language for block in blocks} == LANGUAGES
    for block in blocks:
        if block.language != "shell":
            kinds = {type(node) for node in ast.walk(ast.parse(block.code))}
            assert ast.Assert in kinds, f"{PAGE.name}:{block.line}: nothing is asserted"


@pytest.mark.once
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_links_lead_to_files_that_exist(text):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose_of(text)):
        if "://" not in target and not target.startswith("mailto:"):
            name, _, anchor = target.partition("#")
            page = text.parent / name if name else text
            assert page.exists(), f"{text.name}: {target}"
            assert not anchor or anchor in anchors_of(page), f"{text.name}: {target}"
