"""Directories of a saved network, as users of diffusers know them."""

import json
from pathlib import Path

import numpy as np
import pytest
from safetensors import safe_open

from mg import backend
from mg.models.tae.tae import TemporalAutoencoder

from .random_network import random_network, values_of


def test_a_saved_network_comes_back_with_its_config_and_weights(tmp_path):
    network = random_network({"scaling_factor": 0.5})
    network.save_pretrained(tmp_path / "new" / "tae")
    again = TemporalAutoencoder.from_pretrained(tmp_path / "new" / "tae", use_tile=True)
    assert again.config == network.config
    assert again.use_tile
    expected = values_of(network)
    for name, value in values_of(again).items():
        np.testing.assert_array_equal(value, expected[name])
    other = TemporalAutoencoder(tmp_path / "new" / "tae", {"shift_factor": 2.0})
    assert other.config == {**network.config, "shift_factor": 2.0}


@pytest.mark.skipif(backend.name != "torch", reason="torch.compile's")
def test_a_network_with_compiled_parts_is_saved_as_if_they_were_not(tmp_path):
    import torch

    network = random_network()
    expected = values_of(network)
    network.encoder = torch.compile(network.encoder)
    network.save_pretrained(tmp_path)
    again = values_of(TemporalAutoencoder.from_pretrained(tmp_path))
    assert set(again) == set(expected)
    assert all(np.array_equal(again[name], expected[name]) for name in expected)


@pytest.mark.once
def test_the_directory_holds_a_config_to_read_and_the_weights_as_safetensors(tmp_path):
    network = random_network()
    network.save_pretrained(tmp_path)
    names = sorted(path.name for path in tmp_path.iterdir())
    assert names == ["config.json", "diffusion_pytorch_model.safetensors"]
    config = json.loads((tmp_path / "config.json").read_text())
    assert config == {"_class_name": "TemporalAutoencoder", **network.config}
    with safe_open(tmp_path / names[1], framework="np") as file:
        assert set(file.keys()) == set(values_of(network))


@pytest.mark.once
def test_what_is_no_saved_network_is_refused_by_name(tmp_path):
    with pytest.raises(NotADirectoryError, match="nowhere: no such directory, expected a saved"):
        TemporalAutoencoder.from_pretrained(tmp_path / "nowhere")
    (tmp_path / "tae.safetensors").touch()
    with pytest.raises(NotADirectoryError, match=r"TemporalAutoencoder\(path\) takes a file"):
        TemporalAutoencoder.from_pretrained(tmp_path / "tae.safetensors")
    with pytest.raises(FileNotFoundError, match="; the folder holds tae.safetensors"):
        TemporalAutoencoder(tmp_path)
    with pytest.raises(FileNotFoundError, match="diffusion_pytorch_model.safetensors: no such"):
        TemporalAutoencoder.from_pretrained(tmp_path)
    random_network().save_pretrained(tmp_path)
    config = tmp_path / "config.json"
    for text, message in (
        ("{", "config.json: not JSON"),
        ("[]", "config.json: expected an object"),
        (
            '{"_class_name": "AutoencoderKL"}',
            "the config of class AutoencoderKL, .*; inflate it first",
        ),
        ('{"sample_size": 8}', "unknown TAE config key 'sample_size'"),
        ("[" * 100_000, "config.json: not JSON"),
        ('{"ch": 128}', "ch is 128, but the weights have 8"),
    ):
        config.write_text(text)
        with pytest.raises(ValueError, match=message):
            TemporalAutoencoder.from_pretrained(tmp_path)
    config.unlink()
    with pytest.raises(FileNotFoundError, match="config.json: no such file"):
        TemporalAutoencoder.from_pretrained(tmp_path)


def test_a_network_that_could_not_be_read_back_is_not_saved(tmp_path):
    network = random_network()
    network.added = random_network().decoder.conv_out
    for save in (network.save_pretrained, lambda path: network.save_checkpoint(path / "a.ckpt")):
        with pytest.raises(ValueError, match=r"\(added.conv_spat.bias\), and could not be read"):
            save(tmp_path)
    assert not any(tmp_path.iterdir())


@pytest.mark.skipif(backend.name == "torch", reason="PyTorch's parameters have no names")
def test_saving_a_part_of_a_model_leaves_the_names_of_its_parameters(tmp_path):
    import mindspore

    class Model(backend.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = random_network(seed=1), random_network(seed=2)

    model = Model()
    before = [parameter.name for parameter in model.get_parameters()]
    assert len({*before}) == len(before)
    model.second.save_pretrained(tmp_path)
    assert [parameter.name for parameter in model.get_parameters()] == before
    mindspore.save_checkpoint(model, str(tmp_path / "all.ckpt"))
    assert set(mindspore.load_checkpoint(str(tmp_path / "all.ckpt"))) == {*before}
    again = values_of(TemporalAutoencoder.from_pretrained(tmp_path))
    assert all((again[name] == array).all() for name, array in values_of(model.second).items())


@pytest.mark.once
def test_a_directory_called_as_the_bundled_weights_is_loaded(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    bundled = TemporalAutoencoder.from_pretrained("small").config
    assert bundled == TemporalAutoencoder("small").config
    network = random_network()
    network.save_pretrained("small")
    for again in (
        TemporalAutoencoder.from_pretrained("small"),
        TemporalAutoencoder(Path("small")),
        TemporalAutoencoder("./small"),
    ):
        assert again.config == network.config
    assert TemporalAutoencoder("small").config == bundled


@pytest.mark.once
def test_notes_in_a_saved_config_are_passed_over(tmp_path):
    network = random_network()
    network.save_pretrained(tmp_path)
    path = tmp_path / "config.json"
    path.write_text(json.dumps({"_diffusers_version": "0.35.0", **json.loads(path.read_text())}))
    assert TemporalAutoencoder.from_pretrained(tmp_path).config == network.config
