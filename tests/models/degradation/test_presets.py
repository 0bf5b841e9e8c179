"""The published presets: deterministic for each sample, worse with strength; and real video coding."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
from skimage.data import astronaut

from models.degradation.coded import video_code
from models.degradation.presets import MODERATE, SEVERE, Preset, preset_sample
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
