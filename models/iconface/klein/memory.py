"""Whether klein fits into memory, and where its parts stand: decided from file headers before anything is loaded."""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import nn

from configs import ConfigError
from models.iconface.klein.adapter import Adapter, values_of
from models.iconface.klein.folder import KleinFolder
from models.iconface.requests import MOST_REFERENCES
from models.weights import CheckpointError

_BLOCKS = ("transformer_blocks.", "single_transformer_blocks.")
_WORDS = 512
_WIDTHS_A_TOKEN = 32
"""What a single block holds of each token at its fullest, in widths of the transformer: the stream twice, queries, keys
and values in two precisions, both halves of the MLP, what goes into the last projection."""
_PLANES = 8
"""Pictures in the decoder's second width that its last, full-sized block holds at once."""
_MARGIN = 1.1
GIGA = 1e9
_MOST_HEADER_BYTES = 100_000_000
"""The limit that safetensors itself sets."""


@dataclass(frozen=True, slots=True)
class Needs:
    """Bytes of the parts."""

    transformer: int
    blocks: int
    """That part of the transformer that its blocks are."""
    block: int
    """The largest of them."""
    others: int
    """Autoencoder and the adapter's modules."""
    work: int
    """Activations at their fullest, and what is kept of references."""
    text: int
    """The text encoder; 0 where the prompt is encoded already."""

    @property
    def whole(self) -> int:
        """With everything on one device."""
        return round(_MARGIN * (self.transformer + self.others + self.work))

    @property
    def by_blocks(self) -> int:
        """With blocks that come and go, one still there while the next arrives."""
        away = self.blocks - 2 * self.block
        return round(_MARGIN * (self.transformer - max(away, 0) + self.others + self.work))


@dataclass(frozen=True, slots=True)
class Placement:
    """What stands where."""

    by_blocks: bool
    """Whether the transformer's blocks stay in the system's memory and visit the GPU one by one."""
    text: torch.device
    """Where the prompt is encoded."""


def plan(
    folder: KleinFolder,
    adapter: Adapter,
    device: torch.device,
    kept_sets: int,
    tokens: int,
    dtype: torch.dtype,
) -> Placement:
    """The placement for pictures of `tokens` tokens; `kept_sets` sets of references are remembered.

    Raises `ConfigError` where nothing fits, with what is needed and what is free.
    """
    needs = estimate(folder, adapter, kept_sets, tokens, dtype)
    system = torch.device("cpu")
    return place(needs, device, free_bytes(device), free_bytes(system), str(folder.path))


def estimate(folder: KleinFolder, adapter: Adapter, kept_sets: int, tokens: int, dtype: torch.dtype) -> Needs:
    """What the parts need, by the headers of their files; an estimate, on the safe side."""
    transformer = tensor_sizes(folder.files("transformer"))
    block, blocks = largest_block(transformer, _BLOCKS)
    others = sum(tensor_sizes(folder.files("vae")).values()) + values_of(adapter)
    text = 0 if folder.prompt_file.is_file() else sum(tensor_sizes(folder.files("text_encoder")).values())
    size = dtype.itemsize
    return Needs(
        transformer=size * sum(transformer.values()),
        blocks=size * blocks,
        block=size * block,
        others=size * others,
        work=size * _work(folder, adapter, kept_sets, tokens),
        text=size * text,
    )


def place(
    needs: Needs, device: torch.device, free: int | None, free_system: int | None, model: str
) -> Placement:
    """The first of everything on `device`, blocks that visit it, and a refusal that fits; None = unknown, enough."""
    system = torch.device("cpu")
    if device.type == "cpu":
        _suffice(max(needs.whole, needs.text), free_system, system, model)
        return Placement(by_blocks=False, text=system)
    text = device if _fits(needs.text, free) else system
    if text == system:
        _suffice(needs.text, free_system, system, model)
    if _fits(needs.whole, free):
        return Placement(by_blocks=False, text=text)
    _suffice(needs.by_blocks, free, device, model)
    _suffice(needs.transformer, free_system, system, model)
    return Placement(by_blocks=True, text=text)


def _work(folder: KleinFolder, adapter: Adapter, kept_sets: int, tokens: int) -> int:
    """Numbers at the fullest moment, in the transformer or in the decoder, and those kept of references."""
    config = folder.transformer
    width = int(config["num_attention_heads"]) * int(config["attention_head_dim"])
    references = MOST_REFERENCES * tokens
    sequence = _WORDS + 2 * tokens + references
    channels = (
        folder.autoencoder.get("decoder_block_out_channels") or folder.autoencoder["block_out_channels"]
    )
    pixels = 256 * tokens
    largest = max(
        _WIDTHS_A_TOKEN * sequence * width, _PLANES * pixels * int(channels[min(1, len(channels) - 1)])
    )
    if adapter.shape is None:
        return largest
    layers = int(config["num_layers"]) + int(config["num_single_layers"])
    return largest + 2 * kept_sets * references * width * layers


def _fits(needed: int, free: int | None) -> bool:
    return free is None or needed <= free


def _suffice(needed: int, free: int | None, device: torch.device, model: str) -> None:
    if free is not None and needed > free:
        remedy = "close other programs" if device.type == "cpu" else "close other programs that use the GPU"
        raise ConfigError(
            f"{model}: klein needs about {needed / GIGA:.1f} GB of memory on {device}, {free / GIGA:.1f} GB are "
            f"free; {remedy}, or choose --restorer fast"
        )


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
    """Free memory of a GPU, or available memory of the system; None where unknown."""
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
