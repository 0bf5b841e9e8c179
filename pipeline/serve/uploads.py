"""Uploads: limited in size, stored under our own names in a private folder, and inspected before use."""

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
from typing import BinaryIO, Self
from urllib.parse import unquote

from aiohttp import web

from pipeline.errors import SinkError, reason
from pipeline.serve.access import RequestError
from pipeline.serve.child import Facts, child_command, child_environment

_PREFIX = "anchorface-serve-"
_LOCK = "lock"


_INSPECT_SECONDS = 60.0
_MOST_NAME = 120


class PrivateFolder:
    """Context manager: a folder for this user alone, removed at the end; entering removes those of crashed runs.

    Raises SinkError if it cannot be created.
    """

    path: Path

    def __init__(self, parent: Path | None) -> None:
        """`parent`: None = the system's folder for temporary files."""
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
            raise SinkError(
                f"{self._parent}: no folder can be created here ({reason(error)}); see serve.folder"
            ) from error
        return self

    def __exit__(self, *error: object) -> None:
        if self._lock is not None:
            self._lock.close()
        shutil.rmtree(self.path, ignore_errors=True)

    def place(self) -> Path:
        """Creates a folder in it under a random name."""
        path = self.path / secrets.token_hex(12)
        path.mkdir(mode=0o700)
        return path

    def has_room(self, wanted_bytes: int) -> bool:
        """Whether its disk can take `wanted_bytes` and keeps some space."""
        return shutil.disk_usage(self.path).free > wanted_bytes + (256 << 20)


def _remove_if_left(path: Path) -> None:
    """Removes the folder of a crashed run: owned by this user, and not locked."""
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
    """Raises OSError if another process holds the lock; the system releases it when the process ends."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(file.fileno(), fcntl.LOCK_EX | fcntl.LOCK_NB)


def name_of(request: web.Request) -> str:
    """Name of an uploaded file: displayed, never used as a path. Raises RequestError."""
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
    """Writes the body of `request` to `path`; removes it on failure. Raises RequestError."""
    most, announced = most_mib << 20, request.content_length
    if announced is not None and announced > most:
        raise RequestError(413, _too_large(most_mib))
    if not folder.has_room(announced or 0):
        raise RequestError(507, "the disk of the server is full")
    size = 0
    try:
        with path.open("xb") as file:
            while chunk := await asyncio.wait_for(request.content.readany(), stall_seconds):
                size += len(chunk)
                if size > most:
                    raise RequestError(413, _too_large(most_mib))
                if announced is None and not folder.has_room(0):
                    raise RequestError(507, "the disk of the server is full")
                await asyncio.to_thread(file.write, chunk)
        if not size:
            raise RequestError(400, "the file is empty")
    except BaseException as error:
        path.unlink(missing_ok=True)
        if not isinstance(error, TimeoutError):
            raise
        raise RequestError(408, f"no data for {stall_seconds:g} seconds; send the file again") from error


async def inspected(path: Path, name: str) -> Facts:
    """Facts about the file `name` stored at `path`. Raises RequestError if it cannot be restored."""
    process = await asyncio.create_subprocess_exec(
        *child_command("inspect", str(path), Path(name).suffix.lower()),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        env=child_environment(),
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), _INSPECT_SECONDS)
    except TimeoutError as error:
        raise RequestError(415, f"{name}: inspecting it took too long; the file is damaged") from error
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    values: dict[str, object] = {}
    with suppress(ValueError):
        values = json.loads(output)
    if not values or "error" in values:
        refusal = str(values.get("error", f"{name}: cannot be inspected; the file is damaged"))
        raise RequestError(415, refusal.replace(str(path), name))
    return Facts(**values)  # type: ignore[arg-type]


def _too_large(most_mib: int) -> str:
    size = f"{most_mib / 1024:g} GB" if most_mib >= 1024 else f"{most_mib} MB"
    return f"the file is larger than {size}, the limit of this page"
