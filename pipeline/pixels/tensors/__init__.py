"""Crops and blending as tensor operations on a device: `colour.py` and `blend.py` once more, for many faces at once.

Read in this order: transfer (memory and streams), surface (planes on the device), warp (the operations), crops, blend.
"""
