"""Faces in, people out: tracks, shots, reference sets, galleries. No video containers, no GPU batches."""

__project__ = "anchorface"
