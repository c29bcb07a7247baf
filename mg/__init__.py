"""Movie Gen's Temporal Autoencoder on MindSpore and PyTorch."""

__version__ = "0.1.0"
