"""One contestant of speed.py, a process that waits for its turns.

    MG_BACKEND=torch python benchmarks/contestant.py CONDITIONS

The conditions are JSON: those of contestants.Contestant, and `what` ("inference" or "training"),
`frames`, `pixels`, `ch`, `dtype`, `device_target`, and for a ceiling `convolution`. The first line
of stdout tells `turns` and facts; each turn that a line of stdin names, after "warm-up" or
"measure", is answered by a line with its seconds and the peak memory so far.
"""

import json
import os
import resource
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
from limits import ceiling, count
from networks import of_diffusers, ours, plain

from mg import backend


def main() -> None:
    # Where memory ends, the kernel shall end this process and not the one that tells of it.
    with suppress(OSError):
        Path("/proc/self/oom_score_adj").write_text("1000")
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what a library prints is no reply
    conditions = json.loads(sys.argv[1])
    choose_device(
        conditions["device_target"],
        tuned=conditions["tuned"] or conditions["network"] in ("ours", "ceiling"),
    )
    device = Torch(conditions) if backend.name == "torch" else MindSpore()
    turns, facts = build(conditions)
    facts |= {"turns": list(turns), "framework": f"{backend.name} {backend.version}"}
    facts |= {"device": device.name, "pid": os.getpid()}
    print(json.dumps(facts), file=replies, flush=True)
    for line in sys.stdin:
        purpose, _, name = line.strip().partition(" ")
        reply = device.measure(turns[name], warm=purpose == "measure")
        print(json.dumps(reply), file=replies, flush=True)


def build(conditions: dict) -> tuple[dict, dict]:
    """The functions of this contestant's turns, each of which does it once; and facts."""
    builders = {"ours": ours, "plain": plain, "ceiling": ceiling, "count": count}
    return builders.get(conditions["network"], of_diffusers)(conditions)


# Devices


def choose_device(target: str, *, tuned: bool) -> None:
    """Set the process up as our programs do, or else as frameworks have it."""
    if tuned:
        backend.set_device(target, exact=False)
    elif backend.name == "mindspore" and target != "auto":
        import mindspore

        mindspore.set_device(target)


class Torch:
    """Measures on the GPU or the CPU. TF32 stays as PyTorch has it, for all contestants. Memory is
    what PyTorch takes from the GPU, that of recordings included."""

    def __init__(self, conditions: dict):
        import torch

        self._cuda = torch.cuda if backend.from_numpy(np.zeros(1)).is_cuda else None
        self.name = torch.cuda.get_device_name() if self._cuda else None
        if conditions["device_target"] == "GPU" and not self._cuda:
            raise ValueError("PyTorch finds no GPU here")

    def measure(self, turn, *, warm: bool) -> dict:
        if self._cuda is None:
            return _timed(turn, lambda _: None)
        if warm:
            turn()  # fills the allocator's cache, which the turn before has left to the others
        self._cuda.synchronize()
        self._cuda.reset_peak_memory_stats()
        reply = _timed(turn, lambda _: self._cuda.synchronize())
        peak = self._cuda.max_memory_reserved()
        self._cuda.empty_cache()
        return reply | {"peak_bytes": peak}


class MindSpore:
    name = None

    def measure(self, turn, *, warm: bool) -> dict:  # noqa: ARG002
        def wait(result):
            for tensor in result if isinstance(result, tuple) else (result,):
                backend.to_numpy(tensor)

        return _timed(turn, wait)


def _timed(turn, wait) -> dict:
    began = time.perf_counter()
    wait(turn())
    seconds = time.perf_counter() - began
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    return {"seconds": seconds, "peak_bytes": peak}


if __name__ == "__main__":
    main()
