"""Faces in, people out: tracks, shots, reference sets; knows no video container and no GPU batch."""

__project__ = "anchorface"
