"""Folders of aligned faces, decoded once and kept as one uint8 array, and what lies beside them.

A folder holds pictures aligned to the FFHQ-512 template with an `index.csv` of the columns `file, identity, origin,
true_px`, or shards of both. The decoded array lies in a cache folder outside the repository and is read through a
memory map, so that several runs share it. Dense points of each picture, and which pictures show the same person, lie
beside the pictures where they are known.

Shards are a few files that travel without a network and need no AVIF reader: each is a safetensors file with the
compressed pictures (WebP) end to end, where each begins, and its rows of the index. They are made of a folder by
`python -m models.training.dataset FACES OUT [--side 256] [--megabytes 60]`.

Shapes: N pictures, S side in pixels, P = 478 dense points, L bytes of a shard's pictures.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

from configs import ConfigError
from models.weights import CheckpointError


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What the index says about one picture."""

    file: str
    identity: str
    origin: str
    true_px: int


@dataclass(frozen=True, slots=True)
class Faces:
    """All pictures of one folder at one size, with what the index says about each."""

    folder: Path
    """Where they come from; names what is made from them in the cache."""
    pictures: NDArray[np.uint8]
    """(N, S, S, 3) RGB, aligned to the FFHQ template; a read-only memory map."""
    files: tuple[str, ...]
    identities: tuple[str, ...]
    """Same text, same person; empty = unknown, or the only picture of the person."""
    origins: tuple[str, ...]
    true_px: NDArray[np.int64]
    """(N,) side up to which the picture is really sharp; 0 = an old print, never a target."""

    def targets(self, smallest_true_px: int) -> NDArray[np.int64]:
        """Indices of the pictures that are sharp enough to be a target."""
        return np.flatnonzero(self.true_px >= smallest_true_px)

    def partners(self) -> tuple[NDArray[np.int64], ...]:
        """For each picture the indices of the other pictures of the same person, possibly none."""
        groups: dict[str, list[int]] = {}
        for index, identity in enumerate(self.identities):
            if identity:
                groups.setdefault(identity, []).append(index)
        return tuple(
            np.array([other for other in groups.get(identity, []) if other != index], dtype=np.int64)
            for index, identity in enumerate(self.identities)
        )


@dataclass(frozen=True, slots=True, eq=False)
class Targets:
    """Which pictures of a set may be targets, and how often each is drawn.

    T of the N pictures are.
    """

    indices: NDArray[np.int64]
    """(T,) in the set."""
    chances: NDArray[np.float64] | None
    """(T,) adding up to 1; None where all are drawn alike."""

    def draw(self, random: np.random.Generator, count: int) -> NDArray[np.int64]:
        """int64 (count,), indices in the set; the same one may come again."""
        return random.choice(self.indices, count, p=self.chances)

    def chosen(self, wanted: NDArray[np.bool_]) -> Targets:
        """Those of the T pictures for which `wanted`, (T,), is true, drawn as often against each other."""
        chances = None if self.chances is None else self.chances[wanted] / self.chances[wanted].sum()
        return Targets(self.indices[wanted], chances)


def load_targets(
    folder: Path, size_px: int, cache: Path, smallest_true_px: int, soft_weight: float | None = None
) -> tuple[Faces, Targets]:
    """All faces of `folder` at `size_px`, and those of them that are sharp at `smallest_true_px` or more.

    `soft_weight`: how often a target that is not sharp at `size_px` is drawn, against 1 for the others; None
    for all alike. Raises `ConfigError` where no face is sharp enough.
    """
    faces = load_faces(folder, size_px, cache)
    indices = faces.targets(smallest_true_px)
    if not len(indices):
        raise ConfigError(f"{folder}: no face is sharp at {smallest_true_px} pixels or more")
    if soft_weight is None:
        return faces, Targets(indices, None)
    weights = np.where(faces.true_px[indices] >= size_px, 1.0, soft_weight)
    return faces, Targets(indices, weights / weights.sum())


def load_faces(folder: Path, size_px: int, cache: Path, smallest_true_px: int = 0) -> Faces:
    """The faces of `folder` at `size_px`, decoded into `cache` at the first call.

    Those that are really sharp below `smallest_true_px` are left out.
    Raises `FileNotFoundError` where the folder has neither an `index.csv` nor shards.
    """
    packed = bool(shards(folder))
    rows = read_rows(folder)
    wanted = [row.true_px >= smallest_true_px for row in rows]
    rows = list(compress(rows, wanted))
    files = tuple(row.file for row in rows)
    return Faces(
        folder=folder.resolve(),
        pictures=_decoded(folder, files, size_px, cache, wanted if packed else None),
        files=files,
        identities=tuple(row.identity for row in rows),
        origins=tuple(row.origin for row in rows),
        true_px=np.array([row.true_px for row in rows], dtype=np.int64),
    )


def _decoded(
    folder: Path, files: tuple[str, ...], size_px: int, cache: Path, packed: list[bool] | None
) -> NDArray[np.uint8]:
    """`packed`: for a folder of shards, which of their pictures are wanted."""
    # Shards may be packed anew under the same names.
    packed_sizes = [path.stat().st_size for path in shards(folder)] or None
    described = [str(folder.resolve()), size_px, files, *([packed_sizes] if packed_sizes else [])]
    key = hashlib.sha256(json.dumps(described).encode()).hexdigest()[:16]
    path = cache / f"faces_{size_px}_{key}.npy"
    if not path.exists():
        cache.mkdir(parents=True, exist_ok=True)
        part = path.with_suffix(f".{os.getpid()}.part")
        pictures = np.lib.format.open_memmap(
            part, mode="w+", dtype=np.uint8, shape=(len(files), size_px, size_px, 3)
        )
        decoded = (
            (read_face(folder / file, size_px) for file in files)
            if packed is None
            else compress(read_pictures(folder, size_px), packed)
        )
        for index, picture in enumerate(decoded):
            pictures[index] = picture
        pictures.flush()
        part.rename(path)
    array: NDArray[np.uint8] = np.load(path, mmap_mode="r")
    return array


def read_index(folder: Path) -> list[IndexRow]:
    """The rows of `index.csv` in `folder`, in its order. Raises `FileNotFoundError` without one,
    `ConfigError` where a column is missing."""
    path = folder / "index.csv"
    with path.open(newline="", encoding="utf-8") as stream:
        try:
            return [
                IndexRow(row["file"], row["identity"], row["origin"], int(float(row["true_px"] or 0)))
                for row in csv.DictReader(stream)
            ]
        except (KeyError, ValueError) as error:
            raise ConfigError(f"{path}: a column is missing or holds no number ({error})") from error


def read_face(path: Path, size_px: int) -> NDArray[np.uint8]:
    """One picture as uint8 (S, S, 3) RGB, reduced by area averaging."""
    with Image.open(path) as picture:
        image = np.asarray(picture.convert("RGB"))
    if image.shape[0] != size_px or image.shape[1] != size_px:
        image = cv2.resize(image, (size_px, size_px), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image, dtype=np.uint8)


def shards(folder: Path) -> list[Path]:
    """The shards in `folder`, in order; none if it is a folder of pictures."""
    return sorted(folder.glob("faces_*.safetensors"))


def read_rows(folder: Path) -> list[IndexRow]:
    """The rows of all shards in `folder`, or of its `index.csv` where there are none."""
    if not shards(folder):
        return read_index(folder)
    rows: list[IndexRow] = []
    for path in shards(folder):
        try:
            with safe_open(path, framework="pt") as stream:
                rows += [IndexRow(*row) for row in json.loads(stream.metadata()["rows"])]
        except (SafetensorError, KeyError, TypeError, ValueError) as error:
            raise CheckpointError(f"{path}: not a shard of faces, or damaged ({error})") from error
    return rows


def read_pictures(folder: Path, side_px: int) -> Iterator[NDArray[np.uint8]]:
    """All pictures, uint8 (S, S, 3) RGB, in the order of `read_rows`."""
    for path in shards(folder):
        with safe_open(path, framework="pt") as stream:
            codes, ends = stream.get_tensor("codes").numpy(), stream.get_tensor("ends").tolist()
        for start, end in zip([0, *ends[:-1]], ends, strict=True):
            image_bgr = cv2.imdecode(codes[start:end], cv2.IMREAD_COLOR)
            if image_bgr is None:
                raise CheckpointError(f"{path}: a picture cannot be decoded; bring the shard again")
            image = cv2.cvtColor(image_bgr, cv2.COLOR_BGR2RGB)
            if image.shape[0] != side_px:
                image = cv2.resize(image, (side_px, side_px), interpolation=cv2.INTER_AREA)
            yield np.asarray(image, np.uint8)


def read_points(folder: Path) -> tuple[tuple[str, ...], NDArray[np.float32], NDArray[np.bool_]]:
    """Files, dense points (N, P, 2) in pixels of 512, and whether a face was found (N,), of `landmarks.npz`.

    Raises `FileNotFoundError` without the file.
    """
    with np.load(folder / "landmarks.npz") as stored:
        points = (stored["mean"] + stored["offset"].astype(np.float32)) / 8
        return tuple(stored["files"].tolist()), points, stored["found"].astype(bool)


def load_points(
    folder: Path, files: tuple[str, ...], side_px: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Dense points, float32 (N, P, 2) in pixels of a crop of `side_px`, and whether they were found, (N,).

    Of `read_points`, in the order of `files`. Raises `ConfigError` where it is missing or lacks a file.
    """
    try:
        names, points, found = read_points(folder)
        places = {name: place for place, name in enumerate(names)}
        order = [places[file] for file in files]
    except (OSError, KeyError) as error:
        raise ConfigError(f"{folder / 'landmarks.npz'}: dense points are missing ({error})") from error
    scaled = (points[order] + 0.5) * (side_px / 512) - 0.5
    return scaled.astype(np.float32), found[order]


def load_partners(folder: Path, files: tuple[str, ...]) -> tuple[NDArray[np.int64], ...]:
    """For each of `files` the places of other pictures of the same person, possibly none; of `views.csv`.

    Raises `ConfigError` where the file is missing.
    """
    path = folder / "views.csv"
    places = {file: place for place, file in enumerate(files)}
    partners: list[list[int]] = [[] for _ in files]
    try:
        with path.open(encoding="utf-8", newline="") as stream:
            for row in csv.DictReader(stream):
                first, second = places.get(row["file"]), places.get(row["other"])
                if first is not None and second is not None:
                    partners[first].append(second)
                    partners[second].append(first)
    except OSError as error:
        raise ConfigError(f"{path}: pairs of the same person are missing ({error.strerror})") from error
    return tuple(np.array(sorted(set(each)), np.int64) for each in partners)


QUALITY = 92
"""Of WebP, 100 = best. Targets are noisy photographs: nothing that `fast` can learn is lost at this."""

_HEADER_BYTES = 1024
_ROW_BYTES = 64
"""Offset, numbers and punctuation of a row."""


def main() -> None:
    """Packs one folder of faces."""
    parser = argparse.ArgumentParser(prog="python -m models.training.dataset", description=__doc__)
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
            paths.append(_write_shard(out, len(paths), pending, side_px))
            pending, size = [], 0
        pending.append((row, coded))
        size += needed
    if pending:
        paths.append(_write_shard(out, len(paths), pending, side_px))
    return paths


def _write_shard(
    out: Path, number: int, pictures: list[tuple[IndexRow, NDArray[np.uint8]]], side_px: int
) -> Path:
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
