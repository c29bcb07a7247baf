"""What the frameworks' operations share: numbers, and the arithmetic of temporal convolutions.

Which input frame feeds which tap of which output frame, with stride, nearest upsampling and
padding, is all decided here in plain integers; the frameworks gather frames by the table and
multiply.
"""

EPSILON = 1e-6  # of group norm's variance, as in the image autoencoders
ZERO_FRAME = -1  # in a table: no input frame, but zeros


def frame_table(
    num_frames: int, taps: int, *, stride: int = 1, upsample: int = 1, padding: str = "replicate"
) -> tuple[int, ...]:
    """The input frame of every tap of every output frame, output frame by output frame.

    The convolution is centred: output frame o reads the upsampled frames
    `o * stride - taps // 2 ... o * stride + taps // 2`, and there are
    ceil(num_frames * upsample / stride) output frames. Beyond the ends `padding` says what is read:
    the end frame ("replicate") or zeros ("zeros").
    """
    last = num_frames * upsample - 1
    table = []
    for centre in range(0, last + 1, stride):
        for frame in range(centre - taps // 2, centre - taps // 2 + taps):
            inside = min(max(frame, 0), last)
            missing = padding == "zeros" and inside != frame
            table.append(ZERO_FRAME if missing else inside // upsample)
    return tuple(table)
