"""The shipped weights of `iconface`: they help, references speak, and cached references change nothing."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from models.degradation.stills import MODERATE, SEVERE, Preset, preset_sample
from models.iconface.restorer import IconFaceRestorer
from models.iconface.settings import IconFaceSettings
from models.pictures import Picture
from models.protocols import References, Request
from support.portraits import aligned_astronaut, crop, psnr, references


@pytest.fixture(scope="module")
def restorer() -> IconFaceRestorer:
    return IconFaceRestorer()


@pytest.fixture(scope="module")
def target() -> Picture:
    return aligned_astronaut()


@pytest.mark.parametrize("preset", [MODERATE, SEVERE], ids=["moderate", "severe"])
@pytest.mark.parametrize("steps", [1, 4])
def test_restored_face_is_closer_to_the_original_than_the_degraded(
    target: Picture, preset: Preset, steps: int
) -> None:
    restorer = IconFaceRestorer(settings=IconFaceSettings(steps=steps))
    degraded = [crop(preset_sample(target, seed, preset, None)) for seed in range(3)]
    restored = restorer.restore([Request(image, References()) for image in degraded])
    before = np.mean([psnr(image, target) for image in degraded])
    after = np.mean([psnr(result.image, target) for result in restored])
    assert after > before + 0.2, (before, after)


def test_a_reference_changes_the_result(restorer: IconFaceRestorer, target: Picture) -> None:
    degraded = crop(preset_sample(target, 0, SEVERE, None))
    alone, known = restorer.restore([Request(degraded, References()), Request(degraded, references(target))])
    assert (alone.image.int() - known.image.int()).abs().float().mean() > 0.05


def test_references_that_are_known_already_give_the_same(restorer: IconFaceRestorer, target: Picture) -> None:
    degraded = crop(preset_sample(target, 1, MODERATE, None))
    request = Request(degraded, references(target))
    first = IconFaceRestorer().restore([request])[0].image
    restorer.restore([Request(crop(preset_sample(target, 2, MODERATE, None)), request.references)])
    assert torch.equal(restorer.restore([request])[0].image, first)
