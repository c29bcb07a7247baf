"""Mean and standard deviation of a directory of latents, from which scaling and shift follow."""

import os
from dataclasses import dataclass

import numpy as np
from tqdm import tqdm

from mg.latents.dataset import LatentDataset

_OF = {
    "mean": "means of the posterior, which vary less than its samples",
    "sample": "samples of the posterior",
    "moments": "the posterior: variance of its means plus mean of its variances",
}


@dataclass
class Spread:
    """How many values there are of each channel, their mean and their summed squared deviation
    from it; float64 `(c)`."""

    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    def joined(self, other: "Spread") -> "Spread":
        """The spread of both sets of values (Chan, Golub and LeVeque, 1979)."""
        count = self.count + other.count
        apart = other.mean - self.mean
        mean = self.mean + apart * (other.count / count)
        squares = self.squares + other.squares + apart**2 * (self.count * other.count / count)
        return Spread(count, mean, squares)

    def over_channels(self) -> "Spread":
        """All channels as one, `(1)`."""
        count, mean = self.count.sum(), (self.count * self.mean).sum() / self.count.sum()
        squares = (self.squares + self.count * (self.mean - mean) ** 2).sum()
        return Spread(*(np.array([value]) for value in (count, mean, squares)))

    @property
    def std(self) -> np.ndarray:
        """Standard deviation of the whole population."""
        return np.sqrt(self.squares / self.count)


def latent_statistics(latents: LatentDataset | str | os.PathLike) -> dict:
    """Mean and standard deviation of raw latents, computed in float64, each stored array once.

    Args:
        latents: a dataset, or its directory.

    Returns:
        "latents", how many arrays; "values", how many numbers in all; "of", what was measured;
        "mean" and "std" over all; "channel_mean" and "channel_std"; "shift_factor" = mean and
        "scaling_factor" = 1 / std, with which scaled latents have mean 0 and deviation 1
        (`scaling_factor` None if std is 0); and those of the TAE's config, "config_shift_factor"
        and "config_scaling_factor".

    Raises:
        FileNotFoundError, ValueError, OSError: as in `LatentDataset`; or latents are not finite.
    """
    dataset = latents if isinstance(latents, LatentDataset) else LatentDataset(latents)
    spread = None
    indices = dataset.distinct()
    for index in tqdm(indices, unit="latent"):
        new = _spread(dataset, index)
        spread = new if spread is None else spread.joined(new)
    assert spread is not None
    whole = spread.over_channels()
    mean, std = float(whole.mean[0]), float(whole.std[0])
    config = dataset.encoding.tae_config
    return {
        "latents": len(indices),
        "values": int(whole.count[0]),
        "of": _OF[dataset.encoding.stored],
        "mean": mean,
        "std": std,
        "channel_mean": spread.mean.tolist(),
        "channel_std": spread.std.tolist(),
        "shift_factor": mean,
        "scaling_factor": 1 / std if std else None,
        "config_shift_factor": config["shift_factor"],
        "config_scaling_factor": config["scaling_factor"],
    }


def _spread(dataset: LatentDataset, index: int) -> Spread:
    stored, encoding = dataset.stored(index), dataset.encoding
    halves = np.split(stored, 2) if encoding.stored == "moments" else [stored]
    channels = []
    for values in zip(*halves, strict=True):  # one by one, since float64 takes memory
        z, *logvars = (encoding.to_raw(array, np.float64) for array in values)
        with np.errstate(all="ignore"):  # what is not finite is found below
            mean = z.mean()
            squares = ((z - mean) ** 2).sum() + sum(np.exp(logvar).sum() for logvar in logvars)
        channels.append((z.size, mean, squares))
    spread = Spread(*np.array(channels, np.float64).T)
    if not (np.isfinite(spread.mean).all() and np.isfinite(spread.squares).all()):
        row = dataset.row(index)
        raise ValueError(f"{dataset.directory}: the latents {row.key} of {row.file} are not finite")
    return spread
