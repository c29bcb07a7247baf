"""Against numpy in float64, which sees all numbers at once."""

import json

import numpy as np
import pytest
from cli.support import run

from mg.cli.stats import command
from mg.latents import LatentDataset
from mg.latents.manifest import write_manifest
from mg.latents.shards import shard_paths
from mg.latents.stats import latent_statistics

from .latent_files import CONFIG, write_latents

pytestmark = pytest.mark.once


def by_channel(arrays):
    """float64 (c n)."""
    arrays = [array.astype(np.float64).reshape(len(array), -1) for array in arrays]
    return np.concatenate(arrays, 1)


def assert_statistics(found, z):
    assert found["values"] == z.size
    expected = {"mean": z.mean(), "std": z.std()}
    expected |= {"channel_mean": z.mean(1), "channel_std": z.std(1)}
    expected |= {"shift_factor": z.mean(), "scaling_factor": 1 / z.std()}
    for key, value in expected.items():
        np.testing.assert_allclose(found[key], value, rtol=1e-12, err_msg=key)
    after = found["scaling_factor"] * (z - found["shift_factor"])
    assert abs(after.mean()) < 1e-12 and abs(after.std() - 1) < 1e-12


@pytest.mark.parametrize("stored", ["mean", "sample"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_numbers_are_numpys(tmp_path, stored, precision):
    arrays = write_latents(tmp_path, stored=stored, precision=precision)
    found = latent_statistics(tmp_path)
    assert found["latents"] == len(arrays)
    assert stored in found["of"]
    assert_statistics(found, by_channel(arrays.values()))


def test_scaled_latents_are_unscaled_first(tmp_path):
    arrays = write_latents(tmp_path, scaled=True)
    z = by_channel(arrays.values()) / CONFIG["scaling_factor"] + CONFIG["shift_factor"]
    found = latent_statistics(tmp_path)
    assert_statistics(found, z)
    assert found["config_scaling_factor"] == CONFIG["scaling_factor"]
    assert found["config_shift_factor"] == CONFIG["shift_factor"]


def test_of_moments_it_is_the_spread_of_samples(tmp_path):
    arrays = write_latents(tmp_path, stored="moments")
    mean, logvar = np.split(by_channel(arrays.values()), 2)
    found = latent_statistics(tmp_path)
    assert found["mean"] == pytest.approx(mean.mean(), rel=1e-12)
    assert found["std"] == pytest.approx(np.sqrt(mean.var() + np.exp(logvar).mean()), rel=1e-12)
    rng = np.random.default_rng(0)
    many = mean + np.exp(logvar / 2) * rng.standard_normal((4000, *mean.shape))
    assert found["std"] == pytest.approx(many.std(), rel=0.01)
    np.testing.assert_allclose(found["channel_std"], many.std((0, 2)), rtol=0.03)


def test_a_small_spread_about_a_large_mean_is_not_lost(tmp_path):
    class Far:
        def standard_normal(self, shape):
            return 1e6 + np.random.default_rng(shape).standard_normal(shape)

    z = by_channel(write_latents(tmp_path, rng=Far()).values())
    exact = np.sqrt(np.mean((z - z.mean()) ** 2))
    assert latent_statistics(tmp_path)["std"] == pytest.approx(exact, rel=1e-12)
    summed = np.sqrt((z**2).mean() - z.mean() ** 2)  # what keeps few digits, even in float64
    assert summed != pytest.approx(exact, rel=1e-8)


def test_equal_numbers_have_no_scaling_factor(tmp_path):
    class Ones:
        def standard_normal(self, shape):
            return np.ones(shape)

    write_latents(tmp_path, rng=Ones())
    found = latent_statistics(tmp_path)
    assert (found["mean"], found["std"], found["scaling_factor"]) == (1, 0, None)


def test_what_two_files_share_counts_once(tmp_path):
    write_latents(tmp_path)
    dataset = LatentDataset(tmp_path)
    before = latent_statistics(tmp_path)
    rows = [dataset.row(index) for index in range(len(dataset))]
    again = [row._replace(file="again.mp4") for row in rows if row.file == "0.mp4"]
    write_manifest(tmp_path, rows + again, dataset.encoding)
    assert len(LatentDataset(tmp_path)) == len(rows) + 2
    assert latent_statistics(tmp_path) == before


def test_numbers_that_are_not_finite_are_named(tmp_path):
    class Bad:
        def standard_normal(self, shape):
            return np.full(shape, np.inf)

    write_latents(tmp_path, rng=Bad())
    with pytest.raises(ValueError, match="are not finite"):
        latent_statistics(tmp_path)


# The command


def test_the_command_prints_json(tmp_path, capsys):
    write_latents(tmp_path)
    outcome = run(command, [tmp_path], capsys)
    assert outcome.code == 0
    assert json.loads("\n".join(outcome.out)) == latent_statistics(tmp_path)


def test_what_is_wrong_is_one_line(tmp_path, capsys):
    run(command, [tmp_path / "none"], capsys).assert_refused("none", "manifest")
    run(command, [], capsys).assert_refused("directory")
    write_latents(tmp_path)
    shard_paths(tmp_path)[0].write_bytes(b"")
    run(command, [tmp_path], capsys).assert_refused("the manifest tells of", "delete it")
