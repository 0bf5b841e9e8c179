"""Aligned faces in shards: `python -m models.training.shards FACES OUT [--side 256] [--megabytes 60]`.

A folder of faces becomes a few files that travel without a network and need no AVIF reader: each shard is a
safetensors file with the compressed pictures (WebP) end to end, where each begins, and its rows of the index.
`load_faces` reads a folder of shards like a folder of pictures.

Shapes: N pictures of a shard, L bytes in all.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file

from models.training.dataset import IndexRow, read_face, read_index, shards

QUALITY = 92
"""Of WebP, 100 = best. Targets are noisy photographs: nothing that `fast` can learn is lost at this."""

_HEADER_BYTES = 1024
_ROW_BYTES = 64
"""Offset, numbers and punctuation of a row."""


def main() -> None:
    """Packs one folder of faces."""
    parser = argparse.ArgumentParser(prog="python -m models.training.shards", description=__doc__)
    parser.add_argument("faces", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--side", type=int, default=256, help="side of the packed pictures in pixels")
    parser.add_argument("--megabytes", type=float, default=60, help="largest size of a shard in MiB")
    arguments = parser.parse_args()
    for path in write_shards(arguments.faces, arguments.out, arguments.side, arguments.megabytes):
        print(f"{path}: {path.stat().st_size / 2**20:.1f} MiB")


def write_shards(faces: Path, out: Path, side_px: int, megabytes: float) -> list[Path]:
    """Packs the folder `faces` into `out`; returns the shards in the order of the index."""
    out.mkdir(parents=True, exist_ok=True)
    for old in shards(out):
        old.unlink()
    largest = int(megabytes * 2**20) - _HEADER_BYTES
    paths: list[Path] = []
    pending: list[tuple[IndexRow, NDArray[np.uint8]]] = []
    size = 0
    for row in read_index(faces):
        image_bgr = cv2.cvtColor(read_face(faces / row.file, side_px), cv2.COLOR_RGB2BGR)
        _, code = cv2.imencode(".webp", image_bgr, (cv2.IMWRITE_WEBP_QUALITY, QUALITY))
        coded = np.asarray(code, np.uint8).ravel()
        needed = len(coded) + _ROW_BYTES + 2 * len(row.file + row.identity + row.origin)
        if pending and size + needed > largest:
            paths.append(_write(out, len(paths), pending, side_px))
            pending, size = [], 0
        pending.append((row, coded))
        size += needed
    if pending:
        paths.append(_write(out, len(paths), pending, side_px))
    return paths


def _write(out: Path, number: int, pictures: list[tuple[IndexRow, NDArray[np.uint8]]], side_px: int) -> Path:
    path = out / f"faces_{number:03d}.safetensors"
    lengths = [len(code) for _, code in pictures]
    tensors = {
        "codes": torch.from_numpy(np.concatenate([code for _, code in pictures])),  # uint8 (L,)
        "ends": torch.from_numpy(np.cumsum(lengths)),  # int64 (N,)
    }
    # No packed picture is sharper than its side.
    rows = [[row.file, row.identity, row.origin, min(row.true_px, side_px)] for row, _ in pictures]
    save_file(tensors, path, {"rows": json.dumps(rows), "side_px": str(side_px)})
    return path


if __name__ == "__main__":
    main()
