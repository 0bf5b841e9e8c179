"""Weights with a manifest: what a file holds, where it comes from, and that it is the file that was tested.

Embedded checkpoints are safetensors files in `models/embedded`; the header carries the parameters that
rebuild the network. `manifest.toml` beside them names sha256, licence, origins, recipe and the images seen.
"""

from __future__ import annotations

import hashlib
import json
import pickle
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

N = TypeVar("N", bound=nn.Module)

EMBEDDED = Path(__file__).with_name("embedded")
WEIGHTS = (".safetensors", ".pth", ".pt", ".ckpt")
"""Endings of files that `load_state` reads."""


class CheckpointError(RuntimeError):
    """A weights file is missing, damaged, of the wrong kind or not the one in the manifest."""

    exit_code = 3


@dataclass(frozen=True, slots=True, eq=False)
class Checkpoint:
    """The contents of one weights file."""

    state: dict[str, Tensor]
    """Floating point weights as float32."""
    parameters: dict[str, object]
    """What the network is built from, out of the file's header."""
    images_seen: int
    """Training images behind these weights; 0 = unknown."""
    path: Path | None = None
    """The file they came from."""


def load_embedded(name: str, folder: Path = EMBEDDED) -> Checkpoint:
    """The checkpoint called `name` in the manifest, after its sha256 has been compared.

    Raises `CheckpointError` for an unknown name, a missing file or a file that differs from the manifest.
    """
    manifest_path = folder / "manifest.toml"
    try:
        manifest = tomllib.loads(manifest_path.read_text(encoding="utf-8"))
    except (OSError, tomllib.TOMLDecodeError) as error:
        raise CheckpointError(f"{manifest_path}: the manifest cannot be read ({error})") from error
    entry = manifest.get(name)
    if not isinstance(entry, dict) or not {"file", "sha256"} <= entry.keys():
        known = ", ".join(sorted(manifest)) or "none"
        raise CheckpointError(f"{manifest_path}: no checkpoint {name!r}; there are: {known}")
    path = folder / str(entry["file"])
    try:
        content = path.read_bytes()
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); install the package again"
        ) from error
    if hashlib.sha256(content).hexdigest() != entry["sha256"]:
        raise CheckpointError(f"{path}: sha256 differs from the manifest; install the package again")
    return load_checkpoint(path)


def load_checkpoint(path: Path) -> Checkpoint:
    """A safetensors file written by `save_checkpoint`. Raises `CheckpointError` if it is not one."""
    try:
        with safe_open(path, framework="pt") as stream:
            metadata = stream.metadata() or {}
            state = {name: _float32(stream.get_tensor(name)) for name in stream.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    try:
        parameters = json.loads(metadata["parameters"])
        return Checkpoint(state, parameters, int(metadata.get("images_seen", "0")), path)
    except (KeyError, ValueError) as error:
        raise CheckpointError(
            f"{path}: the header lacks the network's parameters; it was not written by save_checkpoint"
        ) from error


def built(checkpoint: Checkpoint, build: Callable[[dict[str, Any]], N], what: str) -> N:
    """The network that `build` makes of the header's parameters, with the checkpoint's weights, in evaluation mode.

    Raises `CheckpointError` where either belongs to something else than `what`.
    """
    try:
        network = build(tupled(checkpoint.parameters))
        network.load_state_dict(checkpoint.state)
    except (KeyError, TypeError, ValueError, RuntimeError) as error:
        raise CheckpointError(f"{checkpoint.path}: not the weights of {what}") from error
    network.eval().requires_grad_(False)
    return network


def tupled(value: Any) -> Any:
    """`value` out of JSON with tuples for lists, as frozen dataclasses hold them."""
    if isinstance(value, dict):
        return {name: tupled(each) for name, each in value.items()}
    return tuple(tupled(each) for each in value) if isinstance(value, list) else value


def is_own(path: Path) -> bool:
    """Whether `path` is a file that `save_checkpoint` wrote: its header carries a network's parameters."""
    try:
        with safe_open(path, framework="pt") as stream:
            return "parameters" in (stream.metadata() or {})
    except (OSError, SafetensorError):
        return False


def save_checkpoint(path: Path, state: Mapping[str, Tensor], parameters: object, images_seen: int) -> str:
    """Writes weights as float16 with the network's parameters in the header; returns the file's sha256."""
    tensors = {
        name: tensor.detach().cpu().to(torch.float16 if tensor.is_floating_point() else tensor.dtype)
        for name, tensor in state.items()
    }
    metadata = {"parameters": json.dumps(parameters), "images_seen": str(images_seen)}
    content = save({name: tensor.contiguous() for name, tensor in tensors.items()}, metadata)
    part = path.with_suffix(path.suffix + ".part")
    part.write_bytes(content)
    part.replace(path)
    return hashlib.sha256(content).hexdigest()


def load_state(path: Path, *, allow_pickle: bool = False) -> dict[str, Tensor]:
    """Plain weights from a user's file: `.safetensors`, or `.pth`, `.pt`, `.ckpt` where `allow_pickle` permits it.

    Pickled files are read with `weights_only=True`. Raises `CheckpointError` for other kinds and damaged
    files.
    """
    if path.suffix not in WEIGHTS:
        raise CheckpointError(
            f"{path}: expected .safetensors, .pth, .pt or .ckpt, got {path.suffix or 'no suffix'!r}"
        )
    if path.suffix != ".safetensors" and not allow_pickle:
        raise CheckpointError(
            f"{path}: pickled weights are refused; convert them to .safetensors, or allow them with "
            "--set restorer.allow_pickle=true (for a recogniser: recogniser.allow_pickle=true)"
        )
    try:
        if path.suffix == ".safetensors":
            with safe_open(path, framework="pt") as stream:
                return {name: stream.get_tensor(name) for name in stream.keys()}  # noqa: SIM118
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        # torch's own message says how to run such a file, which is unsafe.
        raise CheckpointError(
            f"{path}: the weights cannot be read: damaged, or with objects besides tensors, which are not unpickled"
        ) from error
    except Exception as error:
        # torch.load raises nearly anything on foreign bytes; the reader needs one sentence.
        raise CheckpointError(
            f"{path}: the weights cannot be read ({type(error).__name__}: {error})"
        ) from error
    if isinstance(content, dict):
        # Training programs put the weights beside other things; the averaged ones come first.
        tables = (content.get(name) for name in ("params_ema", "params", "state_dict"))
        content = next((table for table in tables if isinstance(table, dict)), content)
    if not isinstance(content, dict) or not all(isinstance(value, Tensor) for value in content.values()):
        raise CheckpointError(f"{path}: holds no plain table of tensors")
    return dict(content)


def _float32(tensor: Tensor) -> Tensor:
    return tensor.float() if tensor.is_floating_point() else tensor
