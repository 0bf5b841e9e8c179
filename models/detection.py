"""Finds faces of any size, in bad pictures too: a detector is shown a picture in several sizes.

A network knows faces of some sizes best. One that fills the picture and is blurred is found where the picture is
reduced until the face has such a size; the blur and the noise are reduced with it. A find that the detector doubts
counts where two sizes agree on the landmarks.

Legend: H W pixels of the picture, h w of one level of the pyramid.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import cv2
import numpy as np
from numpy.typing import NDArray

from models.detector import suppress
from models.protocols import Detector, Doubting, Face

Picture = NDArray[np.uint8]
"""(H, W, 3) RGB."""

_LIKED_PX = 36.0
"""Distance of the eyes, in pixels of a level, at which landmarks are most exact."""
_LARGE_PX = 48.0
"""Beyond this, blurred faces are missed."""
_FINE_PX = 288.0
"""Longer side below which levels are the square root of 2 apart, as they cost little there; above it they halve."""
_SMALLEST_PX = 45.0
"""Longer side below which nothing is left of a face that fills the picture."""
_BETWEEN = 2**1.25
"""By how much the largest smoothed level is reduced, so that its size and those below lie between those that were
looked at: two looks at one size would agree on their errors."""
_ENLARGED_PIXELS = 384 * 216
"""Pictures with fewer pixels are enlarged to as many, twice at most, so that small faces are found.
`CenterFaceDetector` enlarges alike, so that landmarks in small films lie where its own look places them."""
_DOUBTED = 0.5
"""Share of the detector's least score from which a find counts where something agrees with it."""
_LEAST_PX = 12.0
"""Distance of the eyes, in pixels of a level, below which a face shows too little for its vote to count."""
_ALIKE = 0.25
"""Two finds are one face if their landmarks are nearer than this on average, in distances of the eyes."""
_ONE_PLACE = 0.7
"""Two faces are never nearer than this, in distances of the larger one's eyes."""
_OVERLAP = 0.3
"""Intersection over union from which two boxes are one face."""


@dataclass(frozen=True, slots=True, eq=False)
class Find:
    """What may be a face."""

    face: Face
    """At its place in the whole picture."""
    sure: bool
    """Whether it counts by itself; a doubtful one counts where something agrees with it."""
    level_px: float
    """Distance of the eyes in pixels of the level where it was found."""


def levels(image: Picture) -> list[Picture]:
    """`image`, uint8 (H, W, 3), and what it is reduced to: first by halves, then in finer steps."""
    longer = float(max(image.shape[:2]))
    pyramid, side = [image], longer
    while (side := side / (2.0 if side >= _FINE_PX else 2**0.5)) >= _SMALLEST_PX:
        pyramid.append(_reduced(image, longer / side))
    return pyramid


def smoothed(image: Picture) -> Picture:
    """`image` without grain and specks: a median of 3 pixels, then a blur of one."""
    return np.asarray(cv2.GaussianBlur(cv2.medianBlur(image, 3), (0, 0), 1.0), np.uint8)


def look(detector: Detector, image: Picture, level: Picture) -> list[Find]:
    """Finds in one `level`, uint8 (h, w, 3), of `image`, uint8 (H, W, 3)."""
    factor = image.shape[1] / level.shape[1]
    if not isinstance(detector, Doubting):
        return [_find(face, factor, sure=True) for face in detector.detect(level)]
    faces = detector.candidates(level, _DOUBTED * detector.min_score)
    return [_find(face, factor, sure=face.score >= detector.min_score) for face in faces]


def look_once(detector: Detector, image: Picture, halvings: Sequence[int] = ()) -> list[Find]:
    """Finds in `image`, uint8 (H, W, 3), as large as it is, and halved so many times."""
    pictures = [_enlarged(image), *(_reduced(image, 2.0**number) for number in halvings)]
    return agreed([look(detector, image, picture) for picture in pictures])


def look_at_all_sizes(
    detector: Detector, image: Picture, *, largest: bool = True, votes: int = 2
) -> list[Find]:
    """Finds in every level of `image`, uint8 (H, W, 3), those of one face merged into one.

    Without `largest` all levels together cost less than half of one look. So many `votes` make doubtful finds sure.
    """
    return agreed(_looks(detector, image, _pyramid(image, largest)), votes)


def look_closely(detector: Detector, image: Picture) -> list[Find]:
    """The same, and where no find is sure also in smoothed levels of the sizes between: they have votes as well."""
    looks = _looks(detector, image, _pyramid(image, largest=True))
    finds = agreed(looks)
    if any(find.sure for find in finds):
        return finds
    between = [smoothed(level) for level in levels(_reduced(_enlarged(image), _BETWEEN))]
    return agreed([*looks, *_looks(detector, image, between)])


def halvings(eyes_px: float) -> int:
    """How many times a picture must be halved in which eyes are `eyes_px` pixels apart, for the face to be found
    though it is blurred."""
    return max(0, int(np.ceil(np.log2(max(eyes_px, 1.0) / _LARGE_PX))))


def agreed(looks: Sequence[Sequence[Find]], votes: int = 2) -> list[Find]:
    """One find for each face that several looks show, sure ones first, then by score.

    It is sure if one look is, or if so many `votes` agree. Its landmarks are those of the look in which the face has
    the size that the detector likes best. Doubtful finds at the place of a sure one are left out.
    """
    open_finds = sorted(
        ((find, number) for number, finds in enumerate(looks) for find in finds),
        key=lambda pair: -pair[0].face.score,
    )
    merged: list[Find] = []
    while open_finds:
        best = open_finds[0][0]
        same = [pair for pair in open_finds if alike(pair[0].face, best.face)]
        open_finds = [pair for pair in open_finds if not alike(pair[0].face, best.face)]
        liked = min((find for find, _ in same), key=lambda find: abs(np.log(find.level_px / _LIKED_PX)))
        voting = {number for find, number in same if find.level_px >= _LEAST_PX}
        sure = best.sure or len(voting) >= votes
        merged.append(replace(liked, face=replace(liked.face, score=best.face.score), sure=sure))
    kept: list[Find] = []
    for find in sorted(merged, key=lambda find: (not find.sure, -find.face.score)):
        if not any(sure.sure and at_one_place(find.face, sure.face) for sure in kept):
            kept.append(find)
    return kept


def alike(a: Face, b: Face) -> bool:
    """Whether two faces are one, by their landmarks."""
    return float(np.linalg.norm(a.landmarks - b.landmarks, axis=1).mean()) < _ALIKE * size_px(b)


def at_one_place(a: Face, b: Face) -> bool:
    """Whether only one of two faces can be there."""
    apart = float(np.linalg.norm(a.landmarks.mean(0) - b.landmarks.mean(0)))
    if apart < _ONE_PLACE * max(size_px(a), size_px(b)):
        return True
    return len(suppress(np.stack([a.box, b.box]), np.array([1.0, 0.5], np.float32), _OVERLAP)) == 1


def size_px(face: Face) -> float:
    """Distance of the eyes, or in profile the one it would have if the face looked at the camera."""
    height = float(np.linalg.norm(face.landmarks[3:].mean(0) - face.landmarks[:2].mean(0)))
    return max(face.eye_distance_px, height / 1.04, 1e-3)


def _looks(detector: Detector, image: Picture, pyramid: Sequence[Picture]) -> list[list[Find]]:
    return [look(detector, image, level) for level in pyramid]


def _pyramid(image: Picture, largest: bool) -> list[Picture]:
    pyramid = levels(_enlarged(image))
    return pyramid if largest else pyramid[1:] or pyramid


def _find(face: Face, factor: float, *, sure: bool) -> Find:
    return Find(face.scaled(factor), sure, size_px(face))


def _enlarged(image: Picture) -> Picture:
    pixels = image.shape[0] * image.shape[1]
    return _reduced(image, max(min((pixels / _ENLARGED_PIXELS) ** 0.5, 1.0), 0.5))


def _reduced(image: Picture, factor: float) -> Picture:
    """`image` so many times smaller; larger, where `factor` is below 1."""
    if factor == 1:
        return image
    height, width = (max(1, round(side / factor)) for side in image.shape[:2])
    how = cv2.INTER_AREA if factor > 1 else cv2.INTER_LINEAR
    return np.asarray(cv2.resize(image, (width, height), interpolation=how), np.uint8)
