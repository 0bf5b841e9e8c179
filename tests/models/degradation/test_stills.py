"""Single pictures: the published presets, deterministic for each sample and worse with strength; real video coding, and
the cache of coded pictures: made once, of the named faces, each at its own place.
"""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from skimage.data import astronaut

from models.degradation import stills as module
from models.degradation.stills import (
    MODERATE,
    SEVERE,
    Preset,
    coded_faces,
    coded_picture,
    preset_sample,
    video_code,
)
from models.pictures import Picture


@pytest.fixture(scope="module")
def face() -> Picture:
    """The astronaut's face, uint8 (128, 128, 3)."""
    return np.ascontiguousarray(astronaut()[30:158, 160:288])


def error(degraded: Picture, face: Picture) -> float:
    return float(np.square(degraded.astype(float) - face).mean())


@pytest.mark.parametrize("preset", [MODERATE, SEVERE], ids=["moderate", "severe"])
def test_presets_grow_with_strength(face: Picture, preset: Preset) -> None:
    errors = [
        error(preset_sample(face, 7, preset, strength), face) for strength in (0.0, 0.25, 0.5, 0.75, 1.0)
    ]
    assert all(low < high for low, high in pairwise(errors)), errors


def test_severe_begins_where_moderate_ends_and_gets_worse(face: Picture) -> None:
    worst = [error(preset_sample(face, 7, preset, 1.0), face) for preset in (MODERATE, SEVERE)]
    assert worst[0] < worst[1]


def test_moderate_at_strength_zero_changes_nothing(face: Picture) -> None:
    assert np.array_equal(preset_sample(face, 7, MODERATE, 0.0), face)


def test_same_seed_same_result_and_another_seed_another(face: Picture) -> None:
    first, second = (preset_sample(face, 3, SEVERE, None) for _ in range(2))
    assert np.array_equal(first, second)
    assert not np.array_equal(first, preset_sample(face, 4, SEVERE, None))


def test_lengths_scale_with_the_side(face: Picture) -> None:
    """Blur is stated at 512 pixels: enlarging first or afterwards must come to about the same."""
    only_blur = Preset(blur_sigma=(0, 16), reduction=(1, 1), noise=(0, 0), jpeg_quality=(100, 100))
    large = np.asarray(cv2.resize(face, (256, 256), interpolation=cv2.INTER_LINEAR), np.uint8)
    reduced = cv2.resize(preset_sample(large, 1, only_blur, 1.0), (128, 128), interpolation=cv2.INTER_AREA)
    straight = preset_sample(face, 1, only_blur, 1.0)
    assert float(np.abs(np.asarray(reduced, float) - straight).mean()) < 2.5


def test_video_coding_keeps_place_and_worsens_with_strength(face: Picture) -> None:
    def damage(strength: float) -> float:
        coded = [video_code(face, np.random.default_rng(seed), strength) for seed in range(8)]
        return float(np.mean([np.abs(image.astype(int) - face.astype(int)).mean() for image in coded]))

    assert damage(0.0) < 3 < damage(1.0)


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
