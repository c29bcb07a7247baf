"""Latents in files: of one video, and of whole data sets. Knows no framework."""

from mg.latents.dataset import LatentDataset

__all__ = ["LatentDataset"]
