"""What is told of a run: counts, progress, the page, the log of references, and what the result itself says."""
