"""Which faces are found: `python -m pipeline.evaluation.found --faces VAL [--clips FOLDER] [--count N]`.

Held-out faces are degraded with fixed seeds and shown in four ways: filling the picture of 512 pixels, enlarged to
1024, 150 pixels large in a frame of something else, and lying on their side. One is found if the landmarks lie within
8 % of the crop's side of the truth, on average. Pictures without faces count what is found in them. `--clips` adds
parts of films beside the faces to these; `--sheet` draws what was found where no face is. docs/detection.md.
"""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain
from pathlib import Path

import av
import cv2
import numpy as np
import skimage.data
from numpy.typing import NDArray

from models.degradation.stills import preset_sample
from models.detector import CenterFaceDetector
from models.evaluation.faces import PRESETS, read_faces
from models.pictures import Picture
from models.protocols import Detector, Face
from models.training.dataset import read_index
from pipeline.pixels.geometry import Geometry
from pipeline.stages.perception import PerceptionConfig
from pipeline.stages.search import SearchDepth, find_faces

FIVE_OF_DENSE = (468, 473, 4, 61, 291)
"""Irises, tip of the nose and corners of the mouth among the 478 points of a face mesh."""
NEAR = 0.08
"""Of the side of the aligned crop."""
# fmt: off
_EMPTY = (
    "brick", "cell", "chelsea", "coffee", "coins", "colorwheel", "grass", "gravel", "hubble_deep_field", "horse",
    "immunohistochemistry", "microaneurysms", "moon", "page", "retina", "rocket", "text", "clock", "logo",
)
# fmt: on
"""Pictures of scikit-image that show nobody (chelsea is a cat)."""
_GROUNDS = ("coffee", "rocket", "grass", "retina", "gravel")
_SMALL_PX = 150
_STRIPES = 20
_FRAMES = (0, 40, 80)
"""Of a clip, those whose parts beside faces are used."""


@dataclass(frozen=True, slots=True, eq=False)
class Scene:
    """A picture, uint8 (H, W, 3) RGB, and the landmarks (5, 2) of its one face; None = it shows nobody."""

    name: str
    picture: Picture
    truth: NDArray[np.float32] | None
    near_px: float = 0.0
    """How far landmarks may be off, on average."""


@dataclass(slots=True)
class Count:
    """What one depth found in the scenes of one name."""

    scenes: int = 0
    right: int = 0
    false: int = 0
    """Scenes in which something was found that is no face, or with landmarks that are off."""
    looks: int = 0


class Counted:
    """A detector that counts its calls."""

    def __init__(self, detector: CenterFaceDetector) -> None:
        self._detector, self.looks, self.min_score = detector, 0, detector.min_score

    def detect(self, image: Picture) -> list[Face]:
        self.looks += 1
        return self._detector.detect(image)

    def candidates(self, image: Picture, min_score: float) -> list[Face]:
        self.looks += 1
        return self._detector.candidates(image, min_score)


@dataclass(slots=True)
class Found:
    """The counts of all depths, and the scenes in which something was found where no face is."""

    counts: dict[tuple[str, SearchDepth], Count] = field(default_factory=dict)
    wrong: list[tuple[Scene, SearchDepth, list[Face]]] = field(default_factory=list)


def measure(scenes: Iterator[Scene], detector: CenterFaceDetector, depths: Sequence[SearchDepth]) -> Found:
    """Looks for the face of each scene with each depth, as at the start of a shot."""
    found, counted = Found(), Counted(detector)
    width = PerceptionConfig().search_width
    for scene in scenes:
        native = av.VideoFrame.from_ndarray(scene.picture, format="rgb24").reformat(format="gbrp")
        for depth in depths:
            count = found.counts.setdefault((scene.name, depth), Count())
            counted.looks = 0
            faces = find_faces(native, counted, Geometry(), width, depth)
            right = [scene.truth is not None and _off(face, scene.truth) < scene.near_px for face in faces]
            count.scenes += 1
            count.right += any(right)
            count.false += not all(right)
            count.looks += counted.looks
            if not all(right):
                found.wrong.append((scene, depth, faces))
    return found


def with_faces(folder: Path, count: int | None) -> Iterator[Scene]:
    """The faces of an indexed folder with `landmarks.npz`, in every damage and way."""
    faces, truths = read_faces(folder, count), _truths(folder)
    grounds = [np.asarray(cv2.resize(_shown(name), (1280, 720)), np.uint8) for name in _GROUNDS]
    for damage, preset in PRESETS.items():
        for seed, (face, truth) in enumerate(zip(faces, truths, strict=False)):
            picture = preset_sample(face, seed, preset, None)
            side = picture.shape[0]
            near = NEAR * side
            yield Scene(f"{damage}, fills the picture", picture, truth, near)
            large = np.asarray(cv2.resize(picture, (2 * side, 2 * side)), np.uint8)
            yield Scene(
                f"{damage}, enlarged to {2 * side}", large, np.float32(2) * truth + np.float32(0.5), 2 * near
            )
            scale = _SMALL_PX / side
            frame = grounds[seed % len(grounds)].copy()
            x, y = np.random.default_rng(seed).integers(0, (1280 - _SMALL_PX, 720 - _SMALL_PX))
            frame[y : y + _SMALL_PX, x : x + _SMALL_PX] = cv2.resize(
                picture, (_SMALL_PX, _SMALL_PX), interpolation=cv2.INTER_AREA
            )
            place = ((truth + 0.5) * scale - 0.5 + np.array([x, y])).astype(np.float32)
            yield Scene(f"{damage}, {_SMALL_PX} pixels in 1280x720", frame, place, near * scale)
            lying = np.stack([truth[:, 1], side - 1 - truth[:, 0]], 1)
            yield Scene(f"{damage}, on its side", np.ascontiguousarray(np.rot90(picture)), lying, near)


def without_faces(clips: Path | None) -> Iterator[Scene]:
    """Pictures that show nobody: of scikit-image, made textures, and of `clips` what lies beside faces; each as it is
    and degraded."""
    pictures = [_shown(name) for name in _EMPTY] + [_texture(seed) for seed in range(_STRIPES)]
    if clips is not None:
        pictures += [part for path in sorted(clips.iterdir()) for part in _beside_faces(path)]
    for seed, picture in enumerate(pictures):
        yield Scene("nobody, as it is", picture, None)
        height, width = picture.shape[:2]
        square = np.asarray(cv2.resize(picture, (512, 512)), np.uint8)
        for damage, preset in PRESETS.items():
            worse = cv2.resize(preset_sample(square, seed, preset, None), (width, height))
            yield Scene(f"nobody, {damage}", np.asarray(worse, np.uint8), None)


def table(found: Found) -> str:
    """Markdown: shares found, false finds and calls of the detector, a column for each depth."""
    depths = list(dict.fromkeys(depth for _, depth in found.counts))
    names = [depth.name.lower().replace("_", " ") for depth in depths]
    head = " | ".join(f"{name}: found | false | calls" for name in names)
    lines = [f"| picture | count | {head} |", "|---" * (2 + 3 * len(depths)) + "|"]
    for scene in dict.fromkeys(name for name, _ in found.counts):
        cells = []
        for depth in depths:
            count = found.counts[scene, depth]
            share = "" if scene.startswith("nobody") else f"{count.right / count.scenes:.1%}"
            cells.append(f"{share} | {count.false} | {count.looks / count.scenes:.1f}")
        lines.append(f"| {scene} | {found.counts[scene, depths[0]].scenes} | {' | '.join(cells)} |")
    return "\n".join(lines)


def drawn(scene: Scene, faces: Sequence[Face], side: int = 240) -> Picture:
    """`scene` with the boxes and landmarks of `faces`, fitted into a square."""
    scale = side / max(scene.picture.shape[:2])
    size = [max(1, round(length * scale)) for length in scene.picture.shape[1::-1]]
    small = np.asarray(cv2.resize(scene.picture, size, interpolation=cv2.INTER_AREA), np.uint8)
    for face in (face.scaled(scale) for face in faces):
        x0, y0, x1, y1 = (round(float(place)) for place in face.box)
        cv2.rectangle(small, (x0, y0), (x1, y1), (255, 0, 0), 1)
        for x, y in face.landmarks.round().astype(int).tolist():
            cv2.circle(small, (x, y), 2, (0, 255, 0), -1)
    square: Picture = np.full((side, side, 3), 255, np.uint8)
    square[: small.shape[0], : small.shape[1]] = small
    return square


def main(arguments: Sequence[str] | None = None) -> int:
    """Prints the table, and writes the sheet with `--sheet`."""
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluation.found", description=__doc__)
    parser.add_argument("--faces", type=Path, help="held-out faces with index.csv and landmarks.npz")
    parser.add_argument("--count", type=int, help="only the first so many faces")
    parser.add_argument(
        "--clips", type=Path, help="folder of films with parts without people beside their faces"
    )
    parser.add_argument("--only", default="", metavar="WORDS", help="scenes that have this in their name")
    parser.add_argument("--sheet", type=Path, metavar="FILE.png", help="what was found where no face is")
    parser.add_argument("--threads", type=int, default=2)
    options = parser.parse_args(arguments)
    found = measure(
        _scenes(options),
        CenterFaceDetector(threads=options.threads),
        (SearchDepth.GLANCE, SearchDepth.THOROUGH),
    )
    print(table(found))
    if options.sheet and found.wrong:
        rows = [drawn(scene, faces) for scene, _, faces in found.wrong]
        rows += [np.full_like(rows[0], 255)] * (-len(rows) % 8)
        sheet = np.vstack([np.hstack(rows[k : k + 8]) for k in range(0, len(rows), 8)])
        cv2.imwrite(str(options.sheet), sheet[..., ::-1])
        print(Counter((scene.name, depth.name) for scene, depth, _ in found.wrong))
    return 0


def _scenes(options: argparse.Namespace) -> Iterator[Scene]:
    """Those asked for; the others are made and left out."""
    faces = with_faces(options.faces, options.count) if options.faces is not None else iter(())
    for scene in chain(faces, without_faces(options.clips)):
        if options.only in scene.name:
            yield scene


def _off(face: Face, truth: NDArray[np.float32]) -> float:
    return float(np.linalg.norm(face.landmarks - truth, axis=1).mean())


def _truths(folder: Path) -> NDArray[np.float32]:
    """Landmarks (N, 5, 2) of the pictures in the order of the folder's index."""
    with np.load(folder / "landmarks.npz") as stored:
        points = (stored["mean"] + stored["offset"].astype(np.float32)) / 8
        places = {str(name): place for place, name in enumerate(stored["files"])}
    rows = [places[row.file] for row in read_index(folder)]
    return np.asarray(points[rows][:, FIVE_OF_DENSE], np.float32)


def _shown(name: str) -> Picture:
    """A picture of scikit-image as RGB, 1280 pixels at most."""
    picture = np.asarray(getattr(skimage.data, name)())
    picture = picture.astype(np.uint8) * 255 if picture.dtype == bool else picture
    picture = np.repeat(picture[..., None], 3, 2) if picture.ndim == 2 else picture[..., :3]
    scale = min(1280 / max(picture.shape[:2]), 1.0)
    return np.asarray(cv2.resize(np.ascontiguousarray(picture), None, fx=scale, fy=scale), np.uint8)


def _texture(seed: int) -> Picture:
    """Coloured noise of one grain, 1280x720."""
    random = np.random.default_rng(seed)
    noise = random.standard_normal((720, 1280, 3)).astype(np.float32)
    soft = cv2.GaussianBlur(noise, (0, 0), float(random.uniform(1, 60)))
    grey = soft.mean(-1, keepdims=True) + random.uniform(0, 0.5) * soft
    return np.asarray(np.clip(128 + 50 * grey / grey.std(), 0, 255), np.uint8)


def _beside_faces(path: Path) -> Iterator[Picture]:
    """What lies left and right of all faces of a clip, with room for the heads; nothing where no face is found."""
    detector: Detector = CenterFaceDetector(min_score=0.2)
    with av.open(str(path)) as container:
        for index, native in zip(range(_FRAMES[-1] + 1), container.decode(video=0), strict=False):
            if index not in _FRAMES:
                continue
            picture = np.asarray(native.to_ndarray(format="rgb24"), np.uint8)
            boxes = np.array([face.box for face in detector.detect(picture)]).reshape(-1, 4)
            if not len(boxes):
                continue
            room, width = 0.6 * (boxes[:, 2] - boxes[:, 0]), picture.shape[1]
            left, right = int((boxes[:, 0] - room).min()), int((boxes[:, 2] + room).max())
            for part in (picture[:, : max(left, 0)], picture[:, max(right, 0) :]):
                if part.shape[1] >= max(64, 0.15 * width):
                    yield np.ascontiguousarray(part)


if __name__ == "__main__":
    sys.exit(main())
