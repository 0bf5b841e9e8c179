"""Measurements of runs, each behind a word of `python -m pipeline.bench`."""
