"""Likeness for the page by a recogniser that had no part in the gate: the gate must not grade itself."""

from __future__ import annotations

from typing import Protocol

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.protocols import References

_SIDE_PX = 256


class Describes(Protocol):
    """What is needed of `models.evaluation.measures.Judge`."""

    def describe(
        self, pictures: list[NDArray[np.uint8]], targets: list[NDArray[np.uint8]]
    ) -> NDArray[np.float64]:
        """Descriptors (N, D) of `pictures`, cut where the face is seen in `targets`."""
        ...


class Witness:
    """Compares faces with a person's references, by dlib's recogniser."""

    name = "dlib's face recogniser (1 - distance of descriptors; above 0.4 = the same person to it)"
    side = _SIDE_PX
    """Of the aligned crops it takes."""

    def __init__(self, judge: Describes) -> None:
        self._judge = judge

    def compare(self, before: Tensor, after: Tensor, references: References) -> tuple[float, float]:
        """Similarity of a face before and after, uint8 (3, 256, 256) RGB each, to the mean of its `references`.

        The references must not be empty. The place of the face is read from the picture before.
        """
        views = [_picture(crop) for crop in references.crops]
        faces = [_picture(before), _picture(after)]
        found = self._judge.describe([*views, *faces], [*views, faces[0], faces[0]])
        person = found[:-2].mean(0)
        distances = np.linalg.norm(found[-2:] - person, axis=1)
        return float(1 - distances[0]), float(1 - distances[1])


def find_witness() -> Witness | None:
    """None where dlib or its models are not installed (extra `evaluate`)."""
    try:
        from models.evaluation.cache import Cache
        from models.evaluation.measures import Judge

        return Witness(Judge(Cache(None)))
    except ImportError:
        return None


def _picture(crop: Tensor) -> NDArray[np.uint8]:
    picture = crop.permute(1, 2, 0).numpy()
    if picture.shape[0] != _SIDE_PX:
        picture = cv2.resize(picture, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture)
