"""The scores of dense landmarks: what is near is scored near, and a moved face takes its points along."""

from __future__ import annotations

import cv2
import numpy as np
import pytest
import torch

from models.evaluation.landmarks import landmark_scores, move_face, scores_table
from models.landmarks import EYES, POINTS, DenseLandmarks, DensePoints


class Fixed(DenseLandmarks):
    """Finds the given points in any crop, with a sigma of 3.5 pixels."""

    def __init__(self, points: np.ndarray) -> None:
        self.points = torch.from_numpy(points).float()

    def find(self, crops: torch.Tensor) -> DensePoints:
        count = len(crops)
        return DensePoints(self.points.expand(count, -1, -1), torch.full((count, POINTS), 3.5))


def test_errors_are_told_in_percent_of_the_distance_of_the_eyes() -> None:
    wanted = np.random.default_rng(0).uniform(50, 200, (1, POINTS, 2)).astype(np.float32)
    wanted[:, list(EYES[0])], wanted[:, list(EYES[1])] = [80, 100], [130, 100]
    pictures = [np.zeros((256, 256, 3), np.uint8)]
    scores = landmark_scores("clean", Fixed(wanted[0] + [3, 4]), pictures, wanted)
    assert scores.error == pytest.approx(100 * 5 / 50)
    assert scores.sigma == pytest.approx(100 * 3.5 / 50)
    assert (scores.within_one, scores.within_two) == (0.5, 1.0)
    assert "| clean | 1 | 10.00 |" in scores_table([scores])


def test_a_moved_face_takes_its_points_along() -> None:
    picture = np.zeros((256, 256, 3), np.uint8)
    places = np.array([[90.0, 100.0], [170.0, 160.0]])
    for x, y in places.astype(int).tolist():
        cv2.circle(picture, (x, y), 5, (255, 255, 255), -1)
    for seed in range(4):
        moved, points = move_face(picture, places, seed)
        assert np.abs(points - places).max() > 1
        light = moved[..., 0].astype(np.float64)
        rows, columns = np.indices(light.shape)
        centre = [(light * columns).sum() / light.sum(), (light * rows).sum() / light.sum()]
        np.testing.assert_allclose(points.mean(0), centre, atol=0.5)
