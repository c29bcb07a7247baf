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

    Raises:
        ValueError: a weight is missing.
    """

    def __init__(self, weights: dict[str, float], lpips: Module | None = None):
        super().__init__()
        self.lpips = lpips
        of_pixels = ["reconstruction"] if lpips is None else ["reconstruction", "perceptual"]
        self.names = [*of_pixels, "kl", "outlier_penalty"]
        if missing := [name for name in self.names if name not in weights]:
            named = ", ".join(self.names)
            raise ValueError(f"weights lack {missing[0]}, expected one for each of {named}")
        self.weights = [float(weights[name]) for name in self.names]

    def forward(
        self, target: Tensor, video: Tensor, z: Tensor, mean: Tensor, logvar: Tensor
    ) -> tuple[Tensor, ...]:
        """The weighted total, the mean squared error, then each term, unweighted, in the order of
        `names`; each is one number.

        Args:
            target, video: the original and its reconstruction `(b c t h w)`.
            z, mean, logvar: the latents and their posterior `(b z f h w)`.
        """
        terms = self._pixel_terms(target, video)
        terms = [*terms, kl_divergence(mean, logvar, target), outlier_penalty(z)]
        return (self._weighted(terms), mean_squared_error(video, target), *terms)

    def of_pixels(self, target: Tensor, video: Tensor) -> Tensor:
        """The weighted terms that compare pixels, reconstruction and perceptual, summed; both
        videos `(b c t h w)`."""
        return self._weighted(self._pixel_terms(target, video))

    def _pixel_terms(self, target, video):
        terms = [reconstruction(video, target)]
        if self.lpips is not None:
            terms = [*terms, perceptual(self.lpips(video, target), target)]
        return terms

    def _weighted(self, terms):
        """The sum of the first terms, as many as are given, times their weights."""
        total = self.weights[0] * terms[0]
        for number in range(1, len(terms)):
            total = total + self.weights[number] * terms[number]
        return total
