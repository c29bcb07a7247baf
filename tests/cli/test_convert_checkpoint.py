import numpy as np
import pytest
from latents.latent_files import write_latents

from mg.cli import convert_checkpoint
from mg.files import sha256
from mg.latents.stats import latent_statistics
from mg.models.tae.weights import read_weights, write_weights

from .support import run, write_checkpoint


def convert(source, target, capsys):
    return run(convert_checkpoint.command, ["--src", source, "--target", target], capsys)


def assert_same(first, second):
    (arrays, config), (others, other_config) = read_weights(first), read_weights(second)
    assert config == other_config
    assert arrays.keys() == others.keys()
    assert all(np.array_equal(arrays[name], others[name]) for name in arrays)


def test_there_and_back_changes_nothing(tmp_path, capsys):
    first = write_checkpoint(tmp_path / "a.safetensors", norm_scope="clip", scaling_factor=0.5)
    assert convert(first, tmp_path / "b.ckpt", capsys).code == 0
    assert convert(tmp_path / "b.ckpt", tmp_path / "c" / "c.safetensors", capsys).code == 0
    assert_same(first, tmp_path / "b.ckpt")
    assert_same(first, tmp_path / "c" / "c.safetensors")


def test_mindones_checkpoint_gets_its_config_and_loses_what_is_unused(test_data, tmp_path, capsys):
    target = tmp_path / "tae.safetensors"
    source = test_data / "golden" / "mindone_tae_dev.ckpt"
    assert convert(source, target, capsys).code == 0
    arrays, config = read_weights(target)
    assert (config["norm_scope"], config["upsample_padding"]) == ("clip", "zeros")
    assert config["ch"] == 32
    assert not [name for name in arrays if "temb_proj" in name]


def test_safetensors_are_copied(tmp_path, capsys):
    first = write_checkpoint(tmp_path / "a.safetensors")
    outcome = convert(first, tmp_path / "b.safetensors", capsys)
    assert outcome.code == 0
    assert outcome.out == [f"Wrote {tmp_path / 'b.safetensors'}"]
    assert_same(first, tmp_path / "b.safetensors")


def test_what_does_not_fit_is_named_and_nothing_is_written(tmp_path, capsys):
    source, target = write_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    arrays, config = read_weights(source)
    name = "encoder.conv_in.conv_temp.weight"
    for changed, expected in (
        ({**arrays, name: arrays[name][:1]}, (name,)),
        ({key: value for key, value in arrays.items() if key != name}, (name, "none")),
        ({**arrays, "extra": arrays[name]}, ("extra", "none")),
    ):
        write_weights(source, changed, config)
        convert(source, target, capsys).assert_refused(str(source), *expected)
        assert not target.exists()


def test_a_missing_source_is_named_in_one_line(tmp_path, capsys):
    outcome = convert(tmp_path / "none.safetensors", tmp_path / "b.safetensors", capsys)
    outcome.assert_refused("none.safetensors", "no such checkpoint")


@pytest.mark.once
def test_half_precision_halves_the_file_and_rounds_each_number(tmp_path, capsys):
    source, target = write_checkpoint(tmp_path / "a.safetensors", ch=64), tmp_path / "b.safetensors"
    outcome = run(
        convert_checkpoint.command, ["--src", source, "--target", target, "--half"], capsys
    )
    assert outcome.code == 0
    assert target.stat().st_size < 0.6 * source.stat().st_size
    (arrays, config), (halved, same) = read_weights(source), read_weights(target)
    assert config == same
    for name, array in arrays.items():
        np.testing.assert_array_equal(halved[name], array.astype(np.float16))


@pytest.mark.once
def test_what_half_precision_does_not_hold_is_named_and_nothing_is_written(tmp_path, capsys):
    source, target = write_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    arrays, config = read_weights(source)
    name = next(iter(arrays))
    for value in (1e6, np.inf, np.nan):
        write_weights(source, {**arrays, name: np.full_like(arrays[name], value)}, config)
        args = ["--src", source, "--target", target, "--half"]
        run(convert_checkpoint.command, args, capsys).assert_refused(name)
        assert not target.exists()


@pytest.mark.once
def test_scaling_comes_from_latents_of_the_same_checkpoint(tmp_path, capsys):
    source, target = write_checkpoint(tmp_path / "a.safetensors"), tmp_path / "b.safetensors"
    latents, others = tmp_path / "latents", tmp_path / "others"
    write_latents(latents, checkpoint_sha256=sha256(source))
    write_latents(others)
    args = ["--src", source, "--target", target, "--latents"]
    run(convert_checkpoint.command, [*args, others], capsys).assert_refused("of another checkpoint")
    missing = ["--src", tmp_path / "none.safetensors", *args[2:], latents]
    run(convert_checkpoint.command, missing, capsys).assert_refused("none.safetensors: no such")
    assert not target.exists()
    assert run(convert_checkpoint.command, [*args, latents], capsys).code == 0
    (arrays, config), (same, scaled) = read_weights(source), read_weights(target)
    assert all(np.array_equal(arrays[name], same[name]) for name in arrays)
    factors = {key: latent_statistics(latents)[key] for key in ("scaling_factor", "shift_factor")}
    assert scaled == {**config, **factors}
