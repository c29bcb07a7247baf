"""Pages that tests look at, and what they read from their text."""

import base64
import json
import re
from html.parser import HTMLParser

import numpy as np
from cli.support import waves

from mg.evaluation.metrics import psnr, ssim
from mg.evaluation.report import ReportWriter

HOSTILE = ["<img src=x onerror=alert(1)>.mp4", "</script><script>alert(2)</script>.mp4"]
BROKEN = '"><b>broken</b>.mp4'
ABOUT = {
    "settings": {"num_frames": 40, "lpips_weights": None, "csv_path": "<i>a.csv</i>"},
    "tae_config": {"ch": 4, "ch_mult": [1, 2]},
    "checkpoint": "models/tae.safetensors",
    "checkpoint_sha256": "0123456789abcdef" * 4,
}


def greys(num_frames, height=48, width=64):
    """Frames of one grey each, which tells the frame's number: 40 + 3 t."""
    levels = 40 + 3 * np.arange(num_frames, dtype=np.uint8)
    return np.broadcast_to(levels[:, None, None, None], (num_frames, height, width, 3)).copy()


def spoiled(frames, size, seed=0):
    """Frames with noise of a size that grows with time, so that every frame scores otherwise."""
    rng = np.random.default_rng(seed)
    growth = np.linspace(0.5, 1.5, len(frames))[:, None, None, None]
    noise = growth * rng.normal(0, size, frames.shape)
    return np.clip(frames + noise, 0, 255).astype(np.uint8)


def scores_of(frames, reconstruction):
    errors = (frames.astype(float) - reconstruction).std(axis=(1, 2, 3))
    return {
        "psnr": psnr(frames, reconstruction),
        "ssim": ssim(frames, reconstruction),
        "lpips": errors / 100,  # any number of each frame
    }


def add(report, name, frames, reconstruction, fps=25, piece=16):
    """Record a video, in pieces; gives its scores."""
    scores = scores_of(frames, reconstruction)
    with report.video(name, fps) as video:
        for start in range(0, len(frames), piece):
            part = slice(start, start + piece)
            values = {key: each[part] for key, each in scores.items()}
            video.add(frames[part], reconstruction[part], values)
    return scores


VIDEOS = {  # frames and the noise in their reconstruction
    "worst.mp4": (greys(50), 20),
    HOSTILE[0]: (waves(1, 1, 24, 32), 24),
    "dir/odd10.mp4": (waves(2, 30, 33, 47), 12),
    "dir/odd9.mp4": (waves(3, 20, 31, 32), 8),
    HOSTILE[1]: (waves(4, 12, 32, 32), 4),
}


def write_page(path):
    """Write a page of VIDEOS, which begin with the worst, and of a broken one; gives their scores
    by name."""
    with ReportWriter(path) as report:
        report.failed(BROKEN, f"{BROKEN}: is <empty>")
        scores = {
            name: add(report, name, frames, spoiled(frames, noise))
            for name, (frames, noise) in reversed(VIDEOS.items())
        }
        report.write(**ABOUT)
    return {name: scores[name] for name in VIDEOS}


VARIES = 0.05  # the same frames may give a clip of some bytes more, once in some 50 times


def sizes_of(page):
    """Bytes of each clip."""
    return {key: len(clip) for key, clip in page.clips.items()}


class Page(HTMLParser):
    """A page's elements: `tags`, their `attributes`, the `cells` of each row of its tables and
    the text of each script that has an id."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.attributes, self.rows, self.scripts = [], [], [], {}
        self._script = self._cell = None
        self.feed(text)

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.attributes += attrs
        if tag == "tr":
            self.rows.append([])
        self._cell = tag == "td" or (self._cell and tag != "script")
        if tag == "td":
            self.rows[-1].append("")
        self._script = dict(attrs).get("id") if tag == "script" else None

    def handle_endtag(self, tag):
        self._cell = self._cell and tag != "td"
        self._script = None if tag == "script" else self._script

    def handle_data(self, data):
        if self._cell:
            self.rows[-1][-1] += data.strip()
        if self._script:
            self.scripts[self._script] = self.scripts.get(self._script, "") + data

    @property
    def data(self):
        """What the page's script reads."""
        return json.loads(self.scripts["data"])

    @property
    def clips(self):
        """The MP4 files in the page, by role and number."""
        return {
            name: base64.b64decode(text)
            for name, text in self.scripts.items()
            if re.fullmatch(r"(original|reconstruction|difference)-\d+", name)
        }


def read_page(path):
    return Page(path.read_text(encoding="utf-8"))
