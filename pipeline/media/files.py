"""Output files that appear under their name only when they are complete."""

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

from pipeline.errors import MediaError, SinkError, reason

DISK_FULL = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
"""errno of an OSError when the disk, the quota or the maximum size of a file is exhausted."""


class PartialFile:
    """Writes beside `target` and renames on success.

    Raises SinkError where `target` cannot or must not be written: it is `source` itself (links included), it exists and
    `overwrite` is not set, its name is too long, or its folder is missing or not writable. `folder`, on the same disk,
    takes the unfinished file in place of the target's folder.
    """

    path: Path
    """The unfinished file: `.name.RANDOM.partial.ext`, hidden, unique to this run, with the target's extension."""

    def __init__(self, target: Path, *, source: Path, overwrite: bool, folder: Path | None = None) -> None:
        self.target = target
        self._overwrite = overwrite
        try:
            self._refuse_unfit(source)
        except SinkError:
            raise
        except OSError as error:
            raise SinkError(f"{target}: cannot be written ({reason(error)}); give another name") from error
        # Unique, so it hits neither a user's file nor another run's; short enough for every file system.
        stem = os.fsencode(target.stem)[:100].decode(errors="ignore")
        name = f".{stem}.{secrets.token_hex(6)}.partial{target.suffix}"
        self.path = target.with_name(name) if folder is None else folder / name

    def create(self) -> None:
        """Creates the empty file, so that a read-only folder is reported at once."""
        try:
            self.path.touch(exist_ok=False)
        except OSError as error:
            raise SinkError(
                f"{self.target}: cannot be written ({reason(error)}); choose another folder"
            ) from error

    def commit(self) -> None:
        """Renames the file to `target`."""
        self._refuse_existing()
        with self.path.open("rb+") as file:
            os.fsync(file.fileno())
        os.replace(self.path, self.target)

    def discard(self) -> None:
        """Removes the unfinished file."""
        self.path.unlink(missing_ok=True)

    @contextmanager
    def written(self) -> Iterator[Path]:
        """A block that writes `path`: commits when it ends without an error, else nothing is left."""
        self.create()
        try:
            yield self.path
            self.commit()
        except BaseException:
            self.discard()
            raise

    def write(self, content: bytes) -> None:
        """The whole file at once. Raises SinkError; then nothing is left."""
        try:
            with self.written() as path:
                path.write_bytes(content)
        except SinkError:
            raise
        except OSError as error:
            raise SinkError(f"{self.target}: cannot be written ({reason(error)})") from error

    def _refuse_unfit(self, source: Path) -> None:
        target = self.target
        if not target.parent.is_dir():
            raise SinkError(f"{target}: the folder {target.parent} does not exist; create it first")
        with suppress(FileNotFoundError):
            target.lstat()  # raises for a name that the file system does not take
        if target.is_dir():
            raise SinkError(f"{target}: is a folder; give the name of a file")
        if target.exists() and target.samefile(source):
            raise SinkError(f"{target}: is the input {source} itself or a link to it; give another name")
        self._refuse_existing()

    def _refuse_existing(self) -> None:
        if not self._overwrite and os.path.lexists(self.target):
            raise SinkError(f"{self.target}: exists already; use --overwrite or give another name")


class WorkFolder:
    """`OUT.parts` beside the output OUT, where a run keeps finished chunks.

    Raises SinkError where it cannot be written or another run holds it.
    """

    def __init__(self, output: Path) -> None:
        self.path = output.with_name(f"{output.name}.parts")

    @contextmanager
    def held(self) -> Iterator[None]:
        """Creates the folder if missing and locks it; the system releases the lock when the process ends."""
        with self._explained():
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
        """Writes a whole file; returns its sha256."""
        with self.growing(name) as file:
            file.write(content)
        return hashlib.sha256(content).hexdigest()

    def write_json(self, name: str, value: object) -> None:
        """Writes `value` as JSON."""
        self.write(name, json.dumps(value, indent=1).encode())

    @contextmanager
    def growing(self, name: str) -> Iterator[BinaryIO]:
        """A file that is renamed to `name` and synchronised to disk when the block ends without an error."""
        unfinished = self.path / f"{name}.unfinished"
        with self._explained():
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
        """A file's content; None where it is missing or has another hash."""
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
        """Removes the folder with its contents."""
        shutil.rmtree(self.path, ignore_errors=True)

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except MediaError:
            raise
        except OSError as error:
            if error.errno in DISK_FULL:
                raise SinkError(f"{self.path}: the disk is full; free some space") from error
            raise SinkError(
                f"{self.path}: cannot be written ({reason(error)}); choose another output"
            ) from error


def _lock(file: int) -> None:
    """Raises OSError where another process holds the lock. Does nothing on Windows."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _sync_names(folder: Path) -> None:
    """Synchronises the directory entries to disk; Windows does so by itself."""
    if sys.platform != "win32":
        opened = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(opened)
        finally:
            os.close(opened)
