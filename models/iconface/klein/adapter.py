"""Adapters of klein for restoration: low-rank changes alone, or ours, with the additional modules as well.

The published one changes weights alone and sees the degraded face and the references in one sequence. Ours is written
by `save_adapter`: identity modulation, structure and context under the names they have in `IconFace`, low-rank changes
under FLUX.2's, and `{"klein": shape}` in its header.

A low-rank change is in the names of FLUX.2's own repository and merged into diffusers' weights: `NAME.lora_A.weight`
(16, in), `NAME.lora_B.weight` (out, 16), and perhaps `NAME.alpha`, for each linear layer NAME that it changes:
W' = W + alpha / 16 * B A. Source: "LoRA" (arXiv 2106.09685); the layout is that of the concat-only adapter which the
authors of IConFace (arXiv 2605.02814) published before the paper.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from models.iconface.network import IconFace
from models.iconface.shape import IconFaceShape
from models.weights import CheckpointError, is_own, load_checkpoint, load_state, save_checkpoint, tupled

LORA_FILE = "lora_weights.safetensors"
_NOT_OURS = ("backbone.", "prompt")
"""What of an `IconFace` comes from the klein folder."""
RANK = 16
ALPHA = 16.0
"""Where the file does not say."""
# diffusers keeps what is one matrix there in as many as stand here, one below the other.
_LAYERS = {
    r"double_blocks\.(\d+)\.img_attn\.qkv": (
        "transformer_blocks.{}.attn.to_q",
        "transformer_blocks.{}.attn.to_k",
        "transformer_blocks.{}.attn.to_v",
    ),
    r"double_blocks\.(\d+)\.img_attn\.proj": ("transformer_blocks.{}.attn.to_out.0",),
    r"single_blocks\.(\d+)\.linear1": ("single_transformer_blocks.{}.attn.to_qkv_mlp_proj",),
    r"single_blocks\.(\d+)\.linear2": ("single_transformer_blocks.{}.attn.to_out",),
}
_PART = re.compile(r"(?P<layer>.+)\.(?:lora_(?P<factor>[AB])\.weight|(?P<alpha>alpha))")


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
        shape = IconFaceShape(**tupled(checkpoint.parameters["klein"]))
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


@dataclass(frozen=True, slots=True, eq=False)
class LowRank:
    """What is added to one layer of the original naming."""

    layer: str
    modules: tuple[str, ...]
    """diffusers' names of its parts, top to bottom."""
    down: Tensor
    """A, (16, in)."""
    up: Tensor
    """B, (out, 16)."""
    scale: float

    def changes(self) -> dict[str, Tensor]:
        """What is added to the weight of each of `modules`, float32 (out of this part, in)."""
        product = self.scale * (self.up.float() @ self.down.float())
        return dict(zip(self.modules, product.chunk(len(self.modules)), strict=True))


def is_lora(name: str) -> bool:
    """Whether a tensor of this name is part of a low-rank change."""
    return _PART.fullmatch(name) is not None


def read_lora(state: Mapping[str, Tensor], path: Path | str) -> list[LowRank]:
    """The changes in an adapter's `state`.

    Raises `CheckpointError`, with `path` in its sentence, for names that are not of this layout, layers with half of
    a change and ranks other than 16.
    """
    parts: dict[str, dict[str, Tensor]] = {}
    for name, tensor in state.items():
        match = _PART.fullmatch(name)
        if match is None or not _modules(match["layer"]):
            raise CheckpointError(
                f"{path}: {name!r} is no part of a klein adapter, which changes img_attn.qkv, img_attn.proj, "
                "linear1 and linear2 under FLUX.2's own names"
            )
        parts.setdefault(match["layer"], {})[match["factor"] or "alpha"] = tensor
    return [_low_rank(layer, part, path) for layer, part in sorted(parts.items())]


@torch.no_grad()
def merge_lora(transformer: nn.Module, changes: list[LowRank], path: Path | str) -> None:
    """Adds `changes` to the weights of a `Flux2Transformer2DModel`, summed in float32 and rounded once.

    Raises `CheckpointError`, before anything is changed, where a layer is missing or of another size.
    """
    layers = dict(transformer.named_modules())
    merged = []
    for change in changes:
        for name, added in change.changes().items():
            module = layers.get(name)
            if not isinstance(module, nn.Linear):
                raise CheckpointError(f"{path}: the model has no {change.layer} that this adapter changes")
            if module.weight.shape != added.shape:
                raise CheckpointError(
                    f"{path}: {change.layer} of the adapter is {_size(change.up, change.down)}, that of the model "
                    f"{module.weight.shape[0] * len(change.modules)} x {module.weight.shape[1]}; "
                    "it belongs to a model of another width"
                )
            merged.append((module.weight, added))
    for weight, added in merged:
        weight.copy_(weight.float() + added.to(weight.device))


def _low_rank(layer: str, parts: Mapping[str, Tensor], path: Path | str) -> LowRank:
    if not {"A", "B"} <= parts.keys():
        raise CheckpointError(f"{path}: {layer} lacks lora_A or lora_B; the adapter is not complete")
    down, up, modules = parts["A"], parts["B"], _modules(layer)
    if down.ndim != 2 or up.ndim != 2 or up.shape[0] % len(modules):
        raise CheckpointError(
            f"{path}: {layer} has lora_A {tuple(down.shape)} and lora_B {tuple(up.shape)}, which are no factors of it"
        )
    if (down.shape[0], up.shape[1]) != (RANK, RANK):
        raise CheckpointError(f"{path}: {layer} is of rank {down.shape[0]}, expected {RANK}")
    alpha = float(parts["alpha"]) if "alpha" in parts else ALPHA
    return LowRank(layer, modules, down, up, alpha / RANK)


def _modules(layer: str) -> tuple[str, ...]:
    """diffusers' names for a layer; empty where adapters of this layout do not change it."""
    for pattern, names in _LAYERS.items():
        if match := re.fullmatch(pattern, layer):
            return tuple(name.format(match[1]) for name in names)
    return ()


def _size(up: Tensor, down: Tensor) -> str:
    return f"{up.shape[0]} x {down.shape[1]}"
