"""Contact sheets: pictures of several kinds beside each other, a row for each face."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np

from models.training.degrade import Picture

_LABEL_PX = 28
_INK, _PAPER = (0, 0, 0), 255


def write_sheet(path: Path, kinds: dict[str, list[Picture]], rows: int) -> None:
    """Writes a PNG with a labelled column for each of `kinds` and `rows` faces spread over the lists.

    Pictures uint8 (S, S, 3) RGB, all of one size. Raises `ValueError` where the file cannot be written.
    """
    count = len(next(iter(kinds.values())))
    chosen = np.unique(np.linspace(0, count - 1, min(rows, count)).round().astype(int))
    columns = [
        np.vstack([_label(name, pictures[0].shape[1]), *(pictures[index] for index in chosen)])
        for name, pictures in kinds.items()
    ]
    try:
        written = cv2.imwrite(str(path), np.hstack(columns)[..., ::-1])
    except cv2.error:
        written = False
    if not written:
        raise ValueError(f"{path}: the sheet cannot be written; name a .png file in an existing folder")


def _label(text: str, width: int) -> Picture:
    label = np.full((_LABEL_PX, width, 3), _PAPER, np.uint8)
    cv2.putText(label, text, (6, 19), cv2.FONT_HERSHEY_SIMPLEX, 0.5, _INK, 1, cv2.LINE_AA)
    return label
