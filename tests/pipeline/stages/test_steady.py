"""Steadied faces: less flicker where nothing changed, no ghost and no smear where something did."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from numpy.typing import NDArray
from skimage.data import astronaut

from pipeline.stages.motion import MotionMeter, look_at, unmoved
from pipeline.stages.reuse import Reuse
from support.fakes import tracked_face

PORTRAIT: NDArray[np.uint8] = cv2.resize(  # type: ignore[assignment]
    astronaut()[20:276, 90:346],  # type: ignore[no-untyped-call]
    (128, 128),
    interpolation=cv2.INTER_AREA,
)


def steadier(share: float = 0.6) -> Reuse:
    """Every face is restored, and mixed with the one before."""
    return Reuse(most_carried=0, most_still=0, steadiness=share)


def shown(reuse: Reuse, crop: NDArray[np.uint8], image: NDArray[np.generic]) -> NDArray[np.float32]:
    face = replace(tracked_face(size=128), crop=torch.from_numpy(crop.transpose(2, 0, 1).copy()))
    (planned,) = reuse.plan([face])
    restored = torch.from_numpy(np.clip(image, 0, 255).astype(np.uint8).transpose(2, 0, 1).copy())
    return reuse.finish(planned, restored).numpy().transpose(1, 2, 0).astype(np.float32)


def flickering(index: int) -> NDArray[np.float32]:
    """A restoration whose fine detail is another one each time."""
    noise = np.random.default_rng(index).normal(0, 12, PORTRAIT.shape)
    return np.asarray(PORTRAIT + noise, np.float32)


def test_flicker_of_a_still_face_falls() -> None:
    reuse = steadier()
    steadied = np.stack([shown(reuse, PORTRAIT, flickering(index)) for index in range(12)])
    alone = np.stack([shown(steadier(0), PORTRAIT, flickering(index)) for index in range(12)])
    flicker = [np.abs(np.diff(images[4:], axis=0)).mean() for images in (steadied, alone)]
    assert flicker[0] < 0.5 * flicker[1]


def test_a_moving_face_is_followed_and_not_smeared() -> None:
    reuse = steadier()
    for index in range(8):
        shift = np.array([[1, 0, 1.5 * index], [0, 1, 0.5 * index]])
        moved = np.asarray(
            cv2.warpAffine(PORTRAIT, shift, (128, 128), borderMode=cv2.BORDER_REFLECT), np.uint8
        )
        out = shown(reuse, moved, moved)
    assert np.abs(out - moved)[16:112, 16:112].mean() < 2


def test_fine_motion_places_a_face_more_exactly_than_quick_motion() -> None:
    """A face that turns by two degrees, which is a motion of its own at every pixel."""
    big = cv2.resize(PORTRAIT, (256, 256), interpolation=cv2.INTER_CUBIC)
    turn = cv2.getRotationMatrix2D((128, 128), 2, 1)
    turned = cv2.warpAffine(big, turn, (256, 256), borderMode=cv2.BORDER_REFLECT)
    now, before = (look_at(torch.from_numpy(crop.transpose(2, 0, 1).copy())) for crop in (turned, big))
    y, x = np.mgrid[:128, :128].astype(np.float64)
    back = cv2.invertAffineTransform(turn)
    true = np.stack(
        [back[row] @ [2 * x.ravel() + 0.5, 2 * y.ravel() + 0.5, x.ravel() * 0 + 1] for row in (0, 1)]
    )
    true = (true.reshape(2, 128, 128).transpose(1, 2, 0) - 0.5) / 2 - np.dstack([x, y])
    errors = []
    for quick in (False, True):
        flow = MotionMeter(quick=quick).measure(now, before).flow
        assert flow is not None
        errors.append(np.hypot(*(flow - true)[16:112, 16:112].T).mean())
    assert errors[0] < 0.1
    assert errors[0] < 0.6 * errors[1]


def test_what_changed_leaves_no_ghost() -> None:
    """A mouth that opens, a hand that comes: the new picture at once."""
    reuse = steadier()
    shown(reuse, PORTRAIT, PORTRAIT)
    changed = PORTRAIT.copy()
    changed[70:100, 45:85] = 255 - changed[70:100, 45:85]
    out = shown(reuse, changed, changed)
    assert np.abs(out - changed)[74:96, 50:80].mean() < 4


def test_nought_leaves_everything_as_it_is() -> None:
    reuse = steadier(0)
    for index in range(3):
        image = flickering(index).clip(0, 255).astype(np.uint8)
        assert np.array_equal(shown(reuse, PORTRAIT, image), image)


def test_the_gate_is_open_for_grain_and_shut_for_change() -> None:
    grain = np.random.default_rng(0).normal(0, 4, (2, *PORTRAIT.shape))
    first, second = (np.clip(PORTRAIT + g, 0, 255).astype(np.uint8) for g in grain)
    # Fully open: a gate that is open by half would leave half of what was restored.
    assert (gate(first, second) == 1).mean() > 0.9
    changed = second.copy()
    changed[50:80, 50:80] = np.clip(changed[50:80, 50:80].astype(int) + 60, 0, 255)
    assert gate(first, changed)[28:37, 28:37].max() < 0.05


def test_the_gate_is_shut_where_there_and_back_leads_elsewhere() -> None:
    """Faint skin gives way to other faint skin: the difference is small, and no motion leads from one to the other."""
    faint = np.random.default_rng(0).normal(0, 1, (2, 256, 256))
    first, second = (120 + 2 * cv2.GaussianBlur(f, (0, 0), 4) / 0.07 for f in faint)
    now = first.copy()
    now[64:192, 64:192] = second[64:192, 64:192]
    looks = [
        look_at(torch.from_numpy(np.repeat(luma[None].round().astype(np.uint8), 3, axis=0)))
        for luma in (now, first)
    ]
    gate = MotionMeter().measure(*looks).gate
    assert gate[40:88, 40:88].mean() < 0.7
    assert gate[:20].mean() > 0.95


def gate(now: NDArray[np.uint8], before: NDArray[np.uint8]) -> NDArray[np.float32]:
    looks = [look_at(torch.from_numpy(crop.transpose(2, 0, 1).copy())) for crop in (now, before)]
    return unmoved(*looks).gate
