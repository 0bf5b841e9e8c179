"""The folder beside the output in which a run keeps what is finished: every file appears whole or not at all."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from pipeline.errors import MediaError, SinkError


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
