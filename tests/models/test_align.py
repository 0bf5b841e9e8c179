"""Crops of another size show the same places: positions count pixel centres at integers."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from models.align import at_size, transform

MATRIX = np.array([[0.7, -0.2, 9.3], [0.2, 0.7, -4.6]], np.float32)
"""From a frame to a crop, turned and shifted by parts of a pixel."""


@pytest.mark.parametrize(("from_size", "to_size"), [(256, 64), (96, 32), (64, 32)])
def test_a_point_stays_where_it_is_in_a_resized_crop(from_size: int, to_size: int) -> None:
    """Each pixel of a crop holds its own position, so what is left at a point after resizing says where it was."""
    rows, columns = np.mgrid[:from_size, :from_size].astype(np.float32)
    small = cv2.resize(np.dstack([columns, rows]), (to_size, to_size), interpolation=cv2.INTER_AREA)
    inside = np.random.default_rng(0).uniform(0.1, 0.9, (20, 2)) * from_size
    points = (inside - MATRIX[:, 2]) @ np.linalg.inv(MATRIX[:, :2].astype(float)).T
    x, y = transform(at_size(MATRIX, from_size, to_size), points).T
    held = cv2.remap(small, x[None], y[None], cv2.INTER_LINEAR)[0]
    # OpenCV interpolates in steps of 1/32 of a pixel.
    assert np.abs(held - transform(MATRIX, points)).max() < 1 / 32 * from_size / to_size


@pytest.mark.parametrize(("from_size", "to_size"), [(256, 64), (192, 256), (256, 192), (64, 64)])
def test_edges_of_crops_meet_and_shares_between_them_stay(from_size: int, to_size: int) -> None:
    """The first pixel begins at -0.5 and the last ends at the size - 0.5."""
    points = np.random.default_rng(1).uniform(0, 300, (20, 2))
    before = transform(MATRIX, points)
    after = transform(at_size(MATRIX, from_size, to_size), points)
    shares = (before - -0.5) / from_size
    assert after == pytest.approx(-0.5 * (1 - shares) + (to_size - 0.5) * shares, abs=1e-3)
