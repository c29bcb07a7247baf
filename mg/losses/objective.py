"""The weighted sum of the loss terms."""

from mg.backend import Module, Tensor
from mg.losses.terms import (
    kl_divergence,
    mean_squared_error,
    outlier_penalty,
    perceptual,
    reconstruction,
)


class Objective(Module):
    """The total loss of a reconstruction and its terms.

    Args:
        weights: of "reconstruction", "kl", "outlier_penalty" and, where `lpips` is given,
            "perceptual". Weight 0: the term is computed and logged only.
        lpips: a network that gives the perceptual distance of each frame, or None.
    """

    def __init__(self, weights: dict[str, float], lpips: Module | None = None):
        super().__init__()
        self.lpips = lpips
        self.names = ["reconstruction", "kl", "outlier_penalty"]
        self.names += ["perceptual"] if lpips is not None else []
        self.weights = [float(weights[name]) for name in self.names]

    def forward(
        self, target: Tensor, video: Tensor, z: Tensor, mean: Tensor, logvar: Tensor
    ) -> tuple[Tensor, ...]:
        """(total, mean squared error, *terms in the order of `names`), each one number, unweighted.

        Args:
            target, video: the original and its reconstruction `(b c t h w)`.
            z, mean, logvar: the latents and their posterior `(b z f h w)`.
        """
        terms = [
            reconstruction(video, target),
            kl_divergence(mean, logvar, target),
            outlier_penalty(z),
        ]
        if self.lpips is not None:
            terms = [*terms, perceptual(self.lpips(video, target), target)]
        total = self.weights[0] * terms[0]
        for number in range(1, len(terms)):
            total = total + self.weights[number] * terms[number]
        return (total, mean_squared_error(video, target), *terms)

    def of_pixels(self, target: Tensor, video: Tensor) -> Tensor:
        """The weighted terms that compare pixels, reconstruction and perceptual, summed; both
        videos `(b c t h w)`."""
        total = self.weights[0] * reconstruction(video, target)
        if self.lpips is not None:
            total = total + self.weights[3] * perceptual(self.lpips(video, target), target)
        return total
