"""Degradations: deterministic for each sample, worse with strength, at the published ranges."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

from models.training.degrade import MODERATE, SEVERE, Preset, degrade, degrade_mixed
from models.training.video_code import video_code


@pytest.fixture(scope="module")
def face() -> Tensor:
    """The astronaut's face, float32 (1, 3, 128, 128) in [0, 1]."""
    picture = np.ascontiguousarray(astronaut()[30:158, 160:288])
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def error(degraded: Tensor, face: Tensor) -> float:
    return float((degraded - face).square().mean())


@pytest.mark.parametrize("preset", [MODERATE, SEVERE], ids=["moderate", "severe"])
def test_presets_grow_with_strength(face: Tensor, preset: Preset) -> None:
    errors = [error(degrade(face, [7], preset, strength), face) for strength in (0.0, 0.25, 0.5, 0.75, 1.0)]
    assert all(low < high for low, high in pairwise(errors)), errors


def test_severe_begins_where_moderate_ends_and_gets_worse(face: Tensor) -> None:
    assert error(degrade(face, [7], SEVERE, 1.0), face) > error(degrade(face, [7], MODERATE, 1.0), face)


def test_moderate_at_strength_zero_changes_nothing(face: Tensor) -> None:
    assert torch.allclose(degrade(face, [7], MODERATE, 0.0), face, atol=1e-6)


def test_the_mix_grows_with_strength_on_average(face: Tensor) -> None:
    seeds = list(range(48))
    many = face.expand(len(seeds), -1, -1, -1)
    errors = [
        error(degrade_mixed(many, seeds, [strength] * len(seeds)), many) for strength in (0.05, 0.4, 1.0)
    ]
    assert errors[0] < errors[1] < errors[2], errors


def test_same_seed_same_result_and_another_seed_another(face: Tensor) -> None:
    first, second = (degrade_mixed(face, [3], [0.6]) for _ in range(2))
    assert torch.equal(first, second)
    assert not torch.equal(first, degrade_mixed(face, [4], [0.6]))


def test_a_sample_does_not_depend_on_its_neighbours(face: Tensor) -> None:
    together = degrade_mixed(face.expand(3, -1, -1, -1), [1, 2, 3], [0.3, 0.6, 0.9])
    assert torch.equal(together[1:2], degrade_mixed(face, [2], [0.6]))
    together = degrade(face.expand(3, -1, -1, -1), [1, 2, 3], SEVERE)
    assert torch.equal(together[2:], degrade(face, [3], SEVERE))


def test_lengths_scale_with_the_side(face: Tensor) -> None:
    """Blur is stated at 512 pixels: enlarging first or afterwards must come to about the same."""
    only_blur = Preset(blur_sigma=(0, 16), reduction=(1, 1), noise=(0, 0), jpeg_quality=(100, 100))
    large = torch.nn.functional.interpolate(face, scale_factor=2, mode="bilinear")
    reduced = torch.nn.functional.avg_pool2d(degrade(large, [1], only_blur, 1.0), 2)
    assert float((reduced - degrade(face, [1], only_blur, 1.0)).abs().mean()) < 0.01


def test_video_coding_keeps_place_and_worsens_with_strength(face: Tensor) -> None:
    picture = (face[0] * 255).byte().permute(1, 2, 0).numpy()

    def damage(strength: float) -> float:
        coded = [video_code(picture, np.random.default_rng(seed), strength) for seed in range(8)]
        return float(np.mean([np.abs(image.astype(int) - picture.astype(int)).mean() for image in coded]))

    assert damage(0.0) < 3 < damage(1.0)
