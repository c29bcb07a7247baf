"""Tensors, gradients, compilation and the optimiser."""

import numpy as np
import pytest
from devices import HAS_HALF

from mg import backend
from mg.backend import (
    AdamW,
    Module,
    ModuleList,
    assign,
    from_numpy,
    global_norm,
    named_parameters,
    parameter,
    recompute,
    to_numpy,
    value_and_grad,
)


class Block(Module):
    """Group norm, SiLU and a convolution in time, as the network has them."""

    def __init__(self, rng):
        super().__init__()
        self.weight = parameter(rng.standard_normal((4, 4, 1, 3)) / 4)
        self.bias = parameter(rng.standard_normal(4))
        self.gamma = parameter(rng.standard_normal(4))
        self.frozen = parameter(rng.standard_normal(4), trainable=False)

    def forward(self, x):
        x = backend.group_norm_silu(x, self.gamma, self.frozen, groups=2, over_clip=False)
        return backend.temporal_conv(x, self.weight, self.bias)


class Network(Module):
    def __init__(self, wrap=None):
        super().__init__()
        rng = np.random.default_rng(3)
        blocks = [Block(rng) for _ in range(2)]
        self.blocks = ModuleList([wrap(block) if wrap else block for block in blocks])

    def forward(self, x):
        for block in self.blocks:
            x = x + block(x)
        return x


VIDEO = np.random.default_rng(5).standard_normal((1, 3, 4, 2, 3)).astype(np.float32)
ON_GPU = backend.name == "torch" and from_numpy(VIDEO).is_cuda


def differentiate(network, compile=False):
    """((loss, output), gradients) as arrays, of a loss that is no mean of normalised values."""
    trained = [p for path, p in named_parameters(network).items() if "frozen" not in path]

    def loss(x, projection):
        y = network(x)
        return (y * projection).sum(), y

    projection = np.random.default_rng(6).standard_normal(VIDEO.shape).astype(np.float32)
    function = value_and_grad(loss, trained, compile=compile)
    outputs, gradients = function(from_numpy(VIDEO), from_numpy(projection))
    return [to_numpy(output) for output in outputs], [to_numpy(g) for g in gradients]


def assert_same(first, second):
    for one, other in zip(first[0] + first[1], second[0] + second[1], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_value_and_grad_gives_the_outputs_and_one_gradient_for_each_parameter():
    network = Network()
    (loss, y), gradients = differentiate(network)
    np.testing.assert_allclose(y, to_numpy(network(from_numpy(VIDEO))), atol=1e-5)
    assert loss.shape == ()
    trained = [p for path, p in named_parameters(network).items() if "frozen" not in path]
    assert [g.shape for g in gradients] == [tuple(p.shape) for p in trained]
    assert all(abs(gradient).max() > 1e-3 for gradient in gradients)


def test_recomputed_activations_give_the_same_gradients():
    assert_same(differentiate(Network(recompute)), differentiate(Network()))


def test_recompute_keeps_outputs_without_gradients():
    with backend.no_grad():
        recomputed = to_numpy(Network(recompute)(from_numpy(VIDEO)))
    np.testing.assert_array_equal(recomputed, to_numpy(Network()(from_numpy(VIDEO))))


@pytest.mark.skipif(backend.name == "torch", reason="torch.compile is tested by the slow test")
@pytest.mark.parametrize("wrap", [None, recompute])
def test_graph_mode_gives_the_values_and_gradients_of_eager_mode(wrap):
    assert_same(differentiate(Network(wrap), compile=True), differentiate(Network()))


@pytest.mark.skipif(not ON_GPU, reason="recorded on a GPU only")
@pytest.mark.parametrize("wrap", [None, recompute])
def test_recorded_work_gives_the_numbers_of_eager_mode_and_leaves_earlier_ones(wrap, rng):
    network = Network(wrap)
    trained = [p for path, p in named_parameters(network).items() if "frozen" not in path]

    def loss(x):
        y = network(x)
        return (y * y).sum(), y

    eager, recorded = (value_and_grad(loss, trained, compile=option) for option in (False, True))
    results = []
    for t in (3, 2) * 3:
        x = from_numpy(rng.standard_normal((1, t, 4, 2, 3)).astype(np.float32))
        results.append((recorded(x), eager(x)))
    for pair in results:
        assert_same(*([list(map(to_numpy, numbers)) for numbers in result] for result in pair))


@pytest.mark.slow
@pytest.mark.skipif(backend.name == "mindspore", reason="graph mode is tested by the test above")
def test_torch_compile_gives_the_values_and_gradients_of_eager_mode():
    assert_same(differentiate(Network(), compile=True), differentiate(Network()))


@pytest.mark.skipif(backend.name == "torch" and not ON_GPU, reason="takes minutes in torch.compile")
def test_a_compiled_function_follows_sizes_and_parameters():
    network = Network()
    compiled = backend.compile(network.forward)

    def check(t):
        x = from_numpy(VIDEO[:, :t])
        with backend.no_grad():
            np.testing.assert_allclose(to_numpy(compiled(x)), to_numpy(network(x)), atol=1e-5)

    for t in (3, 1, 3, 1):  # a GPU records what comes a second time
        check(t)
    for p in named_parameters(network).values():
        assign(p, 2 * to_numpy(p))
    check(3)


@pytest.mark.parametrize("weight_decay", [0.0, 0.3])
def test_adamw_takes_the_steps_of_torchs(weight_decay, rng):
    torch = pytest.importorskip("torch")
    shapes = [(3, 4, 1, 3), (5,)]
    initial = [rng.standard_normal(shape).astype(np.float32) for shape in shapes]

    class Parameters(Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = (parameter(array) for array in initial)

    ours = list(named_parameters(Parameters()).values())
    settings = {"betas": (0.8, 0.95), "weight_decay": weight_decay}
    optimizer = AdamW(ours, epsilon=1e-3, **settings)
    theirs = [torch.nn.Parameter(torch.tensor(array, dtype=torch.float64)) for array in initial]
    reference = torch.optim.AdamW(theirs, eps=1e-3, **settings)
    for step in range(8):
        learning_rate = 0.1 / (1 + step)
        # gradients of very different sizes: epsilon's place shows with the small ones
        gradients = [10.0 ** -(step % 5) * rng.standard_normal(shape) for shape in shapes]
        gradients = [gradient.astype(np.float32) for gradient in gradients]
        doubled = [from_numpy(2 * gradient) for gradient in gradients]
        optimizer.step(doubled, learning_rate, scale=0.5)
        for p, gradient in zip(theirs, gradients, strict=True):
            p.grad = torch.tensor(gradient, dtype=torch.float64)
        reference.param_groups[0]["lr"] = learning_rate
        reference.step()
        for p, expected in zip(ours, theirs, strict=True):
            np.testing.assert_allclose(to_numpy(p), expected.detach().numpy(), rtol=0, atol=2e-6)


def test_parameters_have_their_dotted_paths_in_order_of_definition():
    names = ["weight", "bias", "gamma", "frozen"]
    expected = [f"blocks.{number}.{name}" for number in range(2) for name in names]
    assert list(named_parameters(Network())) == expected


def test_only_trainable_parameters_require_a_gradient():
    for path, p in named_parameters(Network()).items():
        assert p.requires_grad == ("frozen" not in path)


def test_assigned_values_are_read_back_and_later_changes_of_the_array_are_not(rng):
    p = parameter(np.zeros((2, 3)))
    array = rng.standard_normal((2, 3)).astype(np.float32)
    assign(p, array)
    expected = array.copy()
    array[:] = 0
    np.testing.assert_array_equal(to_numpy(p), expected)


def test_a_parameter_is_float32_and_its_own(rng):
    array = rng.standard_normal((2, 3))
    p = parameter(array)
    expected = array.astype(np.float32)
    array[:] = 0
    assert to_numpy(p).dtype == np.float32
    np.testing.assert_array_equal(to_numpy(p), expected)


@pytest.mark.parametrize("kind", [np.float32, np.int32, np.int64, np.uint8, bool])
def test_arrays_come_back_with_values_and_dtype(kind, rng):
    array = rng.integers(0, 2, (3, 4)).astype(kind)[:, ::2]  # not contiguous
    tensor = from_numpy(array)
    assert backend.is_tensor(tensor)
    assert not backend.is_tensor(array)
    assert to_numpy(tensor).dtype == kind
    np.testing.assert_array_equal(to_numpy(tensor), array)


def test_a_single_number_keeps_its_shape():
    tensor = from_numpy(np.array(2.5, np.float32))
    assert tuple(tensor.shape) == ()
    assert to_numpy(tensor) == 2.5


def test_half_precision_comes_back_as_float32():
    if backend.name == "torch":
        halves = [backend.dtype("bf16"), backend.dtype("fp16")]
    else:  # as dtypes of values; the CPU has no operation of them
        import mindspore

        halves = [mindspore.bfloat16, mindspore.float16]
    x = from_numpy(np.array([1.0, -0.5, 3.0], np.float32))
    for half in halves:
        y = to_numpy(backend.cast(x, half))
        assert y.dtype == np.float32
        np.testing.assert_array_equal(y, [1.0, -0.5, 3.0])


@pytest.mark.parametrize("name", ["float32", "FP32", "int8", ""])
def test_an_unknown_dtype_is_an_error(name):
    with pytest.raises(ValueError, match=f"dtype is '{name}', expected one of fp32, bf16, fp16"):
        backend.dtype(name)


@pytest.mark.parametrize("name", ["bf16", "fp16"])
def test_half_precision_on_mindspores_cpu_is_an_error(name):
    if HAS_HALF:
        assert str(backend.dtype(name)).lower().removeprefix("torch.") in ("bfloat16", "float16")
        return
    with pytest.raises(ValueError, match=f"dtype is '{name}'.*CPU.*fp32"):
        backend.dtype(name)


def test_nothing_is_kept_for_differentiation_under_no_grad():
    if backend.name == "mindspore":
        pytest.skip("MindSpore's tensors do not tell")
    network = Network()
    with backend.no_grad():
        assert not network(from_numpy(VIDEO)).requires_grad
    assert network(from_numpy(VIDEO)).requires_grad


def test_the_global_norm_is_that_of_all_values_together(rng):
    arrays = [rng.standard_normal(shape).astype(np.float32) for shape in ((3, 4), (5,), ())]
    expected = np.linalg.norm(np.concatenate([array.ravel() for array in arrays]))
    for scale in (1, 100):  # another call: not the first one's values again
        tensors = [from_numpy(np.asarray(scale * array, np.float32)) for array in arrays]
        assert global_norm(tensors) == pytest.approx(scale * expected, rel=1e-5)


@pytest.mark.skipif(backend.name != "mindspore", reason="MindSpore's way on an Ascend device")
def test_the_global_norm_is_the_same_where_it_is_computed_on_the_device(rng, monkeypatch):
    tensors = [from_numpy(rng.standard_normal(shape)) for shape in ((3, 4), (5,), ())]
    expected = global_norm(tensors)
    monkeypatch.setattr("mg.backend.mindspore.on_cpu", lambda: False)
    assert global_norm(tensors) == pytest.approx(expected, rel=1e-5)
