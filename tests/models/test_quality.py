from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from skimage import data

from models.align import crop_matrix, template
from models.quality import frontalness, pose, sharpness

LANDMARKS = np.array([[204, 102], [247, 104], [223, 128], [203, 142], [243, 144]], np.float32)
# Mean face with depth, as in the module's own docstring: x right, y down, z away.
FACE_3D = np.array(
    [[-0.5, 0, 0], [0.5, 0, 0], [0, 0.588, -0.45], [-0.444, 1.043, -0.05], [0.444, 1.043, -0.05]]
)


@pytest.fixture(scope="module")
def face() -> NDArray[np.uint8]:
    """A sharp aligned face of 256 pixels (the astronaut, enlarged not at all)."""
    matrix = crop_matrix(LANDMARKS, 256)
    return np.asarray(cv2.warpAffine(data.astronaut(), matrix, (256, 256), flags=cv2.INTER_CUBIC), np.uint8)


def of(picture: NDArray[np.uint8]) -> float:
    return sharpness(torch.from_numpy(np.ascontiguousarray(picture.transpose(2, 0, 1))))


def blurred(picture: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def noisy(picture: NDArray[np.uint8], sigma: float) -> NDArray[np.uint8]:
    noise = np.random.default_rng(0).normal(0, sigma, picture.shape)
    return np.clip(picture + noise, 0, 255).astype(np.uint8)


def compressed(picture: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Through a small JPEG, so that the blocks are as large in the crop as they are in a poor video."""
    small = cv2.resize(picture, (96, 96), interpolation=cv2.INTER_AREA)
    coded = cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, quality])[1]
    return np.asarray(
        cv2.resize(cv2.imdecode(coded, 1), (256, 256), interpolation=cv2.INTER_LINEAR), np.uint8
    )


def test_sharpness_falls_with_every_step_of_blur(face: NDArray[np.uint8]) -> None:
    values = [of(face)] + [of(blurred(face, sigma)) for sigma in (1.5, 2.5, 4, 7)]
    assert all(b < 0.9 * a for a, b in pairwise(values))


@pytest.mark.parametrize("sigma", [6, 12, 25])
def test_noise_does_not_pass_for_detail(face: NDArray[np.uint8], sigma: float) -> None:
    assert of(noisy(blurred(face, 4), sigma)) < 1.1 * of(blurred(face, 4))
    assert of(noisy(blurred(face, 4), sigma)) < of(blurred(face, 1.5))


@pytest.mark.parametrize("quality", [5, 12, 30])
def test_blocks_do_not_pass_for_detail(face: NDArray[np.uint8], quality: int) -> None:
    assert of(compressed(blurred(face, 4), quality)) < of(blurred(face, 2))


def test_sharpness_hardly_depends_on_light(face: NDArray[np.uint8]) -> None:
    dark = (face * 0.5 + 20).astype(np.uint8)
    assert of(dark) == pytest.approx(of(face), rel=0.15)


def test_a_face_lost_in_the_dark_is_not_sharp(face: NDArray[np.uint8]) -> None:
    assert of((face * 0.03).astype(np.uint8)) < 0.4 * of(face)


def test_a_small_face_enlarged_is_not_sharp(face: NDArray[np.uint8]) -> None:
    small = cv2.resize(cv2.resize(face, (40, 40), interpolation=cv2.INTER_AREA), (256, 256))
    assert of(np.asarray(small, np.uint8)) < 0.6 * of(face)


def test_the_size_of_the_crop_matters_little(face: NDArray[np.uint8]) -> None:
    larger = np.asarray(cv2.resize(face, (512, 512), interpolation=cv2.INTER_CUBIC), np.uint8)
    assert of(larger) == pytest.approx(of(face), rel=0.1)


def test_a_flat_picture_shows_nothing() -> None:
    assert sharpness(torch.full((3, 64, 64), 90, dtype=torch.uint8)) == 0


def test_a_crop_of_another_shape_is_refused() -> None:
    with pytest.raises(ValueError, match=r"\(3, S, S\)"):
        sharpness(torch.zeros(3, 64, 32, dtype=torch.uint8))


def seen_from(yaw: float = 0, pitch: float = 0, roll: float = 0) -> NDArray[np.float32]:
    """Landmarks of the mean face, turned: yaw > 0 to the right of the image, pitch > 0 down."""
    y, p, r = np.radians([yaw, pitch, roll])
    turn_y = np.array([[np.cos(y), 0, -np.sin(y)], [0, 1, 0], [np.sin(y), 0, np.cos(y)]])
    turn_p = np.array([[1, 0, 0], [0, np.cos(p), -np.sin(p)], [0, np.sin(p), np.cos(p)]])
    turn_r = np.array([[np.cos(r), -np.sin(r), 0], [np.sin(r), np.cos(r), 0], [0, 0, 1]])
    return ((turn_r @ turn_y @ turn_p @ FACE_3D.T).T[:, :2] * 60 + 200).astype(np.float32)


def test_the_template_looks_towards_the_camera() -> None:
    head = pose(template(512))
    assert np.abs([head.yaw, head.pitch, head.roll]).max() < 1
    assert frontalness(template(512)) > 0.99


@pytest.mark.parametrize("yaw", [-80, -40, -15, 20, 60, 85])
def test_yaw_is_measured(yaw: float) -> None:
    assert pose(seen_from(yaw=yaw)).yaw == pytest.approx(yaw, abs=2)


def test_yaw_is_positive_where_the_nose_points_right() -> None:
    landmarks = template(512)
    landmarks[2, 0] += 30
    assert pose(landmarks).yaw > 10


@pytest.mark.parametrize("pitch", [-30, 25])
def test_pitch_is_measured(pitch: float) -> None:
    assert pose(seen_from(pitch=pitch)).pitch == pytest.approx(pitch, abs=2)


@pytest.mark.parametrize("roll", [-120, -20, 45, 170])
def test_roll_is_measured(roll: float) -> None:
    assert pose(seen_from(roll=roll)).roll == pytest.approx(roll, abs=1)


@pytest.mark.parametrize("roll", [-90, -45, 30, 90, 180])
def test_yaw_and_pitch_do_not_depend_on_roll(roll: float) -> None:
    turned, nodding = pose(seen_from(yaw=70, roll=roll)), pose(seen_from(pitch=25, roll=roll))
    assert turned.yaw == pytest.approx(70, abs=3)
    assert nodding.pitch == pytest.approx(25, abs=3)
    assert abs(nodding.yaw) < 3


def test_pose_does_not_depend_on_size_and_place() -> None:
    assert pose(seen_from(yaw=30) * 3 + 500).yaw == pytest.approx(30, abs=2)


def test_frontalness_falls_with_yaw_to_nothing() -> None:
    values = [frontalness(seen_from(yaw=yaw)) for yaw in (0, 20, 40, 60, 85)]
    assert values == sorted(values, reverse=True)
    assert values[0] == pytest.approx(1, abs=0.01)
    assert values[2] == pytest.approx(0.5, abs=0.05)
    assert values[-1] == pytest.approx(0, abs=0.01)
