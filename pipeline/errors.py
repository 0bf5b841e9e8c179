"""Errors of reading and writing media, and the exit codes of the command line.

    OSError
    └── MediaError
        ├── SourceError     the input: missing, refused, undecodable, changed during the run
        └── SinkError       the output: refused, not writable, disk full, not encodable

A message is one sentence: which file, what happened, what was expected, what to do.
"""

from __future__ import annotations

FAILED, DAMAGED, INTERRUPTED = 4, 5, 130
"""Exit codes: a file cannot be read or written; done, but the input was damaged; interrupted."""


class MediaError(OSError):
    """A media file cannot be read or written."""

    exit_code = FAILED


class SourceError(MediaError):
    """The input cannot be used."""


class SinkError(MediaError):
    """The output cannot be written."""


def reason(error: Exception) -> str:
    """What the system or FFmpeg says about `error`, as part of a sentence."""
    return (getattr(error, "strerror", None) or str(error)).rstrip(".").lower()
