"""Results kept between evaluations: of pictures alone, and of restorers.

Everything is named by the hash of its inputs and of the code that made it. After another change, such as a new release
of a library, remove the folder; that is always safe.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from functools import cache
from pathlib import Path
from types import ModuleType

import numpy as np
from numpy.typing import NDArray

_KEPT_IN_MEMORY_BYTES = 1 << 14


class Cache:
    """Arrays by what they were made from; without a folder only small ones are kept, in memory."""

    def __init__(self, folder: Path | None) -> None:
        self.folder = folder
        self._memory: dict[str, NDArray[np.generic]] = {}
        if folder is not None:
            folder.mkdir(parents=True, exist_ok=True)

    def find(self, key: str) -> NDArray[np.generic] | None:
        """The array that was kept under `key`, or None."""
        if key in self._memory:
            return self._memory[key]
        if self.folder is None or not (path := self.folder / f"{key}.npy").exists():
            return None
        array: NDArray[np.generic] = np.load(path)
        return array

    def keep(self, key: str, array: NDArray[np.generic]) -> None:
        """Keeps `array` under `key`; a reader sees all of it or nothing."""
        if array.nbytes <= _KEPT_IN_MEMORY_BYTES:
            self._memory[key] = array
        if self.folder is not None:
            part = self.folder / f"{key}.{os.getpid()}.part"
            with part.open("wb") as stream:
                np.save(stream, array)
            part.rename(self.folder / f"{key}.npy")


def key_of(*parts: object) -> str:
    """Hash of `parts`: arrays by type, shape and content, modules by their source, all else by its text."""
    digest = hashlib.sha256()
    for part in parts:
        if isinstance(part, np.ndarray):
            digest.update(f"{part.dtype}{part.shape}".encode())
            digest.update(np.ascontiguousarray(part).data)
        elif isinstance(part, ModuleType):
            digest.update(_source(part))
        else:
            digest.update(repr(part).encode())
        digest.update(b"\0")
    return digest.hexdigest()[:32]


@cache
def _source(module: ModuleType) -> bytes:
    return inspect.getsource(module).encode()
