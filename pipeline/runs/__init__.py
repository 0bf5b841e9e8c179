"""Runs over files: one film, several films, a film in chunks, a trial of several settings, the demo."""
