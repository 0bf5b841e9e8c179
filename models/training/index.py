"""A folder of aligned faces: pictures and an `index.csv` with the columns `file, identity, origin, true_px`."""

from __future__ import annotations

import csv
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from configs import ConfigError


@dataclass(frozen=True, slots=True)
class IndexRow:
    """What the index says about one picture."""

    file: str
    identity: str
    origin: str
    true_px: int


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
