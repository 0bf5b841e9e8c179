"""`fast`: restores a face in one pass of a small convolutional network, for CPUs and calls."""

from models.fast.restorer import FastRestorer

__all__ = ["FastRestorer"]
