"""What the texts say: the code of docs/latent_diffusion.md runs, and links lead somewhere."""

import ast
import re
import shlex
import sys
from pathlib import Path
from typing import NamedTuple

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


def blocks_of(page: Path) -> list[Block]:
    text = page.read_text(encoding="utf-8")
    fenced = re.finditer(r"^```([^\n]*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [Block(m[1], text.count("\n", 0, m.start()) + 1, m[2]) for m in fenced]


def commands_of(block: Block) -> list[list[str]]:
    """The command lines of a shell block, where a backslash joins lines."""
    return [shlex.split(line) for line in block.code.replace("\\\n", " ").splitlines()]


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


def test_the_page_on_latent_diffusion_runs(prepared, capsys):
    names = {"__name__": "page"}
    for block in blocks_of(PAGE):
        if block.language == "shell":
            for program, *args in commands_of(block):
                assert program == "mg"
                outcome = run(main, args, capsys)
                assert outcome.code == 0, (args, outcome.err)
        elif block.language in ("python", f"python {backend.name}"):
            # As many empty lines before it, so that a traceback shows the page's own lines.
            code = "\n" * block.line + block.code
            exec(compile(code, PAGE, "exec"), names)


@pytest.mark.once
def test_every_block_of_the_page_is_checked():
    blocks = blocks_of(PAGE)
    assert {block.language for block in blocks} == LANGUAGES
    for block in blocks:
        if block.language != "shell":
            kinds = {type(node) for node in ast.walk(ast.parse(block.code))}
            assert ast.Assert in kinds, f"{PAGE.name}:{block.line}: nothing is asserted"


@pytest.mark.once
@pytest.mark.parametrize("text", TEXTS, ids=lambda text: text.name)
def test_links_lead_to_files_that_exist(text):
    prose = re.sub(r"^```.*?^```$", "", text.read_text(encoding="utf-8"), flags=re.M | re.S)
    for target in re.findall(r"\]\(([^)\s]+)\)", prose):
        if "://" not in target and not target.startswith(("#", "mailto:")):
            assert (text.parent / target.partition("#")[0]).exists(), f"{text.name}: {target}"
