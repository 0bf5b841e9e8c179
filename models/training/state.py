"""What a run keeps between two slices, in small parts that travel between machines.

Networks, average, optimisers and the images seen lie in `path.000`, `path.001`, ..., and the list `path.json` with
sizes and sha256 is written last. Only a complete, matching set is read back, so a broken transfer is noticed.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from models.weights import Checkpoint, CheckpointError


class Stateful(Protocol):
    """A network or an optimiser."""

    def state_dict(self) -> Any: ...
    def load_state_dict(self, state: Any, /) -> object: ...


def save_state(
    path: Path, parts: Mapping[str, Stateful], images_seen: int, part_bytes: int, *, compact: bool
) -> None:
    """Writes the state as `path.*`, files of at most `part_bytes`.

    `compact` keeps all but the networks that are trained at half precision: for journeys with little room.
    """
    state = {name: part.state_dict() for name, part in parts.items()}
    if compact:
        rounded = {name for name in parts if name == "average" or name.endswith("optimiser")}
        state = {name: _halved(value) if name in rounded else value for name, value in state.items()}
    stream = io.BytesIO()
    torch.save(state | {"images_seen": images_seen}, stream)
    write_parts(path, stream.getvalue(), part_bytes)


def resume(path: Path, parts: Mapping[str, Stateful]) -> int:
    """Loads what `save_state` wrote; returns the images seen, 0 where there is no state.

    Parts that the state lacks stay as they are: a critic may join later. Raises `CheckpointError` for a
    damaged state or one of other networks.
    """
    content = read_parts(path)
    if content is None:
        return 0
    try:
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        for name, part in parts.items():
            if name in state:
                part.load_state_dict(state[name])
        return int(state["images_seen"])
    except (KeyError, RuntimeError, ValueError) as error:
        raise CheckpointError(f"{path}: not the state of this recipe's run ({error})") from error


def begin_with(network: nn.Module, checkpoint: Checkpoint) -> None:
    """Copies a checkpoint's weights into `network`; inputs that the checkpoint's layers lack get zeros.

    Weights that only the network has stay as they are, so that a network may grow between two phases of
    training. Raises `CheckpointError` where the checkpoint holds weights of another network.
    """
    own = network.state_dict()
    for name, value in checkpoint.state.items():
        if name not in own:
            raise CheckpointError(f"{checkpoint.path}: the network to train has no weights {name!r}")
        grown = torch.zeros_like(own[name])
        if grown.ndim != value.ndim or any(a < b for a, b in zip(grown.shape, value.shape, strict=True)):
            raise CheckpointError(
                f"{checkpoint.path}: {name} is {tuple(value.shape)}, the network to train has "
                f"{tuple(grown.shape)}"
            )
        grown[tuple(slice(side) for side in value.shape)] = value
        own[name] = grown
    network.load_state_dict(own)


def _halved(value: Any) -> Any:
    if isinstance(value, Tensor):
        return value.to(torch.bfloat16) if value.is_floating_point() and value.ndim else value
    if isinstance(value, dict):
        return {key: _halved(each) for key, each in value.items()}
    return value


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
