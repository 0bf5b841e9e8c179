"""Steadied faces: less flicker where nothing changed, no ghost where something did."""

from __future__ import annotations

from dataclasses import replace

import cv2
import numpy as np
import torch
from fakes import gray_frame, tracked_face
from numpy.typing import NDArray
from skimage.data import astronaut

from pipeline.frames import RestoredFace, RestoredFrame, TrackedFrame
from pipeline.steady import Steadier, agreement

PORTRAIT = cv2.resize(astronaut()[20:276, 90:346], (128, 128), interpolation=cv2.INTER_AREA)


def shown(
    crop: NDArray[np.uint8], image: NDArray[np.floating] | NDArray[np.uint8], track_id: int = 1
) -> RestoredFrame:
    face = replace(tracked_face(track_id, size=128), crop=torch.from_numpy(crop.transpose(2, 0, 1).copy()))
    restored = torch.from_numpy(np.clip(image, 0, 255).astype(np.uint8).transpose(2, 0, 1).copy())
    return RestoredFrame(TrackedFrame(gray_frame(0), (face,), False), (RestoredFace(face, restored),))


def image_of(frame: RestoredFrame) -> NDArray[np.float32]:
    return frame.faces[0].image.numpy().transpose(1, 2, 0).astype(np.float32)


def flickering(index: int) -> NDArray[np.float32]:
    """A restoration whose fine detail is another one each time."""
    return PORTRAIT + np.random.default_rng(index).normal(0, 12, PORTRAIT.shape).astype(np.float32)


def test_flicker_of_a_still_face_falls() -> None:
    frames = [shown(PORTRAIT, flickering(index)) for index in range(12)]
    steadier = Steadier(0.6)
    steadied = np.stack([image_of(steadier.steady(frame)) for frame in frames])
    alone = np.stack([image_of(frame) for frame in frames])
    flicker = [np.abs(np.diff(images[4:], axis=0)).mean() for images in (steadied, alone)]
    assert flicker[0] < 0.5 * flicker[1]


def test_a_moving_face_is_followed_and_not_smeared() -> None:
    steadier = Steadier(0.6)
    for index in range(8):
        moved = cv2.warpAffine(
            PORTRAIT,
            np.array([[1, 0, 1.5 * index], [0, 1, 0.5 * index]]),
            (128, 128),
            borderMode=cv2.BORDER_REFLECT,
        )
        out = image_of(steadier.steady(shown(moved, moved)))
    assert np.abs(out - moved)[16:112, 16:112].mean() < 2


def test_what_changed_leaves_no_ghost() -> None:
    """A mouth that opens, a hand that comes: the new picture at once."""
    steadier = Steadier(0.6)
    steadier.steady(shown(PORTRAIT, PORTRAIT))
    changed = PORTRAIT.copy()
    changed[40:90, 40:90] = 255 - changed[40:90, 40:90]
    out = image_of(steadier.steady(shown(changed, changed)))
    assert np.abs(out - changed)[46:84, 46:84].mean() < 4


def test_another_track_and_a_gap_start_afresh() -> None:
    other = flickering(3).clip(0, 255).astype(np.uint8)
    for gap in (False, True):
        steadier = Steadier(0.6)
        steadier.steady(shown(PORTRAIT, PORTRAIT, track_id=1))
        if gap:
            steadier.steady(RestoredFrame(TrackedFrame(gray_frame(1), (), False), ()))
        out = image_of(steadier.steady(shown(PORTRAIT, other, track_id=1 if gap else 2)))
        assert np.array_equal(out, other)


def test_nought_leaves_everything_as_it_is() -> None:
    frame = shown(PORTRAIT, flickering(0))
    assert Steadier(0).steady(frame) is frame


def test_agreement_is_full_for_grain_and_none_for_change() -> None:
    grain = np.random.default_rng(0).normal(0, 4, (2, *PORTRAIT.shape))
    first, second = (np.clip(PORTRAIT + g, 0, 255).astype(np.uint8) for g in grain)
    assert agreement(first, second).mean() > 0.6
    changed = second.copy()
    changed[50:80, 50:80] = np.clip(changed[50:80, 50:80].astype(int) + 60, 0, 255)
    assert agreement(first, changed)[56:74, 56:74].max() < 0.05
