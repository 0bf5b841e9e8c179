"""An output file that appears under its name only when it is whole."""

from __future__ import annotations

import os
from pathlib import Path

from pipeline.errors import SinkError


class PartialFile:
    """Writes beside `target` and renames on success.

    Raises SinkError where `target` cannot or must not be written: it is `source` itself (links included), it
    exists and `overwrite` is not set, or its folder is missing or not writable.
    """

    path: Path
    """Where to write meanwhile: `name.partial.ext`, so that the extension still tells the format."""

    def __init__(self, target: Path, *, source: Path, overwrite: bool) -> None:
        self.target = target
        self.path = target.with_name(f"{target.stem}.partial{target.suffix}")
        self._overwrite = overwrite
        if not target.parent.is_dir():
            raise SinkError(f"{target}: the folder {target.parent} does not exist; create it first")
        if target.is_dir():
            raise SinkError(f"{target}: is a folder; give the name of a file")
        for path in (target, self.path):
            if path.exists() and path.samefile(source):
                raise SinkError(f"{target}: is the input {source} itself or a link to it; give another name")
        self._refuse_existing()

    def create(self) -> None:
        """Makes the empty file, so that a folder without permission is found out at once."""
        try:
            self.path.unlink(missing_ok=True)
            self.path.touch()
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SinkError(f"{self.target}: cannot be written ({reason}); choose another folder") from error

    def commit(self) -> None:
        """Gives the file its name."""
        self._refuse_existing()
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self.target)

    def discard(self) -> None:
        """Removes what was written; nothing appears under the name."""
        self.path.unlink(missing_ok=True)

    def _refuse_existing(self) -> None:
        if not self._overwrite and os.path.lexists(self.target):
            raise SinkError(f"{self.target}: exists already; use --overwrite or give another name")
