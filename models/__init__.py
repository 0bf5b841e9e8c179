"""Tensors in, tensors out: networks and what they need; knows no video, no tracks, no threads."""

import os

# Read once, when torch loads OpenMP. Threads that spin while they wait take cores from decoding, from the other stages
# and from other programs: with one of two cores busy elsewhere, `fast` took 151 ms and 73 ms of processor time with
# spinning, and 10 ms of both without. A value set from outside wins.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__project__ = "anchorface"
