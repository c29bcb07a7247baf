"""How PyTorch's tensors lie in memory."""

import pytest

torch = pytest.importorskip("torch")

from mg.backend.torch_kernels import channels_last  # noqa: E402

pytestmark = pytest.mark.once


@pytest.mark.parametrize("count", [1, 2])
def test_frames_have_the_strides_that_kernels_take_for_channels_last(count):
    """Those of a single frame are often others, and it would be copied by every operation."""
    pixels = torch.rand(4, 5, count, 3)
    frames = pixels.permute(2, 3, 0, 1)  # of one frame, the stride of the first axis is 3
    laid = channels_last(frames)
    assert laid.stride() == (60, 1, 15, 3)
    assert torch.equal(laid, frames)
    assert (laid.data_ptr() == pixels.data_ptr()) == (count == 1)
