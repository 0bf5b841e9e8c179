"""Detail is told from noise by where it sits, and film grain from damage by what it does from frame to frame."""

from __future__ import annotations

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.frames import Detail
from pipeline.media.coding import planes_of
from pipeline.pixels.geometry import Geometry
from pipeline.stages.detail import film_grain, fine_of, fine_share, mean_detail
from support.fakes import tracked_face

SIDE = 512


def portrait() -> NDArray[np.float32]:
    """An aligned face (512, 512): flat skin with hairs in eyes, brows and mouth, as fine as the samples."""
    skin = np.full((SIDE, SIDE), 150, np.float32)
    skin += 20 * np.sin(np.mgrid[:SIDE, :SIDE][0] / 60).astype(np.float32)
    hairs = np.random.default_rng(0).normal(0, 45, (SIDE, SIDE)).astype(np.float32)
    where = np.zeros((SIDE, SIDE), np.float32)
    for x, y, width, height in ((193, 240, 50, 22), (319, 240, 50, 22), (256, 371, 60, 20)):
        cv2.ellipse(where, (x, y), (width, height), 0, 0, 360, 1.0, -1)
    coarse = cv2.GaussianBlur(hairs, (0, 0), 2) * 6
    return skin + where * (hairs + coarse)


def window(picture: NDArray[np.float32]) -> NDArray[np.uint8]:
    return np.clip(np.rint(picture), 0, 255).astype(np.uint8)


def noise(sigma: float, seed: int = 1) -> NDArray[np.float32]:
    return np.random.default_rng(seed).normal(0, sigma, (SIDE, SIDE)).astype(np.float32)


def test_a_sharp_face_has_detail_beyond_the_crop() -> None:
    assert fine_share(window(portrait())) > 0.95


@pytest.mark.parametrize("side", [300, 400, 512])
def test_a_blurred_face_has_none_however_large_it_is_shown(side: int) -> None:
    blurred = cv2.GaussianBlur(portrait(), (0, 0), 3)
    assert fine_share(window(cv2.resize(blurred, (side, side), interpolation=cv2.INTER_AREA))) < 0.05


def test_noise_is_no_detail() -> None:
    blurred = cv2.GaussianBlur(portrait(), (0, 0), 3)
    assert fine_share(window(blurred + noise(10))) < 0.05
    assert 0.05 < fine_share(window(portrait() + noise(20))) < 0.95


def test_blocks_are_no_detail() -> None:
    blurred = window(cv2.GaussianBlur(portrait(), (0, 0), 3))
    coded = cv2.imencode(".jpg", blurred, [cv2.IMWRITE_JPEG_QUALITY, 50])[1]
    assert fine_share(np.asarray(cv2.imdecode(coded, cv2.IMREAD_GRAYSCALE), np.uint8)) < 0.3


def test_a_face_that_the_crop_holds_is_not_looked_at() -> None:
    face = tracked_face().face
    assert fine_of(luma_frame(np.zeros((96, 96), np.float32)), face.landmarks, Geometry()) == 1


def luma_frame(luma: NDArray[np.float32]) -> av.VideoFrame:
    native = av.VideoFrame(luma.shape[1], luma.shape[0], "gray")
    planes_of(native)[0][:] = window(luma)
    return native


def picture() -> NDArray[np.float32]:
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float32)
    return 120 + 40 * np.sin(x / 70) * np.cos(y / 50)


def test_grain_is_nearly_white_everywhere_and_new_in_each_frame() -> None:
    first, second = (luma_frame(picture() + noise(5, seed)) for seed in (1, 2))
    found = film_grain(second, first)
    assert found is not None
    assert 3.5 < found < 6


def test_noise_that_stays_is_damage() -> None:
    stays = luma_frame(picture() + noise(5))
    assert film_grain(stays, stays) == 0


def test_noise_that_was_enlarged_with_its_picture_is_damage() -> None:
    first, second = (
        luma_frame(picture() + cv2.resize(noise(8, seed)[:170, :170], (SIDE, SIDE))) for seed in (1, 2)
    )
    assert film_grain(second, first) == 0


def test_noise_of_one_place_is_no_grain_of_the_film() -> None:
    first, second = (picture() + noise(1, seed) * 0 for seed in (1, 2))
    for seed, luma in enumerate((first, second)):
        luma[180:330, 180:330] += noise(12, seed)[180:330, 180:330]
    found = film_grain(luma_frame(second), luma_frame(first))
    assert found is not None
    assert found < 0.5


def test_a_photo_cannot_tell() -> None:
    assert film_grain(luma_frame(picture() + noise(5)), None) is None
    assert mean_detail([0.2, 0.4], [None, None]) == Detail(pytest.approx(0.3), 0.0)
    assert mean_detail([1.0], [None, 3.0, 5.0]) == Detail(1.0, 4.0)
