"""An output file that appears under its name only when it is whole."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import MediaError, SinkError


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


class WorkFolder:
    """`OUT.parts` beside the output OUT. Raises SinkError where it cannot be written or belongs to another run."""

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f"{output.name}.parts")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Makes the folder if it is missing and keeps every other run out of it; the system lets go at any end."""
        with self._telling():
            self.path.mkdir(exist_ok=True)
            lock = (self.path / "lock").open("w")
        with lock:
            try:
                _lock(lock.fileno())
            except OSError as error:
                raise SinkError(
                    f"{self.path}: another run is at work here; wait for its end, or give another output"
                ) from error
            yield

    def write(self, name: str, content: bytes) -> str:
        """Writes a file at once; gives its sha256."""
        with self.growing(name) as file:
            file.write(content)
        return hashlib.sha256(content).hexdigest()

    def write_json(self, name: str, value: object) -> None:
        """Writes `value` as JSON."""
        self.write(name, json.dumps(value, indent=1).encode())

    @contextmanager
    def growing(self, name: str) -> Iterator[BinaryIO]:
        """A file that gets its name when the block ends well, and is on the disk then, also after a power loss."""
        unfinished = self.path / f"{name}.unfinished"
        with self._telling():
            try:
                with unfinished.open("wb") as file:
                    yield file
                    file.flush()
                    os.fsync(file.fileno())
            except BaseException:
                unfinished.unlink(missing_ok=True)
                raise
            os.replace(unfinished, self.path / name)
            _sync_names(self.path)

    def read(self, name: str, sha256: str | None = None) -> bytes | None:
        """A file's content; None where it is missing or is not the one with this hash."""
        try:
            content = (self.path / name).read_bytes()
        except OSError:
            return None
        return content if sha256 in (None, hashlib.sha256(content).hexdigest()) else None

    def read_json(self, name: str) -> Any:
        """The value of a JSON file; None where it is missing or damaged."""
        content = self.read(name)
        with suppress(ValueError):
            return None if content is None else json.loads(content)
        return None

    def remove(self) -> None:
        """Removes the folder with all that is in it."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def _telling(self) -> Iterator[None]:
        try:
            yield
        except MediaError:
            raise
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise SinkError(f"{self.path}: the disk is full; free some space") from error
            reason = (error.strerror or str(error)).lower()
            raise SinkError(f"{self.path}: cannot be written ({reason}); choose another output") from error


def _lock(file: int) -> None:
    """Raises OSError where another process holds the lock. Windows has no such lock."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_names(folder: Path) -> None:
    """Brings the names in `folder` to the disk; Windows does so by itself."""
    if sys.platform != "win32":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
