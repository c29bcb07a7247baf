"""What the frameworks' operations share: numbers, and the arithmetic of temporal convolutions.

Which input frame feeds which tap of which output frame, with stride, nearest upsampling and
padding, is all decided here in plain integers; the frameworks gather frames by the table and
multiply.
"""

EPSILON = 1e-6  # of group norm's variance, as in the image autoencoders
ZERO_FRAME = -1  # in a table: no input frame, but zeros


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
    last = num_frames * upsample - 1
    table = []
    for centre in _centres(num_frames * upsample, taps, stride, begins, ends):
        for frame in range(centre - taps // 2, centre - taps // 2 + taps):
            inside = min(max(frame, 0), last)
            missing = padding == "zeros" and inside != frame
            table.append(ZERO_FRAME if missing else inside // upsample)
    return tuple(table)


def frames_to_keep(
    num_frames: int, taps: int, *, stride: int = 1, upsample: int = 1, begins: bool = True
) -> tuple[int, int]:
    """For frames that do not end the clip: how many output frames `frame_table` has, and how many
    of the last input frames the output frames after those read.

    Put before the clip's next frames, as frames that do not begin it, they give what comes next.
    """
    centres = _centres(num_frames * upsample, taps, stride, begins, ends=False)
    following = centres.start + len(centres) * stride
    return len(centres), num_frames - max(following - taps // 2, 0) // upsample


def _centres(length: int, taps: int, stride: int, begins: bool, ends: bool) -> range:
    """The (upsampled) frames on which output frames are centred."""
    before = taps // 2
    return range(0 if begins else before, length if ends else length - (taps - 1 - before), stride)
