"""How the network is updated beside a discriminator: by two passes of gradients.

The generator pass weighs the adversarial loss against the reconstruction by their gradients at the
decoder's last layer (VQGAN, arXiv 2012.09841, equation 7). No graph is kept for that, since
MindSpore has none to keep: a pass without gradients gives what the last layer reads, and from there
both gradients are small computations.
"""

import math

import numpy as np

from mg import backend, ranks
from mg.arrays import Arrays
from mg.backend import Tensor
from mg.losses.adversarial import (
    Discriminator,
    adaptive_weight,
    hinge_discriminator,
    hinge_generator,
)
from mg.losses.objective import Objective
from mg.models.tae.tae import TemporalAutoencoder
from mg.models.tae.weights import load_strictly
from mg.training.optimizer_state import check_count, optimizer_state, restore_optimizer

BETAS = (0.5, 0.9)  # of the discriminator's AdamW, as in taming-transformers


class Adversary:
    """A discriminator beside a network: it gives the network's gradients and trains itself.

    Args:
        tae: the network to train.
        objective: its loss but for the adversarial one.
        weight: of the adversarial loss, times the adaptive weight.
        ndf, n_layers, dtype, seed: see `Discriminator`.
        weight_decay: of the discriminator's AdamW.
        compile, jit_level: see `backend.value_and_grad`.

    Raises:
        ValueError: sizes below 1; a dtype that the device does not have.
    """

    names = ("generator_loss", "adaptive_weight", "discriminator_loss", "real_logit", "fake_logit")
    """Names of the numbers that `gradients` adds to the losses."""

    def __init__(
        self,
        tae: TemporalAutoencoder,
        objective: Objective,
        *,
        weight: float,
        ndf: int,
        n_layers: int,
        dtype: str,
        weight_decay: float,
        compile: bool | None = None,
        jit_level: str = "O0",
        seed: int = 0,
    ):
        channels = tae.config["out_ch"]
        self.discriminator = Discriminator(
            channels, ndf=ndf, n_layers=n_layers, dtype=dtype, seed=seed
        )
        self.parameters = backend.named_parameters(self.discriminator)
        self._optimizer = backend.AdamW(
            list(self.parameters.values()), betas=BETAS, epsilon=1e-8, weight_decay=weight_decay
        )
        self._sums: list[Tensor] = []
        self._build(tae, objective, weight, {"compile": compile, "jit_level": jit_level})

    def gradients(
        self, video: Tensor, noise: Tensor, scale: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """The losses and gradients of the network, as `generator_gradients` gives them, the former
        extended by those of the discriminator, whose gradients are kept for `update`."""
        losses, gradients, reconstruction = self.generator_gradients(video, noise, scale)
        *own, own_gradients = self.discriminator_gradients(video, reconstruction)
        if self._sums:
            own_gradients = [a + b for a, b in zip(self._sums, own_gradients, strict=True)]
        self._sums = list(own_gradients)
        return (*losses, *own), gradients

    def update(self, learning_rate: float, share: float, *, apply: bool) -> bool:
        """Train the discriminator by the gradients kept, of all processes, times `share`; not if
        they are not finite, or `apply` is false. Says whether it did."""
        sums, self._sums = ranks.all_reduce_sum(self._sums), []
        apply = apply and math.isfinite(backend.global_norm(sums))
        if apply:
            self._optimizer.step(sums, learning_rate, scale=share)
        return apply

    def state(self) -> tuple[dict[str, Arrays], int]:
        """Arrays by file and name, and the number of updates."""
        weights = {name: backend.to_numpy(p).copy() for name, p in self.parameters.items()}
        moments, steps = optimizer_state(self._optimizer, list(self.parameters))
        return {"discriminator": weights, "discriminator_optimizer": moments}, steps

    def restore(self, arrays: dict[str, Arrays], steps: int) -> None:
        """Go on from what `state` gave.

        Raises:
            ValueError: weights do not fit the discriminator, or `steps` is no count.
        """
        check_count("adversary", steps)
        source = "the checkpoint's discriminator"
        load_strictly(self.parameters, arrays["discriminator"], source=source)
        moments = arrays["discriminator_optimizer"]
        restore_optimizer(self._optimizer, self.parameters, moments, steps, source=source)

    def generator_gradients(
        self, video: Tensor, noise: Tensor, scale: Tensor
    ) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...], Tensor]:
        """Losses and gradients of the network.

        The adaptive weight is this batch's, over all processes: with the gradients of several
        batches in one update, each has its own, as in taming-transformers.

        Args:
            video: `(b c t h w)` in [-1, 1]; h and w multiples of 8, and at least what the
                discriminator needs.
            noise: standard normal, of the size of the latents.
            scale: of the loss that is differentiated, one number.

        Returns:
            Losses: (scaled total, total, mean squared error, *terms of the objective, generator
            loss, adaptive weight), each one number, where the total holds the adversarial loss with
            both its weights; gradients of the scaled total with respect to the network's
            parameters, in their order; the reconstruction `(b c t h w)`.

        Raises:
            ValueError: a video that is too small for the discriminator.
        """
        self.discriminator.check_size(video.shape[3], video.shape[4])
        adaptive = self._adaptive_weight(video, noise)
        outputs, gradients = self._generator(video, noise, scale, adaptive)
        *losses, reconstruction = outputs
        return (*losses, adaptive), gradients, reconstruction

    def discriminator_gradients(
        self, video: Tensor, reconstruction: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, tuple[Tensor, ...]]:
        """(hinge loss, mean logit of `video`, mean logit of `reconstruction`, gradients of the loss
        with respect to `parameters`); both videos `(b c t h w)` in [-1, 1]."""
        (loss, real, fake), gradients = self._discriminator(video, reconstruction)
        return loss, real, fake, gradients

    def _adaptive_weight(self, video, noise):
        with backend.no_grad():
            # In half precision, which no loss scale helps here, small gradients would be lost.
            features = backend.cast(self._features(video, noise), backend.dtype("fp32"))
        _, of_pixels = self._pixel_gradients(video, features)
        _, of_generator = self._fooling_gradients(video, features)
        sums = ranks.all_reduce_sum([*of_pixels, *of_generator])
        norms = [backend.global_norm([gradient]) / backend.world_size() for gradient in sums]
        return backend.from_numpy(np.array(adaptive_weight(*norms), np.float32))

    def _build(self, tae, objective, weight, settings):
        """Make the computations, each of which can be compiled."""
        discriminator = self.discriminator

        def features(video, noise):
            return tae.features(tae.sample(video, noise)[0])

        def pixels(video, features):
            reconstruction = tae.last_layer(features)[:, :, : video.shape[2]]
            return objective.of_pixels(video, reconstruction), reconstruction

        def fooling(video, features):
            reconstruction = tae.last_layer(features)[:, :, : video.shape[2]]
            return hinge_generator(discriminator(reconstruction)), reconstruction

        def generator(video, noise, scale, adaptive):
            reconstruction, z, mean, logvar = tae.reconstruct(video, noise)
            losses = objective(video, reconstruction, z, mean, logvar)
            loss = hinge_generator(discriminator(reconstruction))
            total = losses[0] + weight * adaptive * loss
            return (total * scale, total, *losses[1:], loss, reconstruction)

        def discriminate(video, reconstruction):
            real, fake = discriminator(video), discriminator(reconstruction)
            return hinge_discriminator(real, fake), real.mean(), fake.mean()

        self._features = features
        if backend.compiles(settings["compile"]):
            self._features = backend.compile(features, jit_level=settings["jit_level"])
        # The weight that the image autoencoder's last layer has; the convolution in time that
        # follows starts as the identity.
        last = [tae.decoder.conv_out.conv_spat.weight]
        everything = list(backend.named_parameters(tae).values())
        self._pixel_gradients = backend.value_and_grad(pixels, last, **settings)
        self._fooling_gradients = backend.value_and_grad(fooling, last, **settings)
        self._generator = backend.value_and_grad(generator, everything, **settings)
        self._discriminator = backend.value_and_grad(
            discriminate, list(self.parameters.values()), **settings
        )
