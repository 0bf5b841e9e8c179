"""Large files in small parts: a run's state that travels between machines.

`write_parts(path, content, part_bytes)` leaves `path.000`, `path.001`, ... and last the list `path.json` with
sizes and sha256. Only a complete, matching set is read back, so a transfer that broke off is noticed.
"""

from __future__ import annotations

import hashlib
import json
import os
from pathlib import Path
from typing import Any

from models.weights import CheckpointError


def write_parts(path: Path, content: bytes, part_bytes: int) -> None:
    """Writes `content` beside `path` in parts of at most `part_bytes`; older parts stay valid until the end."""
    old = _listed(path)
    generation = 1 - int(old["generation"]) if old else 0
    names: list[str] = []
    for number, start in enumerate(range(0, max(len(content), 1), part_bytes)):
        names.append(f"{path.name}.{generation}{number:02d}")
        _write_safely(path.with_name(names[-1]), content[start : start + part_bytes])
    described = {"generation": generation, "parts": names, "sha256": hashlib.sha256(content).hexdigest()}
    unfinished = path.with_name(path.name + ".json.part")
    _write_safely(unfinished, json.dumps(described).encode())
    unfinished.replace(path.with_name(path.name + ".json"))
    for file in path.parent.glob(f"{path.name}.[01][0-9][0-9]*"):
        if file.name not in names:
            file.unlink()


def read_parts(path: Path) -> bytes | None:
    """What `write_parts` wrote; None where there is nothing.

    Raises `CheckpointError` where a part is missing or the whole differs from its sha256.
    """
    described = _listed(path)
    if described is None:
        return None
    try:
        content = b"".join(path.with_name(name).read_bytes() for name in described["parts"])
    except OSError as error:
        raise CheckpointError(f"{path}: a part of the state is missing ({error.filename})") from error
    if hashlib.sha256(content).hexdigest() != described["sha256"]:
        raise CheckpointError(f"{path}: the parts do not add up to the state that was written")
    return content


def _listed(path: Path) -> dict[str, Any] | None:
    listing = path.with_name(path.name + ".json")
    if not listing.exists():
        return None
    try:
        described = json.loads(listing.read_text(encoding="utf-8"))
        return {name: described[name] for name in ("generation", "parts", "sha256")}
    except (KeyError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{listing}: the list of the state's parts is damaged; bring it again"
        ) from error


def _write_safely(path: Path, content: bytes) -> None:
    """Writes and waits until the disk has it, so that no power cut leaves a name without its content."""
    with path.open("wb") as stream:
        stream.write(content)
        stream.flush()
        os.fsync(stream.fileno())
