"""How good a view of a face is: sharpness of the aligned crop, head pose out of the five landmarks.

Legend: S side of an aligned crop in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.pictures import to_picture

_SIDE_PX = 256
_BAND_EDGES_PX = (0.7, 1.4, 2.8, 5.6, 11.2)
_TILE_PX = 16
_DARK = 20.0  # squared code values
# Face without hair and background, in parts of the FFHQ crop: from the brows to the chin.
_ROWS, _COLUMNS = slice(72, 216), slice(64, 192)

# Mean face, x right, y down, z away from the camera, the distance of the eyes as unit. x and y are the FFHQ
# template's; the nose tip stands about 0.45 eye distances before the eyes.
_FACE_3D = np.array(
    [[-0.5, 0, 0], [0.5, 0, 0], [0.0, 0.588, -0.45], [-0.444, 1.043, -0.05], [0.444, 1.043, -0.05]]
)


@dataclass(frozen=True, slots=True)
class Pose:
    """Where a head looks, in degrees; rough (about ten degrees), as five points allow no more."""

    yaw: float
    """Turn to the side in [-90, 90]: 0 = towards the camera, positive = towards the right of the image."""
    pitch: float
    """Nod: 0 = level, positive = down. The roughest of the three: faces differ in the length of the nose."""
    roll: float
    """Tilt in the image plane in (-180, 180], positive = clockwise as seen in the image."""


def sharpness(crop: Tensor) -> float:
    """Fine detail in the face of an aligned `crop`, uint8 (3, S, S) RGB: 0 = none, about 0.4 = clear.

    Energy of two fine octaves against two coarse ones, so light and contrast cancel out (but for faces lost
    in the dark). Fine detail of a face sits in eyes, brows and mouth; noise and compression are everywhere.
    So the energy of the flattest tiles is counted as disturbance and taken off twice, as in the tiles with
    detail there may be more of it.
    """
    if crop.ndim != 3 or crop.shape[0] != 3 or crop.shape[1] != crop.shape[2]:
        raise ValueError(f"crop must be uint8 (3, S, S), got {crop.dtype} {tuple(crop.shape)}")
    luma = cv2.cvtColor(to_picture(crop), cv2.COLOR_RGB2GRAY)
    interpolation = cv2.INTER_AREA if luma.shape[0] > _SIDE_PX else cv2.INTER_LINEAR
    luma = cv2.resize(luma, (_SIDE_PX, _SIDE_PX), interpolation=interpolation).astype(np.float32)
    smoothed = [cv2.GaussianBlur(luma, (0, 0), edge)[_ROWS, _COLUMNS] for edge in _BAND_EDGES_PX]
    energies = [_sorted_tiles((a - b) ** 2) for a, b in pairwise(smoothed)]
    quarter = len(energies[0]) // 4
    # Lit faces have 180 and more; in nearly black ones rounding and compression would look like detail.
    coarse = float(energies[2][-quarter:].mean() + energies[3][-quarter:].mean()) + _DARK
    fine = [max(float(e[-quarter:].mean() - 2 * e[:quarter].mean()), 0.0) for e in energies[:2]]
    return float(np.mean(np.sqrt(np.array(fine) / coarse)))


def pose(landmarks: NDArray[np.floating]) -> Pose:
    """Rough head pose of `landmarks` (5, 2): a mean face under weak perspective, fitted by least squares.

    Source: DeMenthon and Davis, "Model-based object pose in 25 lines of code", IJCV 1995 (one POS step).
    """
    points = np.asarray(landmarks, np.float64)
    model = _FACE_3D - _FACE_3D.mean(0)
    rows = (np.linalg.pinv(model) @ (points - points.mean(0))).T  # (2, 3): scaled rotation
    rotation = _nearest_rotation(rows)
    down = rotation @ np.array([0.0, 1.0, 0.0])
    roll = np.arctan2(-down[0], down[1])
    # Yaw and pitch of the head set upright, so that a tilted head and a turned picture give the same.
    cosine, sine = np.cos(roll), np.sin(roll)
    upright = np.array([[cosine, sine, 0], [-sine, cosine, 0], [0, 0, 1]])
    nose_x, nose_y, nose_z = upright @ rotation @ np.array([0.0, 0.0, -1.0])
    yaw = np.degrees(np.arcsin(np.clip(nose_x, -1, 1)))
    pitch = np.degrees(np.arctan2(nose_y, -nose_z))
    return Pose(float(yaw), float(pitch), float(np.degrees(roll)))


def frontalness(landmarks: NDArray[np.floating]) -> float:
    """1 for a face towards the camera, 0.5 at a yaw of 40 degrees, 0 from 80 on; pitch counts half."""
    head = pose(landmarks)
    angle = np.hypot(head.yaw, 0.5 * head.pitch)
    return float(np.cos(np.radians(min(angle * 90 / 80, 90.0))) ** 2)


def ramp(value: float, ends: tuple[float, ...]) -> float:
    """0 at `ends[0]`, 1 at `ends[1]`, smooth between (either may be the larger)."""
    share = min(max((value - ends[0]) / (ends[1] - ends[0]), 0.0), 1.0)
    return share * share * (3 - 2 * share)


def _sorted_tiles(energy: NDArray[np.float32]) -> NDArray[np.float32]:
    height, width = energy.shape
    tiles = energy.reshape(height // _TILE_PX, _TILE_PX, width // _TILE_PX, _TILE_PX)
    return np.sort(tiles.mean((1, 3)), axis=None)


def _nearest_rotation(rows: NDArray[np.float64]) -> NDArray[np.float64]:
    """The rotation (3, 3) whose first two rows are nearest to `rows` (2, 3) up to scale."""
    left, _, right = np.linalg.svd(rows, full_matrices=False)
    first_two = left @ right
    return np.vstack([first_two, np.cross(first_two[0], first_two[1])])
