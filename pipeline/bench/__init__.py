"""Measurements of runs, each a word of `python -m pipeline.bench`."""
