"""One update of the weights."""

import logging
import math

import numpy as np

from mg import backend
from mg.losses.objective import Objective
from mg.models.tae.tae import TemporalAutoencoder

logger = logging.getLogger(__name__)


class TrainStep:
    """Losses and gradients of batches, averaged, clipped and applied.

    Args:
        tae: the network to train.
        objective: its loss.
        optimizer: `backend.AdamW` over the network's parameters, in their order.
        max_grad_norm: largest global norm of the gradients, 0 for any.
        compile, jit_level: see `backend.value_and_grad`.
        seed: of the sampled latents.
    """

    def __init__(
        self,
        tae: TemporalAutoencoder,
        objective: Objective,
        optimizer: backend.AdamW,
        *,
        max_grad_norm: float = 1.0,
        compile: bool | None = None,
        jit_level: str = "O0",
        seed: int = 0,
    ):
        def losses(video, noise):
            reconstruction, z, mean, logvar = tae.reconstruct(video, noise)
            return objective(video, reconstruction, z, mean, logvar)

        self._tae, self._names, self._optimizer = tae, objective.names, optimizer
        self._max_grad_norm, self._seed = max_grad_norm, seed
        parameters = list(backend.named_parameters(tae).values())
        self._gradients = backend.value_and_grad(
            losses, parameters, compile=compile, jit_level=jit_level
        )

    def __call__(
        self, step: int, videos: list[np.ndarray], learning_rate: float
    ) -> dict[str, float]:
        """Update the weights by the mean gradient of `videos`, each a batch `(b c t h w)`.

        A loss or gradient that is not finite leaves the weights as they are, with a warning.

        Returns:
            The means over `videos`: "loss", "psnr" in dB, each term of the loss unweighted; and
            "grad_norm" before clipping.
        """
        values, sums = [], []
        for number, video in enumerate(videos):
            noise = self._noise((self._seed, step, number), video.shape)
            outputs, gradients = self._gradients(backend.from_numpy(video), noise)
            values.append([float(output) for output in outputs])
            sums = [a + b for a, b in zip(sums, gradients, strict=True)] if sums else gradients
        norm = backend.global_norm(sums) / len(videos)
        loss, error, *terms = np.mean(values, axis=0)
        if math.isfinite(norm) and math.isfinite(loss):
            clip = self._max_grad_norm / norm if 0 < self._max_grad_norm < norm else 1.0
            self._optimizer.step(sums, learning_rate, scale=clip / len(videos))
        else:
            logger.warning("step %d not applied: loss %s, gradient norm %s", step, loss, norm)
        with np.errstate(divide="ignore"):  # without any error, infinite
            psnr = 10 * float(np.log10(4) - np.log10(error))
        terms = dict(zip(self._names, map(float, terms), strict=True))
        return {"loss": float(loss), "psnr": psnr, **terms, "grad_norm": norm}

    def _noise(self, seed: tuple[int, ...], video_shape: tuple[int, ...]) -> backend.Tensor:
        """Standard normal numbers for the latents: the same on every framework."""
        latents = (self._tae.config["z_channels"], *self._tae.latent_size(*video_shape[2:]))
        rng = np.random.default_rng(seed)
        return backend.from_numpy(rng.standard_normal((video_shape[0], *latents), dtype=np.float32))
