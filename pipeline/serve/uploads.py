"""Files that come in: never larger than told, never under a name of theirs, and looked at before they are believed."""

from __future__ import annotations

import asyncio
import json
import os
import secrets
import shutil
import subprocess
import sys
import tempfile
import unicodedata
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self
from urllib.parse import unquote

from aiohttp import web

from pipeline.errors import SinkError
from pipeline.serve.access import RequestError
from pipeline.serve.child import Facts

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


_LOOK_SECONDS = 60.0
_MOST_NAME = 120
_ROOT = Path(__file__).parents[2]


def name_of(request: web.Request) -> str:
    """What the owner of an uploaded file calls it; it is shown, and never used as a path. Raises RequestError."""
    name = unicodedata.normalize("NFC", unquote(request.headers.get("X-File-Name", "")))
    if any(sign in name for sign in "/\\") or name.strip(". ") == "":
        raise RequestError(400, "the name of a file must not be empty or contain a path")
    if any(unicodedata.category(sign)[0] == "C" for sign in name):
        raise RequestError(400, "the name of a file must not contain control characters")
    if len(name) > _MOST_NAME:
        raise RequestError(400, f"the name of a file must not be longer than {_MOST_NAME} characters")
    return name


async def receive(
    request: web.Request, path: Path, folder: PrivateFolder, *, most_mib: int, stall_seconds: float
) -> None:
    """Writes the body of `request` to `path`. Raises RequestError; at any failure nothing is left."""
    most, told = most_mib << 20, request.content_length
    if told is not None and told > most:
        raise RequestError(413, _too_large(most_mib))
    if not folder.has_room(told or 0):
        raise RequestError(507, "there is no room left on the disk of this machine")
    size = 0
    try:
        with path.open("xb") as file:
            while chunk := await asyncio.wait_for(request.content.readany(), stall_seconds):
                size += len(chunk)
                if size > most:
                    raise RequestError(413, _too_large(most_mib))
                if told is None and not folder.has_room(0):
                    raise RequestError(507, "there is no room left on the disk of this machine")
                await asyncio.to_thread(file.write, chunk)
        if not size:
            raise RequestError(400, "the file is empty")
    except TimeoutError as error:
        path.unlink(missing_ok=True)
        raise RequestError(408, f"nothing came for {stall_seconds:g} seconds; send the file again") from error
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def look_at(path: Path, name: str) -> Facts:
    """What the file `name`, which lies at `path`, really is. Raises RequestError for what cannot be restored."""
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-P", "-m", "pipeline.serve.child", str(path), Path(name).suffix.lower()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
    )
    try:
        said, _ = await asyncio.wait_for(process.communicate(), _LOOK_SECONDS)
    except TimeoutError as error:
        raise RequestError(415, f"{name}: took too long to be looked at; the file is damaged") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    values: dict[str, object] = {}
    with suppress(ValueError):
        values = json.loads(said)
    if not values or "error" in values:
        told = str(values.get("error", f"{name}: cannot be looked at; the file is damaged"))
        raise RequestError(415, told.replace(str(path), name))
    return Facts(**values)  # type: ignore[arg-type]


def child_environment() -> dict[str, str]:
    """The environment of a process that runs this very code, wherever it lies."""
    others = os.environ.get("PYTHONPATH")
    return os.environ | {"PYTHONPATH": os.pathsep.join([str(_ROOT), *([others] if others else [])])}


def _too_large(most_mib: int) -> str:
    size = f"{most_mib / 1024:g} GB" if most_mib >= 1024 else f"{most_mib} MB"
    return f"the file is larger than {size}, which is as much as is taken here"
