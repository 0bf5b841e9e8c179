"""What lies beside a folder of training faces: dense points of each picture, and which pictures show the same person.

Shapes: N pictures, P = 478 dense points.
"""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from configs import ConfigError


def load_points(
    folder: Path, files: tuple[str, ...], side_px: int
) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
    """Dense points, float32 (N, P, 2) in pixels of a crop of `side_px`, and whether they were found, (N,).

    Of `landmarks.npz` in `folder`, in the order of `files`. Raises `ConfigError` where it is missing or lacks a file.
    """
    path = folder / "landmarks.npz"
    try:
        with np.load(path) as stored:
            names, found = [str(name) for name in stored["files"]], stored["found"].astype(bool)
            points = (stored["mean"] + stored["offset"].astype(np.float32)) / 8
        places = {name: place for place, name in enumerate(names)}
        order = [places[file] for file in files]
    except (OSError, KeyError) as error:
        raise ConfigError(f"{path}: dense points are missing ({error})") from error
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
