"""Where built engines are kept: one file for each network, shape, precision, GPU and version, never half a file.

An engine is compiled for one GPU and one release of its libraries, so its key names everything it was made from.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import inspect
import json
import logging
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

ENDING = ".pt2"
_COMPILERS = ("torch", "torch-tensorrt", "tensorrt", "tensorrt-cu12", "tensorrt-cu13", "triton")

logger = logging.getLogger(__name__)


def cache_folder() -> Path:
    """The folder of engines within the user's cache, as the platform wants it; it need not exist yet."""
    home = Path.home()
    if sys.platform == "win32":
        root = Path(os.environ.get("LOCALAPPDATA") or home / "AppData" / "Local")
    elif sys.platform == "darwin":
        root = home / "Library" / "Caches"
    else:
        root = Path(os.environ.get("XDG_CACHE_HOME") or home / ".cache")
    return root / "anchorface" / "engines"


def state_hash(network: nn.Module) -> str:
    """sha256 over the structure, the source and the weights of `network`."""
    digest = hashlib.sha256(repr(network).encode())
    # The same weights mean something else in another forward.
    digest.update(inspect.getsource(sys.modules[type(network).__module__]).encode())
    for name, tensor in network.state_dict().items():
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def device_identity(device: torch.device) -> str:
    """Name and compute capability of a GPU; the instruction set of a CPU."""
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        return f"{torch.cuda.get_device_name(device)} {major}.{minor}"
    return f"{device.type} {torch.backends.cpu.get_cpu_capability()}"


def compiler_versions() -> dict[str, str]:
    """Installed releases of what engines are built with and run by."""
    versions = {}
    for name in _COMPILERS:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions


def cache_key(
    backend: str,
    state: str,
    shapes: Sequence[Sequence[int]],
    precision: torch.dtype,
    device: str,
    versions: Mapping[str, str],
) -> str:
    """The name of an engine: another name where any of these differs.

    `state`: of `state_hash`; `shapes`: of the network's inputs, the fixed batch included; `device`: of
    `device_identity`; `versions`: of `compiler_versions`.
    """
    parts = [backend, state, [list(shape) for shape in shapes], str(precision), device, dict(versions)]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:32]


class EngineCache:
    """Files of engines, each with its sha256 beside it. Several programs may share a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def find(self, key: str) -> Path | None:
        """The engine called `key`; None where there is none. A file that differs from its sha256 is removed."""
        path, note = self._paths(key)
        try:
            expected = note.read_text(encoding="ascii").strip()
            whole = _sha256(path) == expected
        except (OSError, UnicodeDecodeError):
            whole = False
        if whole:
            return path
        if path.exists():
            logger.warning("%s: the kept engine is damaged and is built again", path)
            self.discard(key)
        return None

    def store(self, key: str, write: Callable[[Path], object]) -> None:
        """Keeps what `write` puts into the file it is given. Raises what `write` raises, and OSError."""
        # Only the user's own programs may put code where it will be loaded from.
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        path, note = self._paths(key)
        # torch.export wants its own ending.
        part = path.with_name(f"{key}.{os.getpid()}.part{ENDING}")
        try:
            write(part)
            digest = _sha256(part)
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
        note_part = note.with_name(f"{note.name}.{os.getpid()}.part")
        note_part.write_text(digest + "\n", encoding="ascii")
        note_part.replace(note)

    def discard(self, key: str) -> None:
        """Removes the engine called `key`, if it is there."""
        for path in self._paths(key):
            path.unlink(missing_ok=True)

    def _paths(self, key: str) -> tuple[Path, Path]:
        return self.folder / f"{key}{ENDING}", self.folder / f"{key}.sha256"


def _sha256(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
