"""Faces out of clips that show one person each, for training and evaluation.

`python -m models.training.clips CLIPS_FOLDER OUT_FOLDER` looks at a frame every half second, aligns the main
face to the FFHQ template and writes the sharp views up to half profile, each a PNG, with the `index.csv` that
`models.training.dataset` reads. The identity of a face is the clip's name.

Legend: S side of a crop.
"""

from __future__ import annotations

import argparse
import csv
import logging
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from numpy.typing import NDArray

from models.align import crop_matrix, scale_of
from models.decord_library import load_decord
from models.detector import CenterFaceDetector
from models.pictures import Picture, to_tensor
from models.protocols import Detector, Face
from models.quality import pose, sharpness

log = logging.getLogger("models.training.clips")

SUFFIXES = (".mp4", ".mkv", ".mov", ".webm", ".avi", ".mpg")
COLUMNS = ("file", "identity", "origin", "true_px", "eye_px", "seconds", "yaw", "sharpness")

_MIN_SCORE = 0.6
_MAX_YAW = 50.0  # degrees: half profile, and the five points' uncertainty
_MAX_PITCH = 45.0
_MIN_SHARPNESS = 0.12
_MIN_SHARPNESS_IN_CLIP = 0.6  # of the clip's sharpest tenth: leaves out motion blur
_MIN_CROP_PX = 128  # of the source, side of the crop
_MIN_INSIDE = 0.7  # part of the crop that lies in the frame; the rest is mirrored
_OTHER_FACE = 0.6  # of the main face's size: which of two is the person is then not known
_TRUE_STEP_PX = 32
_SAME_VIEW = 0.25  # difference of two views below which the second adds nothing


@dataclass(frozen=True, slots=True, eq=False)
class ClipView:
    """One aligned view of a clip's person."""

    crop: Picture
    """uint8 (S, S, 3) RGB, aligned to the FFHQ template."""
    seconds: float
    """Since the start of the clip."""
    eye_px: float
    """Distance of the eyes in the clip's own pixels."""
    true_px: int
    """Side of the crop in the clip's own pixels, rounded down to a multiple of 32, at most S."""
    yaw: float
    """Degrees; see `models.quality.Pose`."""
    sharpness: float
    """See `models.quality.sharpness`."""


def main() -> None:
    """Reads a folder of clips and writes a folder of faces."""
    arguments = _arguments()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stdout)
    torch.set_num_threads(1)
    try:
        paths = sorted(path for path in arguments.clips.iterdir() if path.suffix.lower() in SUFFIXES)
        if not paths:
            raise ValueError(f"{arguments.clips}: no clips found ({', '.join(SUFFIXES)})")
        detector = CenterFaceDetector(threads=1)
        count = write_faces(
            paths, arguments.out, detector, arguments.every_seconds, arguments.size, arguments.most
        )
    except (OSError, ValueError, ImportError) as error:
        sys.exit(f"models.training.clips: {error}")
    log.info("%d faces of %d clips in %s", count, len(paths), arguments.out)


def write_faces(
    paths: Sequence[Path], out: Path, detector: Detector, every_seconds: float, size_px: int, most: int
) -> int:
    """Writes the views of all clips with their `index.csv` into `out` and returns their number.

    Raises `ValueError` where a clip cannot be read, `ImportError` without decord.
    """
    out.mkdir(parents=True, exist_ok=True)
    count = 0
    with (out / "index.csv").open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, COLUMNS)
        writer.writeheader()
        for path in paths:
            views = clip_views(path, detector, every_seconds, size_px, most)
            for index, view in enumerate(views):
                file = f"{path.stem}_{index:03d}.png"
                cv2.imwrite(str(out / file), view.crop[..., ::-1])
                writer.writerow(_row(file, path.stem, view))
            log.info("%s: %d views", path.name, len(views))
            count += len(views)
    return count


def clip_views(
    path: Path, detector: Detector, every_seconds: float, size_px: int, most: int
) -> list[ClipView]:
    """Views of the main person of a clip, in the order of time, at most `most` and no two alike."""
    views = [
        view
        for seconds, frame in frames_of(path, every_seconds)
        if (view := view_of(frame, detector.detect(frame), seconds, size_px)) is not None
    ]
    if not views:
        return []
    sharpest = float(np.percentile([view.sharpness for view in views], 90))
    sharp = [view for view in views if view.sharpness >= _MIN_SHARPNESS_IN_CLIP * sharpest]
    return different_views(sharp, most)


def frames_of(path: Path, every_seconds: float) -> Iterator[tuple[float, Picture]]:
    """Seconds and picture, uint8 (H, W, 3) RGB, of a frame every `every_seconds`, by random access.

    Raises `ValueError` where the clip cannot be read, `ImportError` without decord.
    """
    if not every_seconds > 0:
        raise ValueError(f"every_seconds must be above 0, got {every_seconds}")
    try:
        decord = load_decord()
    except ImportError as error:
        raise ImportError(
            "faces are taken out of clips with decord, which is not installed: pip install decord"
        ) from error
    try:
        reader: Any = decord.VideoReader(str(path), num_threads=1)
        rate = float(reader.get_avg_fps())
        for index in np.unique(np.arange(0, len(reader), max(every_seconds * rate, 1)).astype(int)):
            yield index / rate, np.ascontiguousarray(reader[int(index)].asnumpy(), np.uint8)
    except (decord.DECORDError, RuntimeError) as error:
        raise ValueError(f"{path}: cannot be read as a clip") from error


def view_of(frame: Picture, faces: Sequence[Face], seconds: float, size_px: int) -> ClipView | None:
    """The aligned main face of `frame`, or None where there is no single, clear and large enough one."""
    found = sorted(faces, key=lambda face: face.eye_distance_px, reverse=True)
    if not found or found[0].score < _MIN_SCORE:
        return None
    face = found[0]
    if any(other.eye_distance_px > _OTHER_FACE * face.eye_distance_px for other in found[1:]):
        return None
    head = pose(face.landmarks)
    crop_px = size_px / scale_of(crop_matrix(face.landmarks, size_px))
    if abs(head.yaw) > _MAX_YAW or abs(head.pitch) > _MAX_PITCH or crop_px < _MIN_CROP_PX:
        return None
    crop, inside = aligned(frame, face, size_px)
    detail = sharpness(to_tensor(crop))
    if inside < _MIN_INSIDE or detail < _MIN_SHARPNESS:
        return None
    true_px = min(int(crop_px) // _TRUE_STEP_PX * _TRUE_STEP_PX, size_px)
    return ClipView(crop, seconds, face.eye_distance_px, true_px, head.yaw, detail)


def aligned(frame: Picture, face: Face, size_px: int) -> tuple[Picture, float]:
    """The FFHQ crop of `face`, uint8 (S, S, 3), and the part of it in [0, 1] that lies inside `frame`."""
    scale = scale_of(crop_matrix(face.landmarks, size_px))
    if scale < 1:
        # The warp reads single pixels: what gets smaller is averaged before.
        height, width = (max(1, round(side * scale)) for side in frame.shape[:2])
        frame = np.asarray(cv2.resize(frame, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
        face = face.scaled(scale)
    matrix = crop_matrix(face.landmarks, size_px)
    side = (size_px, size_px)
    crop = cv2.warpAffine(frame, matrix, side, flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101)
    inside = cv2.warpAffine(np.ones(frame.shape[:2], np.float32), matrix, side)
    return np.asarray(crop, np.uint8), float(inside.mean())


def different_views(views: Sequence[ClipView], most: int) -> list[ClipView]:
    """At most `most` of `views`, in their order, beginning with the sharpest: always the one least like the
    chosen ones (farthest-point sampling, Gonzalez 1985), until the next one looks like one of them."""
    if not views:
        return []
    looks = np.stack([_look(view.crop) for view in views])  # (N, P)
    chosen = [int(np.argmax([view.sharpness for view in views]))]
    nearest = _differences(looks, looks[chosen[0]])
    while len(chosen) < min(most, len(views)) and nearest.max() >= _SAME_VIEW:
        chosen.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, _differences(looks, looks[chosen[-1]]))
    return [views[index] for index in sorted(chosen)]


def _look(crop: Picture) -> NDArray[np.float32]:
    """Brightness of the inner face at 32 x 32, without light and contrast; changes with pose and expression."""
    side = crop.shape[0]
    inner = crop[side // 4 : side * 27 // 32, side // 4 : side * 3 // 4]
    small = cv2.resize(cv2.cvtColor(inner, cv2.COLOR_RGB2GRAY), (32, 32), interpolation=cv2.INTER_AREA)
    grey = small.astype(np.float32).ravel()
    return np.asarray((grey - grey.mean()) / max(float(grey.std()), 1.0), np.float32)


def _differences(looks: NDArray[np.float32], look: NDArray[np.float32]) -> NDArray[np.float32]:
    return np.asarray(np.sqrt(np.square(looks - look).mean(1)), np.float32)


def _row(file: str, identity: str, view: ClipView) -> dict[str, object]:
    return {
        "file": file,
        "identity": identity,
        "origin": "clip",
        "true_px": view.true_px,
        "eye_px": f"{view.eye_px:.1f}",
        "seconds": f"{view.seconds:.2f}",
        "yaw": f"{view.yaw:.0f}",
        "sharpness": f"{view.sharpness:.3f}",
    }


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m models.training.clips", description=__doc__)
    parser.add_argument("clips", type=Path, help="folder of clips, one person in each")
    parser.add_argument("out", type=Path, help="folder for the faces and their index.csv")
    parser.add_argument("--every-seconds", type=float, default=0.5, help="distance of the frames looked at")
    parser.add_argument("--size", type=int, default=512, help="side of the crops in pixels")
    parser.add_argument("--most", type=int, default=40, help="faces of one clip, at most")
    return parser.parse_args()


if __name__ == "__main__":
    main()
