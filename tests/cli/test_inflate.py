import json

import numpy as np
import pytest

from mg import backend
from mg.cli import inflate
from mg.models.tae.tae import TAE_CONFIG, TemporalAutoencoder
from mg.models.tae.weights import read_weights

from .support import ROOT, run, run_process

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")

SUFFIXES = [".safetensors", ".ckpt"] if backend.name == "mindspore" else [".safetensors"]


@pytest.fixture(scope="module")
def image_vae(tmp_path_factory):
    """A small random AutoencoderKL shaped as Stable Diffusion 3.5's, and its directory."""
    torch.manual_seed(0)
    vae = diffusers.AutoencoderKL(
        block_out_channels=(32, 64),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=32,
        use_quant_conv=False,
        use_post_quant_conv=False,
        scaling_factor=0.5,
        shift_factor=0.25,
    )
    folder = tmp_path_factory.mktemp("vae")
    vae.save_pretrained(folder)
    return vae.eval(), folder


def inflate_to(source, target, capsys):
    return run(inflate.command, ["--src", source, "--target", target], capsys)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_inflated_checkpoint_treats_an_image_as_the_image_vae_does(
    image_vae, tmp_path, capsys, rng, suffix
):
    vae, folder = image_vae
    target = tmp_path / "models" / f"tae_vae2d{suffix}"
    outcome = inflate_to(folder / "diffusion_pytorch_model.safetensors", target, capsys)
    assert outcome.code == 0, outcome
    assert outcome.err == []
    assert str(target) in outcome.out[0]
    image = rng.uniform(-1, 1, (1, 3, 16, 16)).astype(np.float32)
    tae = TemporalAutoencoder(target)
    with torch.no_grad():
        expected = vae.encode(torch.from_numpy(image)).latent_dist.mean
        decoded = vae.decode(expected).sample.numpy()
    with backend.no_grad():
        z, _, _ = tae.encode(image[:, :, None], sample=False)
        video = tae.decode(z, num_target_frames=1)
    assert np.abs(backend.to_numpy(z)[:, :, 0] - expected.numpy()).max() < 1e-4
    assert np.abs(backend.to_numpy(video)[:, :, 0] - decoded).max() < 1e-4


def test_a_directory_gives_scaling_and_shift_and_a_file_sizes_alone(image_vae, tmp_path, capsys):
    _, folder = image_vae
    for source in (folder, folder / "diffusion_pytorch_model.safetensors"):
        assert inflate_to(source, tmp_path / "tae.safetensors", capsys).code == 0
        _, config = read_weights(tmp_path / "tae.safetensors")
        assert (config["ch"], config["ch_mult"], config["z_channels"]) == (32, [1, 2], 4)
        scaling = (0.5, 0.25) if source == folder else (1.5305, 0.0609)
        assert (config["scaling_factor"], config["shift_factor"]) == scaling
        assert set(config) == set(TAE_CONFIG)


def test_the_seeds_command_works_from_another_directory(image_vae, tmp_path):
    _, folder = image_vae
    script = ROOT / "inflate_vae_to_tae.py"
    target = f"models/tae_vae2d{SUFFIXES[-1]}"
    outcome = run_process(script, "--src", folder, "--target", target, cwd=tmp_path)
    assert outcome.code == 0, outcome
    assert (tmp_path / target).is_file()


def test_a_missing_source_is_named_in_one_line(tmp_path, capsys):
    target = tmp_path / "tae.safetensors"
    for source in (tmp_path / "none.safetensors", tmp_path):
        inflate_to(source, target, capsys).assert_refused(str(source), "no such file")
    run(inflate.command, ["--target", target], capsys).assert_refused("src")
    assert not target.exists()


def test_the_source_is_never_replaced(image_vae, capsys):
    _, folder = image_vae
    weights = folder / "diffusion_pytorch_model.safetensors"
    before = weights.read_bytes()
    for source in (folder, weights):
        inflate_to(source, weights, capsys).assert_refused(str(weights), "itself, expected")
    assert weights.read_bytes() == before


def test_a_damaged_source_is_named_in_one_line(image_vae, tmp_path, capsys):
    _, folder = image_vae
    source, target = tmp_path / "vae.safetensors", tmp_path / "tae.safetensors"
    data = (folder / "diffusion_pytorch_model.safetensors").read_bytes()
    for damaged in (b"", b"no weights", data[:-10], data[:50]):
        source.write_bytes(damaged)
        inflate_to(source, target, capsys).assert_refused(str(source), "safetensors")
    assert not target.exists()


def test_a_config_that_differs_from_the_weights_is_named_in_one_line(image_vae, tmp_path, capsys):
    _, folder = image_vae
    weights = "diffusion_pytorch_model.safetensors"
    (tmp_path / weights).write_bytes((folder / weights).read_bytes())
    config = json.loads((folder / "config.json").read_text())
    (tmp_path / "config.json").write_text(json.dumps({**config, "latent_channels": 8}))
    outcome = inflate_to(tmp_path, tmp_path / "tae.safetensors", capsys)
    outcome.assert_refused("config.json", "z_channels", "8", "4")


def test_a_target_of_another_kind_is_named_in_one_line(image_vae, tmp_path, capsys):
    _, folder = image_vae
    outcome = inflate_to(folder, tmp_path / "tae.pth", capsys)
    outcome.assert_refused("tae.pth", ".safetensors", ".ckpt")
    assert list(tmp_path.iterdir()) == []
