"""`python -m models.evaluation.landmarks --faces FOLDER`: how near the dense landmarks come on held-out faces.

The faces are degraded at 512 pixels with a fixed seed and looked at in 256; what is wanted are the teacher's points on
the clean picture (`landmarks.npz` of the folder). Once as they are aligned, and once moved as by a careless detector.

Shapes: N faces, P points.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import logging
import sys
import time
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from configs import ConfigError
from models.align import transform
from models.evaluation.faces import PRESETS, SIDE_PX, Cache, degraded, read_faces, reduced, write_sheet
from models.landmarks import EYES, DenseLandmarks
from models.pictures import Picture
from models.training.dataset import read_index
from models.training.landmarks import centred_points, draw_points
from models.weights import CheckpointError, load_checkpoint

log = logging.getLogger("models.evaluation.landmarks")

TURN_DEGREES, GROWTH, SHIFT = 8.0, 0.1, 0.04
"""Largest rotation, change of scale and shift, in parts of the crop, of moved faces."""
_SHEET_ROWS, _SHEET_PX = 12, 384


@dataclass(frozen=True, slots=True)
class LandmarkScores:
    """How near the points come; errors and sigma in percent of the distance between the centres of the eyes."""

    views: str
    faces: int
    error: float
    """Mean distance over faces and points."""
    worst_tenth: float
    """The mean error of a face that nine of ten faces stay below."""
    mean_shape: float
    """What the mean shape of these same faces would give: a guess without looking."""
    sigma: float
    within_one: float
    """Part of the coordinates that are off by less than their sigma; 0.68 for a Gaussian."""
    within_two: float
    """By less than twice their sigma; 0.95 for a Gaussian."""


def main() -> None:
    """Measures and prints; writes JSON with `--json` and a picture with `--sheet`."""
    parser = argparse.ArgumentParser(prog="python -m models.evaluation.landmarks", description=__doc__)
    parser.add_argument("--faces", type=Path, required=True, help="held-out faces with landmarks.npz")
    parser.add_argument("--count", type=int, help="only the first faces")
    parser.add_argument("--landmarks", type=Path, help="checkpoint instead of the embedded one")
    parser.add_argument("--cache", type=Path, help="folder for degraded faces that are used again")
    parser.add_argument(
        "--sheet", type=Path, help="FILE.png: points on some faces, redder where sigma is larger"
    )
    parser.add_argument("--json", type=Path, help="write all numbers here")
    parser.add_argument("--threads", type=int, default=2)
    arguments = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(arguments.threads)
    try:
        landmarks = DenseLandmarks(load_checkpoint(arguments.landmarks) if arguments.landmarks else None)
        rows = _rows(landmarks, arguments)
    except (CheckpointError, ConfigError, FileNotFoundError) as error:
        sys.exit(f"error: {error}")
    took = milliseconds(landmarks)
    log.info("%s", scores_table(rows))
    log.info("\n%.2f ms a face with %d threads (the median of single calls)", took, arguments.threads)
    if arguments.json:
        report = {"landmarks": [dataclasses.asdict(row) for row in rows], "milliseconds": took}
        arguments.json.write_text(json.dumps(report, indent=1), encoding="utf-8")


def _rows(landmarks: DenseLandmarks, arguments: argparse.Namespace) -> list[LandmarkScores]:
    faces = read_faces(arguments.faces, arguments.count)
    files, places, found = centred_points(arguments.faces)
    if files != tuple(row.file for row in read_index(arguments.faces)):
        raise ConfigError(f"{arguments.faces}: landmarks.npz and the index name different pictures")
    wanted = (places[: len(faces)] + 1) * (SIDE_PX / 2) - 0.5
    kept = np.flatnonzero(found[: len(faces)])
    faces, wanted = [faces[index] for index in kept], wanted[kept]
    cache = Cache(arguments.cache)
    kinds = {"clean": [reduced(face) for face in faces]}
    kinds |= {name: degraded(faces, preset, 0, cache) for name, preset in PRESETS.items()}
    rows, sheet = [], {}
    for name, pictures in kinds.items():
        rows.append(landmark_scores(name, landmarks, pictures, wanted))
        sheet[name] = _drawn(landmarks, pictures)
        moved = [move_face(*pair, seed) for seed, pair in enumerate(zip(pictures, wanted, strict=True))]
        pictures, places = [picture for picture, _ in moved], np.stack([points for _, points in moved])
        rows.append(landmark_scores(f"{name}, moved", landmarks, pictures, places))
    if arguments.sheet:
        write_sheet(arguments.sheet, sheet, _SHEET_ROWS)
    return rows


def landmark_scores(
    views: str, landmarks: DenseLandmarks, pictures: list[Picture], wanted: NDArray[np.float32]
) -> LandmarkScores:
    """Scores of `pictures`, uint8 (S, S, 3) each, against `wanted` (N, P, 2) in their pixels."""
    points, sigma = _found(landmarks, pictures)
    off = np.abs(points - wanted)  # (N, P, 2)
    distance = np.hypot(off[..., 0], off[..., 1])
    shares = off / sigma[..., None]
    eyes = [wanted[:, list(corners)].mean(1) for corners in EYES]
    unit = np.linalg.norm(eyes[0] - eyes[1], axis=1)[:, None] / 100
    guess = np.linalg.norm(wanted.mean(0) - wanted, axis=2)
    return LandmarkScores(
        views=views,
        faces=len(pictures),
        error=float((distance / unit).mean()),
        worst_tenth=float(np.quantile((distance / unit).mean(1), 0.9)),
        mean_shape=float((guess / unit).mean()),
        sigma=float((sigma / unit).mean()),
        within_one=float((shares < 1).mean()),
        within_two=float((shares < 2).mean()),
    )


def move_face(
    picture: Picture, points: NDArray[np.floating], seed: int
) -> tuple[Picture, NDArray[np.float32]]:
    """`picture`, uint8 (S, S, 3), and its `points` (P, 2) turned, scaled and shifted by chance; borders mirrored."""
    angle, growth, right, down = np.random.default_rng(seed).uniform(-1, 1, 4)
    side = picture.shape[0]
    centre = ((side - 1) / 2, (side - 1) / 2)
    matrix = cv2.getRotationMatrix2D(centre, TURN_DEGREES * angle, (1 + GROWTH) ** growth)
    matrix[:, 2] += [SHIFT * side * right, SHIFT * side * down]
    moved = cv2.warpAffine(picture, matrix, (side, side), borderMode=cv2.BORDER_REFLECT_101)
    return np.asarray(moved, np.uint8), transform(np.asarray(matrix, np.float32), points)


def milliseconds(landmarks: DenseLandmarks, calls: int = 100) -> float:
    """Median time of `find` on one crop of 256 pixels."""
    crop = torch.randint(0, 256, (1, 3, SIDE_PX, SIDE_PX), dtype=torch.uint8)
    times = []
    for _ in range(calls):
        started = time.perf_counter()
        landmarks.find(crop)
        times.append(time.perf_counter() - started)
    return 1000 * float(np.median(times))


def scores_table(rows: list[LandmarkScores]) -> str:
    """Markdown."""
    lines = [
        "| view | faces | error, % | nine of ten faces below | mean shape | sigma, % | within 1 / 2 sigma |",
        "|---|---|---|---|---|---|---|",
    ]
    for row in rows:
        lines.append(
            f"| {row.views} | {row.faces} | {row.error:.2f} | {row.worst_tenth:.2f} | {row.mean_shape:.2f} "
            f"| {row.sigma:.2f} | {row.within_one:.2f} / {row.within_two:.2f} |"
        )
    return "\n".join(lines)


def _found(
    landmarks: DenseLandmarks, pictures: list[Picture]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Points (N, P, 2) and sigmas (N, P) in pixels of `pictures`."""
    found = [landmarks.find(torch.from_numpy(picture).permute(2, 0, 1)[None]) for picture in pictures]
    return np.concatenate([each.points.numpy() for each in found]), np.concatenate(
        [each.sigma.numpy() for each in found]
    )


def _drawn(landmarks: DenseLandmarks, pictures: list[Picture]) -> list[Picture]:
    points, sigma = _found(landmarks, pictures)
    half = pictures[0].shape[0] / 2
    return [
        draw_points(picture, (some + 0.5) / half - 1, spread / half, _SHEET_PX)
        for picture, some, spread in zip(pictures, points, sigma, strict=True)
    ]


if __name__ == "__main__":
    main()
