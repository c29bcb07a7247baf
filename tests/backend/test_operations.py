"""Every operation and its gradients against plain float64 numpy."""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
import pytest
from devices import HAS_HALF

from mg import backend
from mg.backend import Module, from_numpy, named_parameters, parameter, to_numpy, value_and_grad

from . import reference


@dataclass
class Case:
    """An operation, the shapes of its tensors and its settings."""

    operation: str
    shapes: tuple[tuple[int, ...], ...]
    settings: dict = field(default_factory=dict)
    no_bias: bool = False

    def on(self, room) -> Callable:
        operation = getattr(room, self.operation)
        bias = (None,) if self.no_bias else ()
        return lambda *tensors: operation(*tensors, *bias, **self.settings)

    def arrays(self, seed=0):
        rng = np.random.default_rng(seed)
        return [rng.standard_normal(shape).astype(np.float32) for shape in self.shapes]


def temporal(t, taps=3, **settings):
    return Case("temporal_conv", ((2, t, 3, 2, 2), (4, 3, 1, taps), (4,)), settings)


def spatiotemporal(t, shape=(4, 3, 3, 3, 3), no_bias=False, **settings):
    shapes = ((2, t, 3, 4, 5), shape, shape[:1])[: 3 - no_bias]
    return Case("conv3d", shapes, {"padding": (1, 1, 1, 1), **settings}, no_bias)


VIDEO = (2, 2, 4, 4, 3)
CHANNELS = (VIDEO[2],)
CASES = {
    "conv2d": Case("conv2d", (VIDEO, (3, 4, 3, 3), (3,)), {"padding": (1, 1, 1, 1)}),
    "conv2d of stride 2, padded below and right": Case(
        "conv2d", (VIDEO, (3, 4, 3, 3), (3,)), {"padding": (0, 1, 0, 1), "stride": 2}
    ),
    "conv2d, four different paddings": Case(
        "conv2d", (VIDEO, (2, 4, 3, 2), (2,)), {"padding": (2, 0, 1, 3)}
    ),
    "conv2d of stride 2 without padding": Case(
        "conv2d", (VIDEO, (2, 4, 3, 3), (2,)), {"padding": (0, 0, 0, 0), "stride": 2}
    ),
    "conv2d 1x1 without bias": Case(
        "conv2d", (VIDEO, (5, 4, 1, 1)), {"padding": (0, 0, 0, 0)}, no_bias=True
    ),
    "upsample_conv2d": Case("upsample_conv2d", ((2, 2, 3, 2, 3), (4, 3, 3, 3), (4,))),
    "upsample_conv2d of one pixel": Case("upsample_conv2d", ((1, 1, 2, 1, 1), (2, 2, 3, 3), (2,))),
    "group_norm of frames": Case(
        "group_norm", (VIDEO, CHANNELS, CHANNELS), {"groups": 2, "over_clip": False}
    ),
    "group_norm of clips": Case(
        "group_norm", (VIDEO, CHANNELS, CHANNELS), {"groups": 2, "over_clip": True}
    ),
    "group_norm of one-frame clips": Case(
        "group_norm", ((2, 1, 4, 3, 3), (4,), (4,)), {"groups": 4, "over_clip": True}
    ),
    "group_norm_silu of frames": Case(
        "group_norm_silu", (VIDEO, CHANNELS, CHANNELS), {"groups": 2, "over_clip": False}
    ),
    "group_norm_silu of clips": Case(
        "group_norm_silu", (VIDEO, CHANNELS, CHANNELS), {"groups": 2, "over_clip": True}
    ),
    "conv3d": spatiotemporal(3),
    "conv3d of one frame": spatiotemporal(1, stride=(2, 2)),
    "conv3d of stride 2 in time": spatiotemporal(4, stride=(2, 1)),
    "conv3d of stride 2 in space and 4x4, without bias": spatiotemporal(
        2, (2, 3, 3, 4, 4), no_bias=True, stride=(1, 2)
    ),
    "conv3d of stride 2": spatiotemporal(3, stride=(2, 2)),
    "conv3d of 1 tap, four different paddings": spatiotemporal(
        2, (2, 3, 1, 3, 2), padding=(2, 0, 1, 3)
    ),
    "leaky_relu": Case("leaky_relu", (VIDEO,), {"slope": 0.2}),
    "relu": Case("relu", (VIDEO,)),
    "linear": Case("linear", ((3, 5, 4), (6, 4), (6,))),
    "attention": Case("attention", ((3, 5, 4), (3, 5, 4), (3, 5, 4))),
    "attention of many to one": Case("attention", ((2, 3, 4), (2, 1, 4), (2, 1, 4))),
    "attention to one": Case("attention", ((2, 1, 4), (2, 1, 4), (2, 1, 4))),
    "max_pool2d of 2": Case("max_pool2d", (VIDEO,), {"kernel": 2, "stride": 2}),
    "max_pool2d of 3": Case("max_pool2d", (VIDEO,), {"kernel": 3, "stride": 2}),
    "max_pool2d of 3, last window not full": Case(
        "max_pool2d", (VIDEO,), {"kernel": 3, "stride": 2, "ceil_mode": True}
    ),
    "temporal_conv of one frame": temporal(1),
    "temporal_conv of four frames": temporal(4),
    "temporal_conv of 5 taps": temporal(3, taps=5),
    "temporal_conv of 1 tap": temporal(3, taps=1),
    "temporal_conv of stride 2, one frame": temporal(1, stride=2),
    "temporal_conv of stride 2": temporal(4, stride=2),
    "temporal_conv of stride 2 and zeros": temporal(3, stride=2, padding="zeros"),
    "temporal_conv of doubled frames, one frame": temporal(1, upsample=2),
    "temporal_conv of doubled frames": temporal(3, upsample=2),
    "temporal_conv of doubled frames and zeros, one frame": temporal(
        1, upsample=2, padding="zeros"
    ),
    "temporal_conv of doubled frames and zeros": temporal(3, upsample=2, padding="zeros"),
}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())


def computed(case, arrays):
    return to_numpy(case.on(backend)(*map(from_numpy, arrays)))


def expected(case, arrays):
    return case.on(reference)(*(array.astype(np.float64) for array in arrays))


@each_case
def test_operation_equals_plain_numpy(case):
    arrays = case.arrays()
    y = computed(case, arrays)
    assert y.dtype == np.float32
    np.testing.assert_allclose(y, expected(case, arrays), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"padding": "zeros"},
        {"stride": 2},
        {"stride": 2, "padding": "zeros"},
        {"upsample": 2},
        {"upsample": 2, "padding": "zeros"},
        {"taps": 1},
        {"taps": 5},
    ],
    ids=str,
)
def test_temporal_conv_equals_plain_loops_for_every_length(settings):
    for t in range(1, 10):
        case = temporal(t, **settings)
        arrays = case.arrays(seed=t)
        result = computed(case, arrays)
        stride, upsample = settings.get("stride", 1), settings.get("upsample", 1)
        assert result.shape[1] == -(-t * upsample // stride)
        np.testing.assert_allclose(result, expected(case, arrays), rtol=1e-5, atol=1e-5)


def torchs_conv3d(arrays):
    """conv3d of stride 2 with 3 taps and padding 1 by PyTorch's own, in float64 on `(b c t h w)`:
    the output and the gradients of its sum of squares."""
    torch = pytest.importorskip("torch")
    tensors = [torch.tensor(array, dtype=torch.float64, requires_grad=True) for array in arrays]
    x, weight, bias = tensors
    x = torch.nn.functional.pad(x.transpose(1, 2), (0, 0, 0, 0, 1, 1), mode="replicate")
    y = torch.nn.functional.conv3d(x, weight, bias, stride=2, padding=(0, 1, 1))
    gradients = torch.autograd.grad((y * y).sum(), tensors)
    return y.detach().transpose(1, 2).numpy(), [gradient.numpy() for gradient in gradients]


@pytest.mark.parametrize("compile", [False, True] if backend.name == "mindspore" else [False])
@pytest.mark.parametrize("t", [1, 2, 5])
def test_conv3d_equals_torchs_with_its_gradients(t, compile):
    arrays = spatiotemporal(t, (4, 3, 3, 4, 4)).arrays(seed=t)
    expected_y, expected_gradients = torchs_conv3d(arrays)
    inputs = Inputs(arrays)

    def loss(factor):
        y = backend.conv3d(
            inputs.input_0,
            inputs.input_1,
            inputs.input_2,
            stride=(2, 2),
            padding=(1, 1, 1, 1),
        )
        return (y * y).sum() * factor, y

    parameters = list(named_parameters(inputs).values())
    differentiated = value_and_grad(loss, parameters, compile=compile)
    (_, y), gradients = differentiated(from_numpy(np.ones(1, np.float32))[0])
    np.testing.assert_allclose(to_numpy(y), expected_y, rtol=1e-4, atol=1e-4)
    for gradient, expected_gradient in zip(gradients, expected_gradients, strict=True):
        np.testing.assert_allclose(to_numpy(gradient), expected_gradient, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("ceil_mode", [False, True])
@pytest.mark.parametrize("kernel", [2, 3])
def test_max_pool_equals_plain_windows_for_every_size(kernel, ceil_mode):
    for height in range(3, 9):
        settings = {"kernel": kernel, "stride": 2, "ceil_mode": ceil_mode}
        case = Case("max_pool2d", ((1, 2, 2, height, 11 - height),), settings)
        arrays = [-10 - abs(array) for array in case.arrays(seed=height)]  # below any zero padding
        np.testing.assert_array_equal(
            computed(case, arrays), expected(case, arrays).astype(np.float32)
        )


def test_group_norm_keeps_its_accuracy_far_from_zero():
    case = CASES["group_norm of frames"]
    x, gamma, beta = case.arrays()
    arrays = [x + 100, gamma, beta]
    np.testing.assert_allclose(computed(case, arrays), expected(case, arrays), atol=2e-4)


LARGE_FRAME = Case(
    "group_norm_silu", ((1, 1, 4, 1024, 960), (4,), (4,)), {"groups": 2, "over_clip": False}
)


@pytest.mark.parametrize("mean", [0, 30])
def test_group_norm_of_a_large_frame_keeps_its_accuracy(mean):
    x, gamma, beta = LARGE_FRAME.arrays()
    arrays = [x + mean, gamma, beta]
    y = computed(LARGE_FRAME, arrays)
    np.testing.assert_allclose(y, expected(LARGE_FRAME, arrays), atol=3e-5)


def test_group_norm_adds_a_millionth_to_the_variance():
    case = CASES["group_norm of clips"]
    x, gamma, beta = case.arrays()
    arrays = [1e-3 * x, gamma, beta]
    np.testing.assert_allclose(computed(case, arrays), expected(case, arrays), atol=1e-4)
    assert abs(expected(case, arrays)).max() < 0.9 * abs(expected(case, case.arrays())).max()


def test_attention_survives_large_scores():
    case = CASES["attention"]
    arrays = [30 * array for array in case.arrays()]
    np.testing.assert_allclose(computed(case, arrays), expected(case, arrays), rtol=1e-3, atol=1e-3)


def test_attention_takes_more_sequences_than_a_kernel_does(rng):
    arrays = [rng.standard_normal((65_537, 2, 4)).astype(np.float32) for _ in range(3)]
    got = to_numpy(backend.attention(*map(from_numpy, arrays)))
    alone = backend.attention(*(from_numpy(array[-3:]) for array in arrays))
    assert got.shape == arrays[0].shape
    np.testing.assert_allclose(got[-3:], to_numpy(alone), atol=1e-6)


def test_operations_give_finite_values_at_extremes():
    constant = from_numpy(np.full((1, 2, 4, 3, 3), 7, np.float32))
    ones, zeros = (from_numpy(np.full(4, value, np.float32)) for value in (1, 0))
    y = backend.group_norm(constant, ones, zeros, groups=2, over_clip=False)
    np.testing.assert_allclose(to_numpy(y), 0, atol=1e-5)
    beta = from_numpy(np.array([-1e4, -100, 100, 1e4], np.float32))
    y = backend.group_norm_silu(constant, ones, beta, groups=2, over_clip=False)
    np.testing.assert_allclose(to_numpy(y)[0, 0, :, 0, 0], [0, 0, 100, 1e4], rtol=1e-6, atol=1e-5)


class Inputs(Module):
    """Arrays as trainable parameters."""

    def __init__(self, arrays):
        super().__init__()
        for number, array in enumerate(arrays):
            setattr(self, f"input_{number}", parameter(array))


def gradients_of(case, arrays, projection):
    """Gradients of sum(projection * operation(*arrays)) with respect to every array."""
    parameters = list(named_parameters(Inputs(arrays)).values())
    operation = case.on(backend)

    def loss(projection):
        y = operation(*parameters)
        return (y * projection).sum(), y

    _, gradients = value_and_grad(loss, parameters, compile=False)(from_numpy(projection))
    return [to_numpy(gradient) for gradient in gradients]


def differences(function, arrays, step=1e-5):
    """Central finite differences of a float64 function with respect to every value."""
    arrays = [array.astype(np.float64) for array in arrays]
    for array in arrays:
        gradient = np.empty_like(array)
        for place in np.ndindex(array.shape):
            value = array[place]
            array[place] = value + step
            above = function(*arrays)
            array[place] = value - step
            gradient[place] = (above - function(*arrays)) / (2 * step)
            array[place] = value
        yield gradient


@each_case
def test_gradients_equal_finite_differences(case):
    arrays = case.arrays(seed=1)
    shape = expected(case, arrays).shape
    projection = np.random.default_rng(2).standard_normal(shape).astype(np.float32)
    computed_gradients = gradients_of(case, arrays, projection)
    function = case.on(reference)
    slopes = differences(lambda *values: (function(*values) * projection).sum(), arrays)
    for gradient, slope in zip(computed_gradients, slopes, strict=True):
        assert gradient.shape == slope.shape
        np.testing.assert_allclose(gradient, slope, rtol=2e-4, atol=2e-4)


def test_gradients_of_group_norm_of_a_large_frame_keep_their_accuracy(rng):
    x, gamma, beta = arrays = [array + 1 for array in LARGE_FRAME.arrays()]
    projection = rng.random(x.shape, dtype=np.float32)
    dx, *others = gradients_of(LARGE_FRAME, arrays, projection)

    def loss(*weights):
        return (LARGE_FRAME.on(reference)(x.astype(np.float64), *weights) * projection).sum()

    for gradient, slope in zip(others, differences(loss, [gamma, beta]), strict=True):
        np.testing.assert_allclose(gradient, slope, rtol=2e-5)
    # Group norm takes mean and deviation away, so along these the loss does not change.
    dx, x = (values.astype(np.float64).reshape(2, -1) for values in (dx, x))
    for change in (np.ones_like(x), x - x.mean(1, keepdims=True)):
        assert (abs((dx * change).sum(1)) < 1e-5 * abs(dx * change).sum(1)).all()


def rounded(case, dtype):
    """The case's arrays with values that `dtype` has, where maxima are of one place alone."""
    if case.operation == "max_pool2d":
        (shape,) = case.shapes
        ranks = np.random.default_rng(3).permutation(int(np.prod(shape)))
        return [ranks.reshape(shape).astype(np.float32)]
    return [to_numpy(backend.cast(from_numpy(array), dtype)) for array in case.arrays(seed=3)]


# What a product of rounded numbers, its sum and the bias lose when each is rounded once more.
ROUNDINGS = 4


@pytest.mark.skipif(not HAS_HALF, reason="MindSpore has no bf16 or fp16 convolutions on a CPU")
@pytest.mark.parametrize(("half", "epsilon"), [("bf16", 2**-8), ("fp16", 2**-11)])
@each_case
def test_in_half_precision_an_operation_and_its_gradients_equal_float64_within_a_few_roundings(
    case, half, epsilon
):
    dtype = backend.dtype(half)
    arrays = rounded(case, dtype)
    parameters = list(named_parameters(Inputs(arrays)).values())
    operation = case.on(backend)
    # What flows through the network is in half precision, parameters are in float32.
    in_half = len(arrays) if case.operation == "attention" else 1

    def loss(projection):
        flowing = [backend.cast(tensor, dtype) for tensor in parameters[:in_half]]
        y = operation(*flowing, *parameters[in_half:])
        return (backend.cast(y, backend.dtype("fp32")) * projection).sum(), y

    exact = expected(case, arrays)
    projection = np.random.default_rng(2).choice([-1, 1], exact.shape).astype(np.float32)
    (_, y), gradients = value_and_grad(loss, parameters, compile=False)(from_numpy(projection))
    assert y.dtype == dtype
    np.testing.assert_allclose(to_numpy(y), exact, atol=ROUNDINGS * epsilon * abs(exact).max())
    function = case.on(reference)
    slopes = differences(lambda *values: (function(*values) * projection).sum(), arrays)
    for gradient, slope in zip(gradients, slopes, strict=True):
        assert gradient.dtype == backend.dtype("fp32")
        atol = ROUNDINGS * epsilon * abs(slope).max()
        np.testing.assert_allclose(to_numpy(gradient), slope, rtol=0, atol=atol)


@pytest.mark.filterwarnings("error")
def test_a_tensor_of_an_array_that_is_not_writable_is_made_without_a_warning():
    array = np.broadcast_to(np.arange(3, dtype=np.float32), (1, 3))
    np.testing.assert_array_equal(to_numpy(from_numpy(array)), array)
    np.testing.assert_array_equal(to_numpy(from_numpy(np.float32(2))), 2)


def test_cat_joins_along_any_axis():
    a, b = np.arange(6).reshape(1, 2, 3), np.arange(12).reshape(1, 4, 3)
    joined = backend.cat([from_numpy(a.astype(np.float32)), from_numpy(b.astype(np.float32))], 1)
    np.testing.assert_array_equal(to_numpy(joined), np.concatenate([a, b], 1))


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("lengths", [(3, 1, 1, 1, 4, 2), (5, 2, 3, 1, 6)])
def test_what_is_kept_are_the_last_frames_of_all_in_memory_of_their_own(count, lengths, rng):
    frames = rng.standard_normal((2, sum(lengths), 3)).astype(np.float32)
    kept, end = (), 0
    for length in lengths:
        x = from_numpy(frames[:, end : end + length])
        end += length
        kept = backend.keep(count, kept, x)
        x *= 0
        np.testing.assert_array_equal(to_numpy(kept[0]), frames[:, end - count : end])


@pytest.mark.skipif(backend.name != "torch", reason="MindSpore puts tensors where it likes")
def test_what_is_kept_stays_where_it_is_and_lies_as_it_came():
    x = from_numpy(np.zeros((1, 4, 5, 6, 3), np.float32)).permute(0, 1, 4, 2, 3)
    (kept,) = backend.keep(2, (), x)
    (later,) = backend.keep(2, (kept,), x[:, :1])
    assert later.data_ptr() == kept.data_ptr() != x.data_ptr()
    assert kept.untyped_storage().nbytes() == x.untyped_storage().nbytes() / 2
    assert kept.stride() == x.stride()


def test_attention_takes_no_memory_for_all_scores():
    """In a process of its own, whose peak is that of nothing else. Positions of a 720p frame."""
    program = """
import resource
from mg import backend
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
x = backend.from_numpy(__import__("numpy").ones((1, 14400, 8), "float32"))
backend.to_numpy(x + x)
before = peak()
with backend.no_grad():
    backend.to_numpy(backend.attention(x, x, x))
print(peak() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    scores = 14400**2 * 4 / 1024
    assert int(done.stdout.split()[-1]) < scores / (8 if backend.name == "torch" else 2)


@pytest.mark.skipif(backend.name != "mindspore", reason="PyTorch has a kernel for it")
@pytest.mark.parametrize("compile", [False, True])
@pytest.mark.parametrize("queries", [5, 16, 37])
def test_attention_in_pieces_gives_what_it_gives_at_once(monkeypatch, compile, queries):
    monkeypatch.setattr("mg.backend.mindspore.SCORES", 50)
    case = Case("attention", ((2, queries, 4), (2, 6, 4), (2, 6, 4)))
    attend = backend.compile(backend.attention) if compile else backend.attention
    y = to_numpy(attend(*map(from_numpy, case.arrays())))
    np.testing.assert_allclose(y, expected(case, case.arrays()), rtol=1e-5, atol=1e-5)


@pytest.mark.skipif(not HAS_HALF, reason="MindSpore has no bf16 on the CPU")
def test_zero_padding_in_time_is_zero_in_half_precision_too(rng):
    x, weight = rng.standard_normal((1, 3, 4, 2, 2)), rng.standard_normal((4, 4, 1, 3))
    arrays = [array.astype(np.float32) for array in (x, weight, np.zeros(4))]
    x, weight, bias = map(from_numpy, arrays)
    expected = backend.temporal_conv(x, weight, bias, upsample=2, padding="zeros")
    half = backend.cast(x, backend.dtype("bf16"))
    y = backend.temporal_conv(half, weight, bias, upsample=2, padding="zeros")
    np.testing.assert_allclose(to_numpy(y), to_numpy(expected), atol=0.1)
