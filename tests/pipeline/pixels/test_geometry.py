"""Turned and stretched pictures: faces are found upright and land where they are."""

from __future__ import annotations

import numpy as np
import pytest

from models.align import template, transform
from models.protocols import Face
from pipeline.pixels.geometry import Geometry


def marked(width: int = 40, height: int = 30) -> tuple[np.ndarray, list[tuple[int, int]]]:
    """A black picture with five white pixels, and their x, y."""
    places = [(5, 4), (30, 6), (17, 12), (8, 22), (28, 25)]
    image = np.zeros((height, width, 3), np.uint8)
    for x, y in places:
        image[y, x] = 255
    return image, places


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
def test_points_found_in_the_upright_picture_come_back_to_their_place(rotation: int) -> None:
    image, places = marked()
    geometry = Geometry(rotation)
    upright = geometry.upright(image)
    seen = np.argwhere(upright[..., 0] == 255)[:, ::-1].astype(np.float32)
    box = np.concatenate([seen.min(0), seen.max(0)])
    back = geometry.back(Face(box, seen, 1.0), image)
    assert {tuple(point) for point in back.landmarks.round().astype(int).tolist()} == set(places)
    assert back.box.tolist() == [5, 4, 30, 25]


def test_rotation_is_counter_clockwise() -> None:
    image = np.zeros((4, 6, 3), np.uint8)
    image[0, 5] = 255
    assert Geometry(90).upright(image)[0, 0, 0] == 255
    assert Geometry(90).upright(image).shape == (6, 4, 3)


def test_stretched_pixels_are_taken_out_of_picture_and_crop() -> None:
    geometry = Geometry(aspect=2.0)
    image = np.zeros((30, 40, 3), np.uint8)
    assert geometry.upright(image).shape == (30, 80, 3)
    shown = template(64) + 7
    squeezed = (shown / np.array([2, 1])).astype(np.float32)
    matrix = geometry.crop_matrix(squeezed, 64)
    assert np.abs(transform(matrix, squeezed) - template(64)).max() < 0.01
    found = Face(np.array([0, 0, 79, 29], np.float32), shown.astype(np.float32), 1.0)
    back = geometry.back(found, image)
    assert np.abs(back.landmarks[:, 0] - (shown[:, 0] + 0.5) / 2 + 0.5).max() < 1e-4


def test_odd_rotations_are_refused() -> None:
    with pytest.raises(ValueError, match="multiple of 90"):
        Geometry(45)


@pytest.mark.parametrize("rotation", [0, 90, 180, 270])
@pytest.mark.parametrize("quarters", [0, 1, 2, 3])
def test_the_turn_of_a_face_lets_it_stand(rotation: int, quarters: int) -> None:
    geometry, height = Geometry(rotation), 200
    image = np.zeros((height, height, 3), np.uint8)
    points = template(height)
    for _ in range(quarters):
        points = np.stack([points[:, 1], height - 1 - points[:, 0]], 1)
    turned = geometry.turned(geometry.turn_of(points))
    # A face that stands there comes back to where the points are.
    standing = Face(np.array([0, 0, 199, 199], np.float32), template(height), 1.0)
    assert np.allclose(turned.back(standing, image).landmarks, points, atol=1e-3)
