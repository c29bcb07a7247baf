"""What PyTorch keeps for gradients, and how its tensors lie in memory."""

import pytest

torch = pytest.importorskip("torch")

from mg.backend.shared import frame_table  # noqa: E402
from mg.backend.torch_kernels import TemporalConv, channels_last  # noqa: E402

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


@pytest.mark.parametrize("is_frozen", [True, False])
def test_a_frozen_convolution_in_time_keeps_no_frames_for_gradients(is_frozen):
    torch.manual_seed(0)
    x = torch.randn(1, 5, 6, 4, requires_grad=True)
    weight = torch.randn(3, 4, 2, requires_grad=not is_frozen)
    bias = torch.randn(2, requires_grad=not is_frozen)
    table, kept = frame_table(5, 3), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t.shape) or t, lambda t: t):
        y = TemporalConv.apply(x, weight, bias, table)
    assert (x.shape in kept) != is_frozen
    dy = torch.randn(y.shape)
    y.backward(dy)
    exact_x = x.detach().double().requires_grad_()
    read = exact_x[:, table].unflatten(1, (-1, 3))
    (torch.einsum("btkpc,kco->btpo", read, weight.detach().double()) * dy).sum().backward()
    torch.testing.assert_close(x.grad, exact_x.grad.float())
    assert (weight.grad is None, bias.grad is None) == (is_frozen, is_frozen)
