"""Whole runs over files: one film, several, one in chunks, several settings beside each other, the demo."""
