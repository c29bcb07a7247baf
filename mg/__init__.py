"""Movie Gen's Temporal Autoencoder on MindSpore and PyTorch."""
