"""What the frameworks' operations share: numbers, and the arithmetic of temporal convolutions.

Which input frame feeds which tap of which output frame, with stride, nearest upsampling and
padding, is all decided here in plain integers; the frameworks gather frames by the table and
multiply.
"""

from typing import NamedTuple

EPSILON = 1e-6  # of group norm's variance, as in the image autoencoders
ZERO_FRAME = -1  # in a table: no input frame, but zeros

CALLS_BEFORE_COMPILED = 8  # of a step that recurs: about as many as pay for compiling its graph


def frame_table(
    num_frames: int,
    taps: int,
    *,
    stride: int = 1,
    upsample: int = 1,
    padding: str = "replicate",
    begins: bool = True,
    ends: bool = True,
) -> tuple[int, ...]:
    """The input frame of every tap of every output frame, output frame by output frame.

    The convolution is centred: output frame o reads the upsampled frames
    `o * stride - taps // 2 ... o * stride + taps // 2`, and there are
    ceil(num_frames * upsample / stride) output frames. Beyond the ends `padding` says what is read:
    the end frame ("replicate") or zeros ("zeros"). Where the frames do not begin or end the clip,
    output frames that would read beyond them are left out.
    """
    length = num_frames * upsample
    last = length - 1
    first_centre = 0 if begins else taps // 2
    end = length if ends else length - (taps - 1 - taps // 2)
    table = []
    for centre in range(first_centre, end, stride):
        for frame in range(centre - taps // 2, centre - taps // 2 + taps):
            inside = min(max(frame, 0), last)
            missing = padding == "zeros" and inside != frame
            table.append(ZERO_FRAME if missing else inside // upsample)
    return tuple(table)


class Run(NamedTuple):
    """Consecutive output frames that read consecutive input frames by the same taps."""

    taps: tuple[int, ...]
    to: int  # the first output frame
    of: int  # the first input frame
    length: int


def frame_runs(table: tuple[int, ...], taps: int) -> list[Run]:
    """A frame table as products: every output frame is the sum, over the runs that it is in, of an
    input frame times the sum of the taps' weights. Taps that read the same frame share a run."""
    runs: dict[tuple, Run] = {}
    ended = []
    for place in range(len(table) // taps):
        reads: dict[int, list[int]] = {}
        for tap, frame in enumerate(table[place * taps : (place + 1) * taps]):
            if frame != ZERO_FRAME:
                reads.setdefault(frame, []).append(tap)
        for frame, which in reads.items():
            key = (*which, frame - place)
            run = runs.get(key)
            if run and run.to + run.length == place:
                runs[key] = run._replace(length=run.length + 1)
                continue
            if run:
                ended.append(run)
            runs[key] = Run(tuple(which), place, frame, 1)
    return ended + list(runs.values())
