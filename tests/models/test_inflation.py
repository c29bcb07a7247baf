"""An inflated image autoencoder against diffusers' own, with random weights."""

import json
import os
import shutil
import subprocess
import sys
from importlib.util import find_spec

import numpy as np
import pytest
import safetensors.numpy

from mg.backend import to_numpy
from mg.models.tae.inflation import inflate
from mg.models.tae.tae import TAE_CONFIG, TemporalAutoencoder
from mg.models.tae.weights import WEIGHTS_FILE, write_weights

from .random_network import random_video

SD35 = {
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 16,
    "norm_num_groups": 32,
    "use_quant_conv": False,
    "use_post_quant_conv": False,
    "scaling_factor": 1.5305,
    "shift_factor": 0.0609,
}
VAES = {
    "as SD3.5's": {**SD35, "block_out_channels": (8, 16, 16, 16), "norm_num_groups": 4},
    "with quant convolutions and another depth": {
        "block_out_channels": (8, 8, 24),
        "layers_per_block": 1,
        "latent_channels": 4,
        "norm_num_groups": 2,
        "scaling_factor": 0.18215,
    },
}


def image_vae(folder, seed=0, **changes):
    """A random AutoencoderKL, also saved to `folder` as diffusers saves it."""
    torch = pytest.importorskip("torch")
    diffusers = pytest.importorskip("diffusers")
    levels = len(changes["block_out_channels"])
    torch.manual_seed(seed)
    vae = diffusers.AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * levels,
        up_block_types=("UpDecoderBlock2D",) * levels,
        **changes,
    ).eval()
    with torch.no_grad():
        for name, parameter in vae.named_parameters():
            if parameter.ndim == 1:  # biases and norms, which start as zeros and ones
                parameter.copy_(0.3 * torch.randn(parameter.shape) + ("norm" in name))
    vae.save_pretrained(folder)
    return vae


def vae_encode(vae, images):
    """(mean, logvar) of images `(n 3 h w)`."""
    import torch

    with torch.no_grad():
        posterior = vae.encode(torch.from_numpy(images)).latent_dist
    return posterior.mean.numpy(), posterior.logvar.numpy()


def vae_decode(vae, z):
    import torch

    with torch.no_grad():
        return vae.decode(torch.from_numpy(np.ascontiguousarray(z))).sample.numpy()


def inflated(source, folder):
    """The TAE of an image autoencoder, by way of its own checkpoint."""
    target = folder / "inflated.safetensors"
    write_weights(target, *inflate(source))
    return TemporalAutoencoder(target)


@pytest.fixture(scope="module", params=VAES.values(), ids=VAES.keys())
def pair(request, tmp_path_factory):
    """(the image autoencoder, the TAE it is inflated to)."""
    folder = tmp_path_factory.mktemp("vae")
    vae = image_vae(folder, **request.param)
    return vae, inflated(folder, folder)


def compare_images(vae, tae, image):
    z, mean, logvar = tae.encode(image[:, :, None], sample=False)
    expected_mean, expected_logvar = vae_encode(vae, image)
    np.testing.assert_allclose(to_numpy(mean)[:, :, 0], expected_mean, atol=1e-4)
    np.testing.assert_allclose(to_numpy(logvar)[:, :, 0], expected_logvar, atol=1e-4)
    decoded = to_numpy(tae.decode(z, num_target_frames=1))[:, :, 0]
    np.testing.assert_allclose(decoded, vae_decode(vae, expected_mean), atol=1e-4)


def compare_videos(vae, tae, video):
    factor = tae.compression
    _, mean, logvar = map(to_numpy, tae.encode(video, sample=False))
    decoded = to_numpy(tae.decode(mean))
    assert mean.shape[2] == len(range(0, video.shape[2], factor)) > 1
    for latent, frame in enumerate(range(0, video.shape[2], factor)):
        expected_mean, expected_logvar = vae_encode(vae, video[:, :, frame])
        np.testing.assert_allclose(mean[:, :, latent], expected_mean, atol=1e-4)
        np.testing.assert_allclose(logvar[:, :, latent], expected_logvar, atol=1e-4)
        expected = vae_decode(vae, mean[:, :, latent])[:, :, None].repeat(factor, 2)
        frames = decoded[:, :, latent * factor : (latent + 1) * factor]
        np.testing.assert_allclose(frames, expected, atol=1e-4)


def test_inflated_tae_equals_image_vae_on_an_image(pair):
    compare_images(*pair, random_video(2, 3, 16, 24))


def test_inflated_tae_equals_image_vae_on_every_frame(pair):
    compare_videos(*pair, random_video(1, 3, 17, 16, 8))


@pytest.mark.slow
def test_inflated_tae_of_full_size_equals_image_vae(tmp_path):
    vae = image_vae(tmp_path, **SD35)
    tae = inflated(tmp_path, tmp_path)
    assert tae.config == TAE_CONFIG
    compare_images(vae, tae, random_video(1, 3, 64, 64))
    compare_videos(vae, tae, random_video(1, 3, 9, 32, 32))


def test_a_directorys_config_gives_sizes_scaling_and_shift(pair):
    vae, tae = pair
    given = vae.config
    ch, *_ = widths = given["block_out_channels"]
    assert tae.config == {
        "in_channels": 3,
        "out_ch": 3,
        "ch": ch,
        "ch_mult": [width // ch for width in widths],
        "num_res_blocks": given["layers_per_block"],
        "z_channels": given["latent_channels"],
        "num_groups": given["norm_num_groups"],
        "use_quant_conv": given["use_quant_conv"],
        "use_post_quant_conv": given["use_post_quant_conv"],
        "scaling_factor": given["scaling_factor"],
        "shift_factor": given["shift_factor"] or 0.0,
        "attention_window": 4,
        "norm_scope": "frame",
        "upsample_padding": "replicate",
    }


# The weights' file alone tells sizes but not the number of groups, which is 32 in that family
SMALL = {**SD35, "block_out_channels": (32, 32), "layers_per_block": 1}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    folder = tmp_path_factory.mktemp("small")
    return folder, image_vae(folder, **SMALL)


@pytest.fixture
def copied(small, tmp_path):
    """A directory of one's own to spoil."""
    return shutil.copytree(small[0], tmp_path / "vae")


def read(folder):
    return safetensors.numpy.load_file(folder / WEIGHTS_FILE)


def rewrite(folder, arrays):
    safetensors.numpy.save_file(arrays, folder / WEIGHTS_FILE)


def rewrite_config(folder, **changes):
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def test_without_a_config_sizes_come_from_the_weights(small, tmp_path):
    folder, vae = small
    tae = inflated(folder / WEIGHTS_FILE, tmp_path)
    sizes = {"ch": 32, "ch_mult": [1, 1], "num_res_blocks": 1}
    assert tae.config == {**TAE_CONFIG, **sizes}
    compare_images(vae, tae, random_video(1, 3, 8, 12))


def test_a_directory_without_a_config_is_as_its_file_alone(copied):
    (copied / "config.json").unlink()
    _, config = inflate(copied)
    assert config == inflate(copied / WEIGHTS_FILE)[1]


def test_scaling_and_shift_of_flux_come_through_its_config(copied):
    rewrite_config(copied, scaling_factor=0.3611, shift_factor=0.1159)
    _, config = inflate(copied)
    assert (config["scaling_factor"], config["shift_factor"]) == (0.3611, 0.1159)


def test_a_config_without_a_scaling_factor_has_the_default_of_diffusers(copied):
    import diffusers

    path = copied / "config.json"
    config = json.loads(path.read_text())
    del config["scaling_factor"]
    path.write_text(json.dumps(config))
    default = diffusers.AutoencoderKL.from_pretrained(copied).config.scaling_factor
    assert inflate(copied)[1]["scaling_factor"] == default


def test_legacy_names_of_attention_give_the_same_weights(copied):
    expected, _ = inflate(copied)
    legacy = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    arrays = {}
    for name, array in read(copied).items():
        for new, old in legacy.items():
            name = name.replace(f"attentions.0.{new}.", f"attentions.0.{old}.")
        arrays[name] = array
    assert "decoder.mid_block.attentions.0.proj_attn.weight" in arrays
    rewrite(copied, arrays)
    renamed, _ = inflate(copied)
    for name, array in expected.items():
        np.testing.assert_array_equal(renamed[name], array)


def test_the_temporal_part_starts_as_in_a_new_network(copied):
    arrays, config = inflate(copied)
    initial = TemporalAutoencoder(config=config)
    from .random_network import values_of

    spatial = len(read(copied))
    equal = {name for name, value in values_of(initial).items() if (value == arrays[name]).all()}
    assert len(equal) == len(arrays) - spatial > 50


# Bad input


def test_a_missing_spatial_weight_is_an_error_that_names_it(copied):
    arrays = read(copied)
    del arrays["decoder.up_blocks.1.resnets.0.norm2.weight"]
    rewrite(copied, arrays)
    with pytest.raises(ValueError, match=r"vae: decoder.up.0.block.0.norm2.gamma is missing"):
        inflate(copied)


def test_a_misshapen_spatial_weight_is_an_error_that_gives_both_shapes(copied):
    arrays = read(copied)
    arrays["encoder.mid_block.resnets.1.conv2.bias"] = np.zeros(5, np.float32)
    rewrite(copied, arrays)
    message = r"encoder.mid.block_2.conv2.conv_spat.bias is \(5,\), expected \(32,\)"
    with pytest.raises(ValueError, match=message):
        inflate(copied)


def test_weights_that_are_not_finite_are_an_error_that_names_one(copied):
    name = "decoder.up_blocks.1.resnets.0.norm2.weight"
    arrays = read(copied)
    rewrite(copied, {**arrays, name: np.full_like(arrays[name], np.nan)})
    with pytest.raises(ValueError, match=r"decoder.up.0.block.0.norm2.gamma holds NaN or infin"):
        inflate(copied)


def test_an_unexpected_weight_is_an_error_that_names_it(copied):
    rewrite(copied, {**read(copied), "encoder.time_embedding.weight": np.zeros(5, np.float32)})
    with pytest.raises(ValueError, match=r"vae: encoder.time_embedding.weight is of no Autoenc"):
        inflate(copied)


def test_weights_of_another_network_are_an_error_that_names_the_file(tmp_path):
    rewrite(tmp_path, {"fc.weight": np.zeros((2, 2), np.float32)})
    message = rf"{WEIGHTS_FILE}: not the weights of diffusers' AutoencoderKL"
    with pytest.raises(ValueError, match=message):
        inflate(tmp_path)
    rewrite(tmp_path, {"encoder.down_blocks.0.weight": np.zeros((2, 2), np.float32)})
    with pytest.raises(ValueError, match=rf"{WEIGHTS_FILE}: not the weights of a TAE"):
        inflate(tmp_path)


def test_a_missing_file_is_an_error(tmp_path):
    for source in (tmp_path, tmp_path / "none", tmp_path / "none.safetensors"):
        with pytest.raises(FileNotFoundError, match="no such file of an AutoencoderKL's weights"):
            inflate(source)


def test_a_damaged_file_is_an_error_that_names_it(copied):
    file = copied / WEIGHTS_FILE
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(ValueError, match=f"{WEIGHTS_FILE}: not a whole safetensors file"):
        inflate(copied)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_channels": 8}, "z_channels is 8, but the weights have 16"),
        ({"layers_per_block": 2}, "num_res_blocks is 2, but the weights have 1"),
        ({"block_out_channels": [32, 64]}, r"ch_mult is \[1, 2\], but the weights have \[1, 1\]"),
        ({"use_quant_conv": True}, "use_quant_conv is True, but the weights have False"),
        ({"act_fn": "relu"}, "act_fn is 'relu', the TAE has 'silu'"),
        ({"mid_block_add_attention": False}, "mid_block_add_attention is false"),
        ({"block_out_channels": []}, "not the config of a fitting AutoencoderKL"),
        ({"block_out_channels": None}, "not the config of a fitting AutoencoderKL"),
        ({"scaling_factor": "large"}, "not the config of a fitting AutoencoderKL"),
    ],
    ids=str,
)
@pytest.mark.once
def test_a_config_that_disagrees_is_an_error_that_names_it(copied, changes, message):
    rewrite_config(copied, **changes)
    with pytest.raises(ValueError, match=f"config.json: .*{message}"):
        inflate(copied)


@pytest.mark.once
@pytest.mark.parametrize("text", ["", "[]", "{", "{}", "[" * 100_000], ids=lambda text: text[:2])
def test_a_config_that_is_none_is_an_error_that_names_it(copied, text):
    (copied / "config.json").write_text(text)
    with pytest.raises(ValueError, match="config.json: not the config of a fitting AutoencoderKL"):
        inflate(copied)


@pytest.mark.once
def test_inflation_on_mindspore_imports_neither_torch_nor_diffusers(small):
    if not find_spec("mindspore"):
        pytest.skip("needs MindSpore")
    program = (
        "import sys; from mg.models.tae.inflation import inflate; inflate(sys.argv[1]); "
        "print([name for name in ('torch', 'diffusers') if name in sys.modules])"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, str(small[0])],
        env={**os.environ, "MG_BACKEND": "mindspore"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert finished.stdout.strip() == "[]", finished.stderr


@pytest.mark.once
def test_what_an_old_config_leaves_out_is_as_diffusers_has_it(tmp_path):
    image_vae(tmp_path, block_out_channels=(32, 32))
    expected = inflate(tmp_path)[1]
    path = tmp_path / "config.json"
    config = json.loads(path.read_text())
    left_out = ("norm_num_groups", "use_quant_conv", "use_post_quant_conv", "act_fn")
    path.write_text(json.dumps({k: v for k, v in config.items() if k not in left_out}))
    assert inflate(tmp_path)[1] == expected


@pytest.mark.once
def test_a_number_that_no_float_holds_is_an_error(copied):
    rewrite_config(copied, scaling_factor=10**400)
    with pytest.raises(
        ValueError, match=r"config\.json: not the config of a fitting AutoencoderKL"
    ):
        inflate(copied)
