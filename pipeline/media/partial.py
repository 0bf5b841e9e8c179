"""An output file that appears under its name only when it is whole."""

from __future__ import annotations

import os
import secrets
from contextlib import suppress
from pathlib import Path

from pipeline.errors import SinkError


class PartialFile:
    """Writes beside `target` and renames on success.

    Raises SinkError where `target` cannot or must not be written: it is `source` itself (links included), it
    exists and `overwrite` is not set, its name is too long, or its folder is missing or not writable. `folder`, of the
    same disk, takes the unfinished file in place of the target's own.
    """

    path: Path
    """Where to write meanwhile: `.name.RANDOM.partial.ext`, hidden, this run's own, of the same kind."""

    def __init__(self, target: Path, *, source: Path, overwrite: bool, folder: Path | None = None) -> None:
        self.target = target
        self._overwrite = overwrite
        try:
            self._refuse_unfit(source)
        except SinkError:
            raise
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SinkError(f"{target}: cannot be written ({reason}); give another name") from error
        # A name of its own: it must neither hit a user's file nor another run's; short enough for every disk.
        stem = os.fsencode(target.stem)[:100].decode(errors="ignore")
        name = f".{stem}.{secrets.token_hex(6)}.partial{target.suffix}"
        self.path = target.with_name(name) if folder is None else folder / name

    def create(self) -> None:
        """Makes the empty file, so that a folder without permission is found out at once."""
        try:
            self.path.touch(exist_ok=False)
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

    def _refuse_unfit(self, source: Path) -> None:
        target = self.target
        if not target.parent.is_dir():
            raise SinkError(f"{target}: the folder {target.parent} does not exist; create it first")
        with suppress(FileNotFoundError):
            target.lstat()  # whatever else is wrong with the name is told here
        if target.is_dir():
            raise SinkError(f"{target}: is a folder; give the name of a file")
        if target.exists() and target.samefile(source):
            raise SinkError(f"{target}: is the input {source} itself or a link to it; give another name")
        self._refuse_existing()

    def _refuse_existing(self) -> None:
        if not self._overwrite and os.path.lexists(self.target):
            raise SinkError(f"{self.target}: exists already; use --overwrite or give another name")
