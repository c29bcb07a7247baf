"""Who takes part in speed.py, and the process that each is."""

import argparse
import json
import os
import re
import signal
import statistics
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path

WORKER = Path(__file__).parent / "contestant.py"
_ERROR = re.compile(r"[\w.]+(Error|Exception|Failed)\b")


@dataclass(frozen=True)
class Contestant:
    """A network in a framework, and how it is run.

    Args:
        label: in tables.
        network: "ours", "plain", a class of diffusers, or what the race needs besides: "ceiling"
            of the machine, "count" of the network's operations.
        compiled: in MindSpore's graph mode, by torch.compile, or of ours on a GPU as CUDA graphs.
        way: "whole" clips, "tiled", or as a "stream".
        tuned: its process is set up as our programs are, and ours and the ceilings in any case: it
            keeps freed memory (PyTorch), or its threads rest while they wait (MindSpore).
    """

    label: str
    framework: str
    network: str
    compiled: bool = False
    recompute: bool = False
    way: str = "whole"
    tuned: bool = False


CONTESTANTS = {
    "ours-torch": Contestant("ours", "torch", "ours"),
    "plain-torch": Contestant("plain", "torch", "plain"),
    "plain-torch-tuned": Contestant("plain, tuned", "torch", "plain", tuned=True),
    "ours-torch-recompute": Contestant("ours, recompute", "torch", "ours", recompute=True),
    "ours-torch-compiled": Contestant("ours, compiled", "torch", "ours", compiled=True),
    "plain-torch-compiled": Contestant("plain, compiled", "torch", "plain", compiled=True),
    "ours-mindspore": Contestant("ours, graph", "mindspore", "ours", compiled=True),
    "plain-mindspore": Contestant("plain, graph", "mindspore", "plain", compiled=True),
    "plain-mindspore-tuned": Contestant(
        "plain, graph, tuned", "mindspore", "plain", compiled=True, tuned=True
    ),
    "ours-mindspore-recompute": Contestant(
        "ours, graph, recompute", "mindspore", "ours", compiled=True, recompute=True
    ),
    "ours-mindspore-pynative": Contestant("ours, PyNative", "mindspore", "ours"),
    "ours-mindspore-pynative-recompute": Contestant(
        "ours, PyNative, recompute", "mindspore", "ours", recompute=True
    ),
    "plain-mindspore-pynative": Contestant("plain, PyNative", "mindspore", "plain"),
    "wan": Contestant("Wan (diffusers)", "torch", "AutoencoderKLWan"),
    "cogvideox": Contestant("CogVideoX (diffusers)", "torch", "AutoencoderKLCogVideoX"),
    "hunyuan": Contestant("HunyuanVideo (diffusers)", "torch", "AutoencoderKLHunyuanVideo"),
}


def plain_of(name: str) -> str:
    """The contestant that is the plain statement of one of ours, run the same way; "" for others
    than ours."""
    if CONTESTANTS[name].network not in ("ours", "plain"):
        return ""
    return name.replace("ours", "plain").removesuffix("-recompute").removesuffix("-tuned")


def conditions_of(what: str, frames: int, pixels: int, options: argparse.Namespace) -> dict:
    """What a contestant does; see contestant.py."""
    return {
        "what": what,
        "frames": frames,
        "pixels": pixels,
        "ch": options.ch,
        "dtype": options.dtype,
        "device_target": options.device_target,
    }


class Failed(Exception):
    """A contestant's process ended, or could not start; says why."""


class Process:
    """A contestant's process, which waits until it is asked.

    Args:
        contestant: what it is.
        conditions: what it does: see contestant.py.

    Raises:
        Failed: it does not start.
    """

    def __init__(self, contestant: Contestant, conditions: dict):
        modules = [contestant.framework]
        modules += ["diffusers"] if contestant.network.startswith("Autoencoder") else []
        missing = [module for module in modules if find_spec(module) is None]
        if missing:
            raise Failed(f"{missing[0]} is not installed")
        hidden = {"CUDA_VISIBLE_DEVICES": ""} if conditions["device_target"] == "CPU" else {}
        self._log = tempfile.TemporaryFile()  # noqa: SIM115
        self._process = subprocess.Popen(
            [sys.executable, str(WORKER), json.dumps(asdict(contestant) | conditions)],
            env={**os.environ, "MG_BACKEND": contestant.framework, **hidden},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
        )
        self.facts = self._reply()

    def ask(self, turn: str, purpose: str = "measure") -> dict:
        """Have it take a turn, to "measure" or to "warm-up"; gives its seconds and the process's
        peak memory so far.

        Raises:
            Failed: it died.
        """
        try:
            self._process.stdin.write(f"{purpose} {turn}\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            pass  # why, the missing reply tells
        return self._reply()

    def end(self) -> None:
        self._process.kill()
        self._process.communicate()
        self._log.close()

    def _reply(self) -> dict:
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        status = self._process.wait()
        if status < 0:
            reason = f"killed by {signal.Signals(-status).name}"
            raise Failed(reason + (" (out of memory?)" if status == -signal.SIGKILL else ""))
        self._log.seek(0)
        lines = self._log.read().decode(errors="replace").split("\n")
        words = [line for line in lines if line and not line[0].isspace()]
        errors = [line for line in words if _ERROR.match(line)]  # advice may follow
        raise Failed((errors or words or [f"exit status {status}"])[-1][:200])


class Entrant:
    """A contestant in a race: its process, and what was measured.

    Attributes:
        warm_up: seconds of each turn's first calls, for each start of its process.
        seconds: of each turn's later calls.
        failure: why it is out, or None.
        facts: what its process says of itself: see contestant.py.
    """

    def __init__(self, name: str, contestant: Contestant, conditions: dict):
        self.name, self.contestant, self._conditions = name, contestant, conditions
        self.facts, self.warm_up, self.seconds = {}, {}, {}
        self.peak_bytes, self.failure = 0, None
        self._process = None

    def take_turns(self) -> None:
        """Each of its turns once, after warming up where it has just started."""
        self._unless_failed(self._measure)

    def start(self) -> None:
        """Start and warm up, unless it runs."""
        self._unless_failed(self._ready)

    def end(self) -> None:
        if self._process:
            self._process.end()
        self._process = None

    def median(self, turn: str) -> float:
        return statistics.median(self.seconds[turn])

    def compile_seconds(self) -> float:
        """What the calls of warming up took longer than later ones."""
        return sum(
            statistics.median(
                sum(max(0.0, seconds - self.median(turn)) for seconds in calls) for calls in starts
            )
            for turn, starts in self.warm_up.items()
        )

    def _unless_failed(self, action) -> None:
        try:
            if self.failure is None:
                action()
        except Failed as failure:
            self.failure = str(failure)
            self.end()
            print(f"{self.name}: {failure}", file=sys.stderr, flush=True)

    def _ready(self) -> None:
        if self._process:
            return
        self._process = Process(self.contestant, self._conditions)
        self.facts = self._process.facts
        for turn in self.facts["turns"]:
            calls = range(self.facts.get("warm_up_calls", 1))
            seconds = [self._ask(turn, "warm-up") for _ in calls]
            self.warm_up.setdefault(turn, []).append(seconds)

    def _measure(self) -> None:
        self._ready()
        for turn in self.facts["turns"]:
            self.seconds.setdefault(turn, []).append(self._ask(turn, "measure"))

    def _ask(self, turn: str, purpose: str) -> float:
        reply = self._process.ask(turn, purpose)
        self.peak_bytes = max(self.peak_bytes, reply["peak_bytes"])
        seconds = reply["seconds"]
        print(f"{self.name}: {purpose} {turn}, {seconds:.3f} s", file=sys.stderr, flush=True)
        return seconds


def race(entrants: list[Entrant], rounds: int, *, apart: bool) -> None:
    """Let all measure in turns, round by round.

    Args:
        apart: each has the machine's memory for itself: it is started, and compiles, in each round.
    """
    try:
        if not apart:
            for entrant in entrants:
                entrant.start()
        for _ in range(rounds):
            for entrant in entrants:
                entrant.take_turns()
                if apart:
                    entrant.end()
    finally:
        for entrant in entrants:
            entrant.end()
