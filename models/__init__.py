"""Tensors in, tensors out: networks and what they need; knows no video, no tracks, no threads."""

import os

# Read once, when torch brings its OpenMP along: threads that spin while they wait take the cores from decoding, from
# the other stages and from whatever else runs. Where another program kept one of two cores busy, `fast` took 151 ms
# and 73 ms of processor time with spinning, and 10 ms of both without. Who sets the variable has the last word.
os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")

__project__ = "anchorface"
