"""The network at work on files: reconstruct, encode and decode videos and data sets."""
