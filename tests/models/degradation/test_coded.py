"""The cache of really coded pictures: made once, of the named faces, each at its own place."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import astronaut

from models.degradation import coded as module
from models.degradation.coded import coded_faces, coded_picture


@pytest.fixture(scope="module")
def pictures() -> NDArray[np.uint8]:
    """Three windows of one photograph, (3, 96, 96, 3)."""
    whole = astronaut()
    return np.stack([whole[y : y + 96, x : x + 96] for y, x in ((20, 170), (60, 180), (200, 300))])


def test_coded_pictures_show_their_targets(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    coded = coded_faces(pictures, np.array([0, 2]), 6, tmp_path, "three", 5)
    assert coded.pictures.shape == (6, 96, 96, 3)
    assert sorted(coded.targets.tolist()) == [0, 0, 0, 2, 2, 2]
    for picture, target in zip(coded.pictures, coded.targets, strict=True):
        errors = np.abs(pictures.astype(int) - picture.astype(int)).mean((1, 2, 3))
        assert errors.argmin() == target, errors
        assert errors[target] > 0.3


def test_they_are_made_once_and_again_for_other_arguments(
    pictures: NDArray[np.uint8], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls: list[int] = []

    def counted(picture: NDArray[np.uint8], seed: int) -> NDArray[np.uint8]:
        calls.append(seed)
        return coded_picture(picture, seed)

    monkeypatch.setattr(module, "coded_picture", counted)
    first = coded_faces(pictures, np.arange(3), 3, tmp_path, "three", 1)
    second = coded_faces(pictures, np.arange(3), 3, tmp_path, "three", 1)
    assert len(calls) == len(set(calls)) == 3
    assert np.array_equal(first.pictures, second.pictures)
    coded_faces(pictures, np.arange(3), 3, tmp_path, "three", 2)
    assert len(calls) == 6
    assert not list(tmp_path.glob("*.part"))


def test_no_faces_get_a_sentence(pictures: NDArray[np.uint8], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least 32 pixels are needed, got 0 faces"):
        coded_faces(pictures, np.empty(0, np.int64), 3, tmp_path, "none", 1)
