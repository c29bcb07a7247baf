import numpy as np
import pytest
from safetensors.numpy import load_file

from mg import backend
from mg.cli import convert_lpips
from mg.losses.lpips import LPIPS

from .support import run, write_squeezenet_lpips

torch = pytest.importorskip("torch")

# (index among torchvision's features, output, input channels)
VGG16 = [(0, 64, 3), (2, 64, 64), (5, 128, 64), (7, 128, 128), (10, 256, 128), (12, 256, 256)]
VGG16 += [(14, 256, 256), (17, 512, 256), (19, 512, 512), (21, 512, 512)]
VGG16 += [(24, 512, 512), (26, 512, 512), (28, 512, 512)]
HEADS = [64, 128, 256, 512, 512]
NOT_KEPT = {"classifier.0.weight": (8, 8), "classifier.0.bias": (8,)}


def vgg_arrays(rng):
    """Random weights as torchvision names VGG16's, and heads as the lpips package does."""
    features = {}
    for index, out, into in VGG16:
        weight = rng.standard_normal((out, into, 3, 3), dtype=np.float32) * (2 / (9 * into)) ** 0.5
        features[f"features.{index}.weight"] = weight
        features[f"features.{index}.bias"] = 0.1 * rng.standard_normal(out, dtype=np.float32)
    heads = {
        f"lin{number}.model.1.weight": rng.random((1, count, 1, 1), dtype=np.float32)
        for number, count in enumerate(HEADS)
    }
    return features, heads


def save_pth(path, arrays):
    torch.save({name: torch.from_numpy(array) for name, array in arrays.items()}, path)
    return path


def convert(features, heads, target, capsys):
    args = ["--features", features, "--heads", heads, "--target", target]
    return run(convert_lpips.command, args, capsys)


def distances(weights, rng):
    pair = [rng.uniform(-1, 1, (1, 3, 1, 32, 32)).astype(np.float32) for _ in range(2)]
    with backend.no_grad():
        return backend.to_numpy(LPIPS(weights)(*map(backend.from_numpy, pair)))


def test_vgg_of_two_files_holds_their_arrays_and_is_a_metric(tmp_path, capsys, rng):
    features, heads = vgg_arrays(rng)
    unused = {name: np.zeros(shape, np.float32) for name, shape in NOT_KEPT.items()}
    target = tmp_path / "out" / "lpips.safetensors"
    outcome = convert(
        save_pth(tmp_path / "vgg16.pth", {**features, **unused}),
        save_pth(tmp_path / "vgg.pth", heads),
        target,
        capsys,
    )
    assert outcome.code == 0
    assert outcome.out == [f"Wrote {target}"]
    expected, written = {**features, **heads}, load_file(target)
    assert written.keys() == expected.keys()
    assert all(np.array_equal(written[name], expected[name]) for name in expected)
    assert distances(target, rng)[0, 0] > 0


def test_squeezenet_of_two_files_equals_the_metric_of_the_test_data(test_data, tmp_path, capsys):
    direct = write_squeezenet_lpips(test_data, tmp_path / "direct.safetensors")
    arrays = load_file(direct)
    target = tmp_path / "lpips.safetensors"
    parts = {
        part: save_pth(
            tmp_path / f"{part}.pth",
            {name: array for name, array in arrays.items() if name.startswith(part)},
        )
        for part in ("features", "lin")
    }
    assert convert(parts["features"], parts["lin"], target, capsys).code == 0
    first, second = (distances(path, np.random.default_rng(1)) for path in (direct, target))
    assert np.array_equal(first, second)


class Touch:
    """Its pickle makes a file when it is executed."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return open, (self.path, "w")


def test_a_pickle_that_would_run_code_is_refused_unexecuted(tmp_path, capsys, rng):
    trap, target = tmp_path / "executed", tmp_path / "lpips.safetensors"
    _, heads = vgg_arrays(rng)
    torch.save({"features.0.weight": Touch(str(trap))}, tmp_path / "features.pth")
    outcome = convert(
        tmp_path / "features.pth", save_pth(tmp_path / "heads.pth", heads), target, capsys
    )
    outcome.assert_refused("features.pth", "not a PyTorch file of tensors")
    assert not trap.exists() and not target.exists()
    torch.load(tmp_path / "features.pth", weights_only=False)["features.0.weight"].close()
    assert trap.exists()  # so the trap was one


@pytest.mark.parametrize("content", [b"", b"no weights", b"PK\x03\x04 cut"])
def test_a_file_that_is_no_weights_is_named_in_one_line(tmp_path, capsys, content):
    (tmp_path / "a.pth").write_bytes(content)
    target = tmp_path / "lpips.safetensors"
    outcome = convert(tmp_path / "a.pth", tmp_path / "a.pth", target, capsys)
    outcome.assert_refused("a.pth", "not a PyTorch file")
    assert not target.exists()


def test_something_else_than_named_tensors_is_named_in_one_line(tmp_path, capsys):
    for number, value in enumerate(({"epoch": 3}, [torch.zeros(2)], torch.zeros(2))):
        path = tmp_path / f"{number}.pth"
        torch.save(value, path)
        target = tmp_path / "lpips.safetensors"
        convert(path, path, target, capsys).assert_refused(path.name)
        assert not target.exists()


def test_heads_of_another_network_are_refused_and_nothing_is_written(tmp_path, capsys, rng):
    features, _ = vgg_arrays(rng)
    alexnet = {
        f"lin{number}.model.1.weight": rng.random((1, count, 1, 1), dtype=np.float32)
        for number, count in enumerate((64, 192, 384, 256, 256))
    }
    parts = save_pth(tmp_path / "vgg16.pth", features), save_pth(tmp_path / "alex.pth", alexnet)
    outcome = convert(*parts, tmp_path / "lpips.safetensors", capsys)
    outcome.assert_refused("lin1.model.1.weight has 192 numbers, expected 128")
    assert not (tmp_path / "lpips.safetensors").exists()


def test_half_precision_that_numpy_lacks_is_named_in_one_line(tmp_path, capsys):
    path = tmp_path / "a.pth"
    torch.save({"features.0.weight": torch.zeros(2, dtype=torch.bfloat16)}, path)
    outcome = convert(path, path, tmp_path / "lpips.safetensors", capsys)
    outcome.assert_refused("a.pth", "BFloat16")


def test_a_missing_file_or_array_is_named_in_one_line_and_nothing_is_written(tmp_path, capsys, rng):
    features, heads = vgg_arrays(rng)
    target = tmp_path / "lpips.safetensors"
    head_file = save_pth(tmp_path / "heads.pth", heads)
    convert(tmp_path / "none.pth", head_file, target, capsys).assert_refused("none.pth")
    del features["features.28.bias"]
    feature_file = save_pth(tmp_path / "features.pth", features)
    convert(feature_file, head_file, target, capsys).assert_refused("features.28.bias")
    assert not [path for path in tmp_path.iterdir() if path.suffix != ".pth"]


def test_a_tensor_that_claims_more_than_the_file_holds_is_refused_at_once(tmp_path, capsys):
    path = tmp_path / "a.pth"
    torch.save({"features.0.weight": torch.zeros(1).expand(1 << 40)}, path)
    outcome = convert(path, path, tmp_path / "lpips.safetensors", capsys)
    outcome.assert_refused("a.pth", "features.0.weight is larger than what the file holds of it")


def test_tensors_without_names_are_not_lpips(tmp_path, capsys):
    path = tmp_path / "a.pth"
    torch.save({1: torch.zeros(1)}, path)
    convert(path, path, tmp_path / "lpips.safetensors", capsys).assert_refused("is missing")


def test_a_pytorch_that_does_not_read_safely_is_refused(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(torch, "__version__", torch.torch_version.TorchVersion("2.5.1+cpu"))
    outcome = convert("a.pth", "b.pth", tmp_path / "c.safetensors", capsys)
    outcome.assert_refused("needs PyTorch 2.6, not 2.5.1")


def test_a_target_that_is_no_safetensors_is_refused(tmp_path, capsys):
    convert("a.pth", "b.pth", tmp_path / "c.pth", capsys).assert_refused("c.pth", ".safetensors")
