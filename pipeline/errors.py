"""What can go wrong with pictures and sound that come in and go out.

    OSError
    └── MediaError          exit code 4 of the command
        ├── SourceError     the input: missing, refused, undecodable, changed midway
        └── SinkError       the output: refused, not writable, disk full, not encodable

A message is one sentence: which file, what happened, what was expected, what to do.
"""

from __future__ import annotations

FAILED, DAMAGED, INTERRUPTED = 4, 5, 130
"""Exit codes of the command: a file that cannot be read or written, done but the input was damaged, interrupted."""


class MediaError(OSError):
    """A file of pictures or sound cannot be read or written."""


class SourceError(MediaError):
    """The input cannot be used."""


class SinkError(MediaError):
    """The output cannot be written."""
