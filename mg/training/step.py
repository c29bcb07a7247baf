"""One update of the weights."""

import logging
import math
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np

from mg import backend, ranks
from mg.arrays import Arrays
from mg.losses.objective import Objective
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import check_fit, load_strictly
from mg.training.adversary import Adversary
from mg.training.loss_scale import LossScale
from mg.training.optimizer_state import check_count, optimizer_state, restore_optimizer

logger = logging.getLogger(__name__)


class TrainStep:
    """Losses and gradients of batches, averaged over batches and processes, clipped and applied;
    and all that has to be kept from one update to the next.

    Args:
        tae: the network to train.
        objective: its loss.
        optimizer: `backend.AdamW` over the network's parameters, in their order.
        max_grad_norm: largest global norm of the gradients, 0 for any.
        ema_decay: of the moving average of the weights; 0 for no average.
        loss_scale: for fp16; None for no scaling.
        adversary: the discriminator and its loss, or None.
        disc_start: updates before it joins.
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
        ema_decay: float = 0.0,
        loss_scale: LossScale | None = None,
        adversary: Adversary | None = None,
        disc_start: int = 0,
        compile: bool | None = None,
        jit_level: str = "O0",
        seed: int = 0,
    ):
        def losses(video, noise, scale):
            reconstruction, z, mean, logvar = tae.reconstruct(video, noise)
            outputs = objective(video, reconstruction, z, mean, logvar)
            return (outputs[0] * scale, *outputs)

        self._tae, self._names, self._optimizer = tae, objective.names, optimizer
        self._max_grad_norm, self._ema_decay, self._seed = max_grad_norm, ema_decay, seed
        self._loss_scale = loss_scale
        self._adversary, self._disc_start = adversary, disc_start
        self._parameters = backend.named_parameters(tae)
        parameters = list(self._parameters.values())
        self._average = backend.MovingAverage(parameters) if ema_decay else None
        self._gradients = backend.value_and_grad(
            losses, parameters, compile=compile, jit_level=jit_level
        )
        self.applied = 0
        self.skipped = 0
        self.skipped_in_row = 0

    def __call__(
        self, step: int, videos: list[np.ndarray], learning_rate: float
    ) -> dict[str, float]:
        """Update the weights by the mean gradient of `videos` and of those of all other processes
        of the run.

        A loss or gradient that is not finite anywhere leaves the weights everywhere as they are.

        Args:
            step: this update's number, from 1.
            videos: its batches, `(b c t h w)` in [-1, 1].
            learning_rate: of this update.

        Returns:
            The means over the videos of all processes: "loss", "psnr" in dB, each term of the loss
            unweighted; "grad_norm" before clipping; "skipped_updates" so far; with fp16,
            "loss_scale"; with an adversary at work, what it adds.
        """
        scale = self._loss_scale.value if self._loss_scale else 1.0
        adversary = self._adversary if step > self._disc_start else None
        share = 1 / (len(videos) * backend.world_size())
        values, sums = [], []
        for number, video in enumerate(videos):
            inputs = (
                backend.from_numpy(video),
                self._noise(step, number, video.shape),
                backend.from_numpy(np.asarray(scale, np.float32)),
            )
            outputs, gradients = (adversary.gradients if adversary else self._gradients)(*inputs)
            values.append([float(output) for output in outputs[1:]])
            sums = [a + b for a, b in zip(sums, gradients, strict=True)] if sums else gradients
        sums = ranks.all_reduce_sum(sums)
        loss, error, *terms = ranks.mean(np.mean(values, axis=0))
        norm = backend.global_norm(sums) * share / scale
        finite = fits = math.isfinite(norm) and math.isfinite(loss)
        if adversary:  # whose own gradients, in float32, say nothing of the loss scale
            finite = adversary.update(learning_rate, share, apply=finite)
        if finite:
            clip = self._max_grad_norm / norm if 0 < self._max_grad_norm < norm else 1.0
            self._optimizer.step(sums, learning_rate, scale=clip * share / scale)
        self._count(finite, loss, fits)
        with np.errstate(divide="ignore"):  # without any error, infinite
            psnr = 10 * float(np.log10(4) - np.log10(error))
        names = [*self._names, *(adversary.names if adversary else [])]
        metrics = {"loss": float(loss), "psnr": psnr}
        metrics |= dict(zip(names, map(float, terms), strict=True))
        metrics |= {"grad_norm": norm} | ({"loss_scale": scale} if self._loss_scale else {})
        return {**metrics, "skipped_updates": self.skipped}

    def _count(self, finite: bool, loss: float, fits: bool) -> None:
        expected = self._loss_scale is not None and self._loss_scale.update(fits)
        if finite:
            self.applied += 1
            self.skipped_in_row = 0
            if self._average:
                # As if the average were over all weights so far, while these are few.
                self._average.update(min(self._ema_decay, self.applied / (self.applied + 9)))
        elif not (expected and math.isfinite(loss)):
            self.skipped += 1
            self.skipped_in_row += 1

    def _noise(self, step: int, number: int, video_shape: tuple[int, ...]) -> backend.Tensor:
        """Standard normal numbers for the latents, a function of seed, step and place in the
        update alone: the same on every framework and on any number of processes."""
        size = (self._tae.config["z_channels"], *self._tae.latent_size(*video_shape[2:]))
        first = (number * backend.world_size() + backend.rank()) * video_shape[0]
        noise = [
            np.random.default_rng((self._seed, step, item)).standard_normal(size, dtype=np.float32)
            for item in range(first, first + video_shape[0])
        ]
        return backend.from_numpy(np.stack(noise))

    @property
    def has_average(self) -> bool:
        """Whether a moving average of the weights is kept."""
        return self._average is not None

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """A context in which the network has the moving average for its weights."""
        networks = self.weights()
        self._assign(networks["ema"])
        try:
            yield
        finally:
            self._assign(networks["tae"])

    def _assign(self, arrays: Arrays) -> None:
        for name, parameter in self._parameters.items():
            backend.assign(parameter, arrays[name])

    # What a checkpoint holds.

    def weights(self) -> dict[str, Arrays]:
        """The networks by which a video can be reconstructed: "tae" and, where kept, "ema"."""
        arrays = [backend.to_numpy(parameter).copy() for parameter in self._parameters.values()]
        networks = {"tae": self._named(arrays)}
        if self._average:
            networks["ema"] = self._named(self._average.state())
        return networks

    def state(self) -> tuple[dict[str, Arrays], dict[str, Any]]:
        """Arrays by file and name, and numbers; with both, `restore` goes on exactly."""
        moments, steps = optimizer_state(self._optimizer, list(self._parameters))
        arrays = {**self.weights(), "optimizer": moments}
        numbers = {
            "optimizer_steps": steps,
            "applied_updates": self.applied,
            "skipped_updates": self.skipped,
            "loss_scale": self._loss_scale.state() if self._loss_scale else None,
        }
        if self._adversary:
            more, numbers["adversary"] = self._adversary.state()
            arrays |= more
        return arrays, numbers

    def restore(self, arrays: dict[str, Arrays], numbers: dict[str, Any]) -> None:
        """Go on from what `state` gave.

        Raises:
            ValueError: weights do not fit the network, or a count is none.
        """
        for name in ("optimizer_steps", "applied_updates", "skipped_updates"):
            check_count(name, numbers[name])
        load_strictly(self._parameters, arrays["tae"], source="the checkpoint's tae")
        restore_optimizer(
            self._optimizer,
            self._parameters,
            arrays["optimizer"],
            numbers["optimizer_steps"],
            source="the checkpoint's optimizer",
        )
        if self._average:
            check_fit(self._parameters, arrays["ema"], source="the checkpoint's ema")
            self._average.load_state([arrays["ema"][name] for name in self._parameters])
        if self._loss_scale and numbers["loss_scale"]:
            self._loss_scale.load_state(numbers["loss_scale"])
        if self._adversary:
            self._adversary.restore(arrays, numbers["adversary"])
        self.applied = numbers["applied_updates"]
        self.skipped = numbers["skipped_updates"]

    def _named(self, arrays: list[np.ndarray]) -> Arrays:
        return dict(zip(self._parameters, arrays, strict=True))
