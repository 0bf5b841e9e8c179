"""Adapters of klein for restoration: low-rank changes alone, or ours, with the additional modules as well.

The published one changes weights alone and sees the degraded face and the references in one sequence. Ours is written
by `save_adapter`: identity modulation, structure and context under the names they have in `IconFace`, low-rank changes
under FLUX.2's, and `{"klein": shape}` in its header.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from models.iconface.klein.lora import LowRank, is_lora, read_lora
from models.iconface.network import IconFace
from models.iconface.shape import IconFaceShape
from models.weights import CheckpointError, is_own, load_checkpoint, load_state, save_checkpoint

LORA_FILE = "lora_weights.safetensors"
_NOT_OURS = ("backbone.", "prompt")
"""What of an `IconFace` comes from the klein folder."""


@dataclass(frozen=True, slots=True, eq=False)
class Adapter:
    """What one file holds."""

    path: str = ""
    changes: list[LowRank] = field(default_factory=list)
    shape: IconFaceShape | None = None
    """That of the additional modules; None where there are none."""
    modules: Mapping[str, Tensor] = field(default_factory=dict)


def load_adapter(path: Path) -> Adapter:
    """The adapter at `path`: its file, or the folder with `lora_weights.safetensors`.

    Raises `CheckpointError` for a missing file, one of another kind and the weights of something else.
    """
    path = path / LORA_FILE if path.is_dir() else path
    if not path.is_file():
        raise CheckpointError(f"{path}: no such file of an adapter")
    if path.suffix != ".safetensors":
        raise CheckpointError(f"{path}: an adapter must be .safetensors, got {path.suffix or 'no suffix'!r}")
    if not is_own(path):
        return Adapter(str(path), read_lora(load_state(path), path))
    checkpoint = load_checkpoint(path)
    try:
        given = dict(_table(_table(checkpoint.parameters)["klein"]))
        shape = IconFaceShape(**{key: _untouched(value) for key, value in given.items()})
    except (KeyError, TypeError) as error:
        raise CheckpointError(f"{path}: not an adapter for klein") from error
    low_rank = {name: tensor for name, tensor in checkpoint.state.items() if is_lora(name)}
    modules = {name: tensor for name, tensor in checkpoint.state.items() if name not in low_rank}
    return Adapter(str(path), read_lora(low_rank, path), shape, modules)


def save_adapter(path: Path, network: IconFace, changes: Mapping[str, Tensor], images_seen: int) -> str:
    """Writes the additional modules of `network` and low-rank `changes`; returns the file's sha256."""
    modules = {
        name: tensor for name, tensor in network.state_dict().items() if not name.startswith(_NOT_OURS)
    }
    return save_checkpoint(path, {**modules, **changes}, {"klein": asdict(network.shape)}, images_seen)


def check_shape(adapter: Adapter, config: Mapping[str, Any]) -> None:
    """Raises `CheckpointError` where the additional modules are for another transformer than `config`."""
    shape = adapter.shape
    if shape is None:
        return
    pairs = {
        "heads": (shape.heads, config.get("num_attention_heads")),
        "channels of a head": (shape.head_width, config.get("attention_head_dim")),
        "double blocks": (shape.double_blocks, config.get("num_layers")),
        "single blocks": (shape.single_blocks, config.get("num_single_layers")),
        "channels of a token": (shape.channels, config.get("in_channels")),
        "channels of the context": (shape.context, config.get("joint_attention_dim")),
    }
    for name, (own, wanted) in pairs.items():
        if own != wanted:
            raise CheckpointError(
                f"{adapter.path}: made for a model with {own} {name}, this one has {wanted}"
            )


def values_of(adapter: Adapter) -> int:
    """Numbers in the additional modules; low-rank changes are merged and take no room."""
    return sum(torch.Size(tensor.shape).numel() for tensor in adapter.modules.values())


def _table(value: object) -> dict[str, object]:
    if not isinstance(value, dict):
        raise TypeError("expected a table")
    return value


def _untouched(value: Any) -> Any:
    """JSON knows no tuples."""
    return tuple(value) if isinstance(value, list) else value
