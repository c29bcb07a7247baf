"""LPIPS against the `lpips` package's numbers, and its properties on random weights."""

import json
import re

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from mg.backend import Module, from_numpy, named_parameters, parameter, to_numpy, value_and_grad
from mg.losses.lpips import LPIPS

VGG16 = [(64, 3), (64, 64), (128, 64), (128, 128), (256, 128), (256, 256), (256, 256)]
VGG16 += [(512, 256)] + [(512, 512)] * 5
VGG16_LAYERS = [0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28]


def golden_vgg16():
    """The random features of the golden numbers, by torchvision's names."""
    arrays = {}
    for i, (out_channels, in_channels) in enumerate(VGG16):
        r = np.random.default_rng(100 + i)
        weight = (
            r.standard_normal((out_channels, in_channels, 3, 3)) * (2 / (9 * in_channels)) ** 0.5
        )
        name = f"features.{VGG16_LAYERS[i]}"
        arrays[f"{name}.weight"] = weight.astype(np.float32)
        arrays[f"{name}.bias"] = (0.1 * r.standard_normal(out_channels)).astype(np.float32)
    return arrays


def save(path, arrays):
    arrays = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    safetensors.numpy.save_file(arrays, path)
    return path


@pytest.fixture(scope="module")
def data(test_data):
    folder = test_data / "weights"
    if not (folder / "lpips_squeeze_v0.1.npz").is_file():
        pytest.skip("MG_TEST_DATA holds no weights/lpips_squeeze_v0.1.npz")
    return folder


@pytest.fixture(scope="module")
def vgg(data, tmp_path_factory):
    heads = dict(np.load(data / "lpips_heads_v0.1_vgg.npz"))
    path = tmp_path_factory.mktemp("lpips") / "vgg.safetensors"
    return LPIPS(save(path, {**golden_vgg16(), **heads}))


def squeeze_arrays(data):
    """The arrays of the .npz by the names of torchvision and of the `lpips` package."""
    arrays = {}
    for name, array in np.load(data / "lpips_squeeze_v0.1.npz").items():
        if not name.startswith("scaling_layer."):
            name = re.sub(r"^net\.slice\d+\.", "features.", name)
            arrays[re.sub(r"^lins\.(\d+)\.", r"lin\1.", name)] = array
    return arrays


@pytest.fixture(scope="module")
def squeeze(data, tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "squeeze.safetensors"
    return LPIPS(save(path, squeeze_arrays(data)))


@pytest.fixture(scope="module")
def images(data):
    """The sample images `(1 3 1 h w)` in [-1, 1]."""
    loaded = {}
    for name in ("ref", "p0", "p1"):
        pixels = np.asarray(Image.open(data / f"ex_{name}.png").convert("RGB"), np.float32)
        loaded[name] = (pixels / 127.5 - 1).transpose(2, 0, 1)[None, :, None]
    return loaded


def distance(lpips, first, second):
    return to_numpy(lpips(from_numpy(first), from_numpy(second)))


# Golden numbers


def test_vgg16_gives_the_packages_numbers(vgg, images):
    firsts = np.concatenate([images[name] for name in ("ref", "ref", "p0")])
    seconds = np.concatenate([images[name] for name in ("p0", "p1", "p1")])
    expected = [[0.0550483], [0.0810236], [0.0709953]]
    np.testing.assert_allclose(distance(vgg, firsts, seconds), expected, atol=1e-5)


def test_squeezenet_gives_the_packages_numbers(squeeze, images):
    firsts = np.concatenate([images["ref"]] * 2, axis=2)  # as two frames of one video
    seconds = np.concatenate([images["p0"], images["p1"]], axis=2)
    np.testing.assert_allclose(
        distance(squeeze, firsts, seconds), [[0.711048, 0.147902]], atol=1e-5
    )


# Properties, on random SqueezeNet weights


def random_squeezenet():
    rng = np.random.default_rng(0)
    arrays = {}

    def convolution(name, out_channels, in_channels, kernel):
        spread = (2 / (in_channels * kernel**2)) ** 0.5
        weight = spread * rng.standard_normal((out_channels, in_channels, kernel, kernel))
        arrays[f"{name}.weight"] = weight.astype(np.float32)
        arrays[f"{name}.bias"] = (0.1 * rng.standard_normal(out_channels)).astype(np.float32)

    convolution("features.0", 64, 3, 3)
    width = 64
    fires = {3: (16, 64), 4: (16, 64), 6: (32, 128), 7: (32, 128), 9: (48, 192)}
    fires |= {10: (48, 192), 11: (64, 256), 12: (64, 256)}
    for layer, (narrow, wide) in fires.items():
        convolution(f"features.{layer}.squeeze", narrow, width, 1)
        convolution(f"features.{layer}.expand1x1", wide, narrow, 1)
        convolution(f"features.{layer}.expand3x3", wide, narrow, 3)
        width = 2 * wide
    for head, channels in enumerate((64, 128, 256, 384, 384, 512, 512)):
        weight = rng.random((1, channels, 1, 1), np.float32)
        arrays[f"lin{head}.model.1.weight"] = weight
    return arrays


@pytest.fixture(scope="module")
def lpips(tmp_path_factory):
    path = tmp_path_factory.mktemp("lpips") / "random.safetensors"
    return LPIPS(save(path, random_squeezenet()))


def videos(*shape):
    rng = np.random.default_rng(1)
    return [rng.uniform(-1, 1, shape).astype(np.float32) for _ in range(2)]


def test_there_is_one_number_for_each_frame_that_does_not_see_its_neighbours(lpips):
    first, second = videos(2, 3, 3, 24, 32)
    whole = distance(lpips, first, second)
    assert whole.shape == (2, 3)
    assert (whole > 0.01).all()
    for b, t in np.ndindex(2, 3):
        part = np.s_[b : b + 1, :, t : t + 1]
        alone = distance(lpips, first[part], second[part])
        np.testing.assert_allclose(alone, [[whole[b, t]]], rtol=1e-4)


def test_the_distance_is_symmetric_and_zero_of_equals(lpips):
    first, second = videos(1, 3, 1, 32, 32)
    there, back = distance(lpips, first, second), distance(lpips, second, first)
    np.testing.assert_allclose(there, back, rtol=1e-4)
    np.testing.assert_array_equal(distance(lpips, first, first), [[0]])


class Pixels(Module):
    def __init__(self, array):
        super().__init__()
        self.value = parameter(array)


def slope_at(lpips, video, target):
    (pixels,) = named_parameters(Pixels(video)).values()

    def loss(target):
        distances = lpips(pixels, target)
        return distances.mean(), distances

    _, (slope,) = value_and_grad(loss, [pixels], compile=False)(from_numpy(target))
    return to_numpy(slope)


def test_pixels_receive_a_gradient_which_is_finite_at_equals_and_at_black(lpips):
    first, second = videos(1, 3, 1, 32, 32)
    slope = slope_at(lpips, first, second)
    assert np.isfinite(slope).all()
    assert np.count_nonzero(slope) > slope.size / 2
    assert not slope_at(lpips, first, first).any()
    black = np.full_like(first, -1)
    assert np.isfinite(slope_at(lpips, black, first)).all()


def test_a_step_along_the_gradient_lowers_the_distance(lpips):
    first, second = videos(1, 3, 1, 32, 32)
    slope = slope_at(lpips, first, second)
    nearer = first - 0.05 * slope / abs(slope).max()
    assert distance(lpips, nearer, second) < distance(lpips, first, second)


def test_its_weights_are_no_parameters_to_train(lpips):
    parameters = named_parameters(lpips)
    assert len(parameters) > 50
    assert not [name for name, parameter in parameters.items() if parameter.requires_grad]


# Bad input


@pytest.mark.once
@pytest.mark.parametrize(
    "name", ["features.0.bias", "features.12.expand3x3.weight", "lin6.model.1.weight"]
)
def test_a_missing_weight_is_an_error_that_names_it(tmp_path, name):
    arrays = random_squeezenet()
    del arrays[name]
    path = save(tmp_path / "a.safetensors", arrays)
    with pytest.raises(ValueError, match=f"a.safetensors: not the weights of LPIPS, '{name}' is"):
        LPIPS(path)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "length", "message"),
    [
        ("lin1.model.1.weight", 192, "lin1.model.1.weight has 192 numbers, expected 128"),
        ("lin7.model.1.weight", 64, "'lin7.model.1.weight' is unexpected"),
        ("features.13.weight", 64, "'features.13.weight' is unexpected"),
    ],
)
def test_arrays_of_another_network_are_an_error_that_names_one(tmp_path, name, length, message):
    arrays = {**random_squeezenet(), name: np.ones((1, length, 1, 1), np.float32)}
    path = save(tmp_path / "a.safetensors", arrays)
    with pytest.raises(ValueError, match=f"a.safetensors: not the weights of LPIPS, {message}"):
        LPIPS(path)


@pytest.mark.once
@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("features.0.weight", (64, 4, 3, 3)),
        ("features.0.weight", (64, 3, 5, 5)),
        ("features.3.squeeze.weight", (16, 64, 3, 3)),
        ("features.4.expand3x3.weight", (64, 16)),
        ("features.12.squeeze.bias", (3,)),
    ],
)
def test_a_convolution_that_does_not_fit_is_an_error_that_names_it(tmp_path, name, shape):
    arrays = {**random_squeezenet(), name: np.ones(shape, np.float32)}
    with pytest.raises(ValueError, match=f"{name.rpartition('.')[0]}.weight is "):
        LPIPS(save(tmp_path / "a.safetensors", arrays))


def test_videos_that_its_last_feature_map_does_not_see_are_an_error_with_both_sizes(lpips):
    assert np.isfinite(distance(lpips, *videos(1, 3, 1, 17, 17))).all()
    with pytest.raises(ValueError, match="16x17 pixels, LPIPS needs at least 17x17"):
        distance(lpips, *videos(1, 3, 1, 17, 16))


@pytest.mark.once
def test_a_missing_or_damaged_file_is_an_error_that_names_it(tmp_path):
    path = tmp_path / "a.safetensors"
    with pytest.raises(FileNotFoundError, match="a.safetensors: no such file of LPIPS weights"):
        LPIPS(path)
    path.write_text("no weights at all, but a text")
    with pytest.raises(ValueError, match="a.safetensors: not a whole safetensors file"):
        LPIPS(path)
    for kind, size in (("F8_E4M3", 4), ("F8_E5M2", 4), ("I32", 1)):
        entry = {"dtype": kind, "shape": [size], "data_offsets": [0, 4]}
        header = json.dumps({"features.0.weight": entry}).encode()
        path.write_bytes(len(header).to_bytes(8, "little") + header + bytes(4))
        with pytest.raises(ValueError, match=f"features.0.weight is of type {kind}, expected"):
            LPIPS(path)
    save(path, random_squeezenet())
    path.write_bytes(path.read_bytes()[:-5])
    with pytest.raises(ValueError, match="a.safetensors: not a whole safetensors file"):
        LPIPS(path)
