"""Whether a model fits, before it is loaded: bytes of its files' headers, what it works with, and what is free."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import nn

from models.weights import CheckpointError

GIGA = 1e9
_MOST_HEADER_BYTES = 100_000_000
"""The limit that safetensors itself sets."""


def tensor_sizes(paths: Sequence[Path]) -> dict[str, int]:
    """Number of values of each tensor in safetensors files; only their headers are read.

    Raises `CheckpointError` for files of another kind.
    """
    sizes: dict[str, int] = {}
    for path in paths:
        try:
            with path.open("rb") as stream:
                (length,) = struct.unpack("<Q", stream.read(8))
                if length > _MOST_HEADER_BYTES:
                    raise ValueError("its header is too long")
                header = json.loads(stream.read(length))
            for name, entry in header.items():
                if name != "__metadata__":
                    sizes[name] = torch.Size(entry["shape"]).numel()
        except (OSError, ValueError, TypeError, KeyError, AttributeError, struct.error) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    return sizes


def free_bytes(device: torch.device) -> int | None:
    """Memory that is free on a GPU, or that the system can give on a CPU; None where nobody says."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    kilobytes = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(kilobytes[0]) * 1024 if kilobytes else None


def largest_block(sizes: dict[str, int], prefixes: Sequence[str]) -> tuple[int, int]:
    """Values of the largest block, and of all blocks; a block's tensors start with a prefix and a number."""
    blocks: dict[tuple[str, str], int] = {}
    for name, size in sizes.items():
        for prefix in prefixes:
            if name.startswith(prefix):
                key = prefix, name.removeprefix(prefix).partition(".")[0]
                blocks[key] = blocks.get(key, 0) + size
    return max(blocks.values(), default=0), sum(blocks.values())


def keep_away(module: nn.Module, blocks: Sequence[nn.Module], device: torch.device) -> None:
    """Brings `module` to `device`, all but `blocks`, which stay where they are and only visit.

    Nothing is copied back after a visit, as inference changes no weights: call it after their last change.
    """
    away = {id(parameter) for block in blocks for parameter in block.parameters()}
    for owner, name, parameter in _parameters(module):
        if id(parameter) not in away:
            setattr(owner, name, nn.Parameter(parameter.to(device), requires_grad=False))
    for owner in module.modules():
        for name, buffer in list(owner.named_buffers(recurse=False)):
            setattr(owner, name, buffer.to(device))
    for block in blocks:
        _visit(block, device)


def _visit(block: nn.Module, device: torch.device) -> None:
    """Lets the weights of `block` stand on `device` while it computes."""
    home = _parameters(block)

    def arrive(*_: object) -> None:
        for owner, name, parameter in home:
            setattr(owner, name, nn.Parameter(parameter.to(device), requires_grad=False))

    def leave(*_: object) -> None:
        for owner, name, parameter in home:
            setattr(owner, name, parameter)

    block.register_forward_pre_hook(arrive)
    block.register_forward_hook(leave, always_call=True)


def _parameters(module: nn.Module) -> list[tuple[nn.Module, str, nn.Parameter]]:
    """Each parameter with the module it belongs to and its name there."""
    return [
        (owner, name, parameter)
        for owner in module.modules()
        for name, parameter in owner.named_parameters(recurse=False)
    ]
