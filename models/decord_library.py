"""decord with its libraries kept to itself.

decord makes the FFmpeg that it brings along visible to the whole process. PyAV's encoders look their functions up
when they are first used, and VP9 would then find decord's older libvpx and refuse to start.
"""

from __future__ import annotations

import ctypes
from typing import Any


def load_decord() -> Any:
    """The module `decord`, imported so that no other library sees its symbols. Raises `ImportError` without it."""
    everywhere = ctypes.CDLL

    class Local(ctypes.CDLL):
        def __init__(self, name: str, mode: int = ctypes.RTLD_LOCAL) -> None:
            super().__init__(name, ctypes.RTLD_LOCAL)

    ctypes.CDLL = Local  # type: ignore[assignment,misc]
    try:
        import decord
    finally:
        ctypes.CDLL = everywhere  # type: ignore[misc]
    return decord
