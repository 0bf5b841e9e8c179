"""Tensors in, tensors out: networks and what they need; knows no video, no tracks, no threads."""

__project__ = "anchorface"
