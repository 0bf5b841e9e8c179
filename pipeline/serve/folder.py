"""The private folder: what people give and get lies there alone, until the page ends or, after a crash, restarts."""

from __future__ import annotations

import os
import secrets
import shutil
import sys
import tempfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

from pipeline.errors import SinkError

_PREFIX = "anchorface-serve-"
_LOCK = "lock"


class PrivateFolder:
    """A folder that nobody else may read. A context manager: removed at the end, those of crashed runs at the start.

    Raises SinkError where it cannot be made.
    """

    path: Path

    def __init__(self, parent: Path | None) -> None:
        """`parent`: None is the system's place for temporary files."""
        self._parent = Path(tempfile.gettempdir()) if parent is None else parent.expanduser()
        self._lock: BinaryIO | None = None

    def __enter__(self) -> Self:
        try:
            for left in self._parent.glob(f"{_PREFIX}*"):
                _remove_if_left(left)
            self.path = Path(tempfile.mkdtemp(prefix=_PREFIX, dir=self._parent))
            self._lock = (self.path / _LOCK).open("wb")
            _lock(self._lock)
        except OSError as error:
            reason = (error.strerror or str(error)).lower()
            raise SinkError(
                f"{self._parent}: no folder can be made here ({reason}); see serve.folder"
            ) from error
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._lock is not None:
            self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def place(self) -> Path:
        """A new folder in it, under a name that nobody can guess."""
        path = self.path / secrets.token_hex(12)
        path.mkdir(mode=0o700)
        return path

    def has_room(self, wanted_bytes: int) -> bool:
        """Whether so much more fits onto its disk, and something is left then."""
        return shutil.disk_usage(self.path).free > wanted_bytes + (256 << 20)


def _remove_if_left(path: Path) -> None:
    """Removes the folder of a run that has crashed: it is ours, and nobody holds its lock."""
    if (
        path.is_symlink()
        or not path.is_dir()
        or (sys.platform != "win32" and path.stat().st_uid != os.getuid())
    ):
        return
    try:
        if sys.platform == "win32":
            (path / _LOCK).unlink(missing_ok=True)  # refused while it is open elsewhere
        else:
            with (path / _LOCK).open("ab") as lock:
                _lock(lock)
    except OSError:
        return
    shutil.rmtree(path, ignore_errors=True)


def _lock(file: BinaryIO) -> None:
    """Raises OSError where another process holds the lock; the system lets go of it at any end."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)
