"""Dense landmarks: they follow the picture, know when they cannot know, and fit where they are promised to fit."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

from models.align import crop_matrix, transform
from models.degradation.stills import SEVERE, preset_sample
from models.landmarks import EYES, MOUTH_CORNERS, OVAL, POINTS, DenseLandmarks
from models.pictures import Picture
from models.weights import EMBEDDED, CheckpointError, load_embedded

ASTRONAUT_LANDMARKS = np.array([[204, 100], [247, 103], [223, 122], [203, 142], [247, 142]], np.float32)


@pytest.fixture(scope="module")
def landmarks() -> DenseLandmarks:
    return DenseLandmarks()


def aligned(size: int = 256, right: float = 0.0, down: float = 0.0) -> Picture:
    """The astronaut in the FFHQ alignment, then moved by pixels of the crop, uint8 (size, size, 3)."""
    matrix = crop_matrix(ASTRONAUT_LANDMARKS, size)
    matrix[:, 2] += (right, down)
    moved = cv2.warpAffine(
        astronaut(),  # type: ignore[no-untyped-call]
        matrix,
        (size, size),
        flags=cv2.INTER_AREA,
        borderMode=cv2.BORDER_REFLECT,
    )
    return np.asarray(moved, np.uint8)


def batch(*pictures: Picture) -> Tensor:
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


@pytest.mark.parametrize("size", [192, 256, 512])
def test_eyes_and_mouth_lie_where_they_are_in_the_picture(landmarks: DenseLandmarks, size: int) -> None:
    points = landmarks.find(batch(aligned(size))).points[0]
    found = [points[list(corners)].mean(0) for corners in EYES] + [points[corner] for corner in MOUTH_CORNERS]
    wanted = torch.from_numpy(
        transform(crop_matrix(ASTRONAUT_LANDMARKS, size), ASTRONAUT_LANDMARKS)[[0, 1, 3, 4]]
    )
    assert (torch.stack(found) - wanted).norm(dim=1).max() < 0.04 * size


def test_points_move_with_the_picture(landmarks: DenseLandmarks) -> None:
    still, moved = landmarks.find(batch(aligned(), aligned(right=10, down=-8))).points
    assert torch.allclose((moved - still).median(0).values, torch.tensor([10.0, -8.0]), atol=1.0)


def test_sigma_is_larger_where_more_is_destroyed(landmarks: DenseLandmarks) -> None:
    damaged = [preset_sample(aligned(), seed, SEVERE, 1.0) for seed in range(4)]
    clean, *severe = landmarks.find(batch(aligned(), *damaged)).sigma.mean(1)
    assert min(severe) > 1.5 * clean


def test_sigma_is_larger_where_the_face_is_covered(landmarks: DenseLandmarks) -> None:
    covered = aligned().copy()
    covered[150:] = 90  # mouth and chin
    clean, hidden = landmarks.find(batch(aligned(), covered)).sigma
    assert (hidden / clean)[list(MOUTH_CORNERS)].min() > 1.5


def test_a_face_is_found_alike_alone_and_among_others(landmarks: DenseLandmarks) -> None:
    crops = batch(aligned(), preset_sample(aligned(), 0, SEVERE, None), aligned(right=12))
    together = landmarks.find(crops)
    for index in range(len(crops)):
        alone = landmarks.find(crops[index : index + 1])
        torch.testing.assert_close(alone.points[0], together.points[index], rtol=0, atol=2e-3)
        torch.testing.assert_close(alone.sigma[0], together.sigma[index], rtol=1e-3, atol=0)


def test_an_eighth_of_the_light_changes_little(landmarks: DenseLandmarks) -> None:
    lit, dark = landmarks.find(batch(aligned(), aligned() // 8)).points
    assert (lit - dark).norm(dim=1).mean() < 1.0


def test_no_faces_are_no_points(landmarks: DenseLandmarks) -> None:
    found = landmarks.find(torch.zeros(0, 3, 256, 256, dtype=torch.uint8))
    assert (found.points.shape, found.sigma.shape) == ((0, POINTS, 2), (0, POINTS))


@pytest.mark.parametrize(
    "crops",
    [
        torch.zeros(1, 3, 256, 256),
        torch.zeros(3, 256, 256, dtype=torch.uint8),
        torch.zeros(1, 3, 256, 192, dtype=torch.uint8),
        torch.zeros(1, 3, 16, 16, dtype=torch.uint8),
    ],
)
def test_other_crops_are_refused_in_one_sentence(landmarks: DenseLandmarks, crops: Tensor) -> None:
    with pytest.raises(ValueError, match=r"^crops must be uint8 \(N, 3, S, S\) .*, got .*$"):
        landmarks.find(crops)


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not the weights of the dense landmarks"):
        DenseLandmarks(load_embedded("encoder"))


def test_the_weights_stay_small() -> None:
    assert (EMBEDDED / "landmarks.safetensors").stat().st_size <= 2_000_000


def test_the_oval_goes_round_the_face(landmarks: DenseLandmarks) -> None:
    points = landmarks.find(batch(aligned())).points[0].numpy()
    oval = points[list(OVAL)]
    inside = [cv2.pointPolygonTest(oval[:, None], point.tolist(), True) > -3 for point in points]
    assert len(set(OVAL)) == 36
    assert np.mean(inside) > 0.98
