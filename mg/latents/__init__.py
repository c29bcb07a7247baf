"""Latents in files: of one video, and of whole data sets. Knows no framework."""
