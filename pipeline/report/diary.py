"""Figures and pictures of each person for the page, collected during a run. Memory is bounded.

Legend: S side of an aligned crop in pixels, D width of a descriptor.
"""

from __future__ import annotations

import base64
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Protocol

import av
import cv2
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.align import scale_of
from models.protocols import References
from pipeline.frames import RestoredFace, RestoredFrame, TrackedFace
from pipeline.pixels.colour import read_crop
from pipeline.report.series import Series, Thinned

MOST_SMALL = 12
"""Maximum small pairs per person."""
_SMALL_EVERY = 8
"""Initial distance of small pairs in frames."""
_WITNESS_EVERY, _MOST_LOOKS = 25, 64
"""Initial distance in frames and maximum number of a person's measurements by the witness."""
_WITNESS_PX = 256
NOBODY = -1
"""Person id for faces that were not identified."""
LARGE_PX, SMALL_PX = 448, 112
LARGE_BYTES, SMALL_BYTES = 48_000, 6_000
"""Maximum size of a JPEG."""
MOST_LARGE = 3
"""Maximum large pairs per person."""
_AROUND = 1.35
"""Side of a large picture relative to the aligned crop."""
_QUALITIES = (88, 75, 60, 45, 30, 15)
_BETTER = 1.2
"""Score ratio at which a large pair replaces another; without it nearly every frame would be encoded."""
_APART = 50
"""Minimum distance of large pairs in frames."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The same place of a frame before and after, as JPEG."""

    seconds: float
    before: bytes
    after: bytes


@dataclass(slots=True)
class Chosen:
    """The large pairs of one person: greatest change on a large face."""

    pairs: dict[int, tuple[float, Pair]] = field(default_factory=dict)
    """Score and pair by frame index."""

    def place_for(self, index: int, score: float) -> int | None:
        """The frame whose pair would be replaced; `index` itself if there is room, None if the pair is not wanted."""
        near = [known for known in self.pairs if abs(known - index) < _APART]
        if not near and len(self.pairs) < MOST_LARGE:
            return index
        rival = min(near or self.pairs, key=lambda known: self.pairs[known][0])
        if len(near) > 1 or score < _BETTER * self.pairs[rival][0]:
            return None
        return rival

    def keep(self, index: int, score: float, pair: Pair) -> None:
        """Adds a pair if it is wanted."""
        place = self.place_for(index, score)
        if place is not None:
            self.pairs.pop(place, None)
            self.pairs[index] = (score, pair)

    def join(self, other: Chosen) -> None:
        """Adds the better pairs of `other`."""
        for index, (score, pair) in other.pairs.items():
            self.keep(index, score, pair)

    def all(self) -> list[tuple[int, Pair]]:
        """Frame index and pair, in order."""
        return [(index, pair) for index, (_, pair) in sorted(self.pairs.items())]


class Describes(Protocol):
    """The part of `models.evaluation.measures.Judge` that is used."""

    def describe(
        self, pictures: list[NDArray[np.uint8]], targets: list[NDArray[np.uint8]]
    ) -> NDArray[np.float64]:
        """Descriptors (N, D) of `pictures`, cropped where `targets` show the face."""
        ...


class Witness:
    """Likeness by dlib's recogniser, which has no part in the gate: the gate must not grade itself."""

    name = "dlib's face recogniser (1 - distance of descriptors; above 0.4 = the same person to it)"
    side = _WITNESS_PX
    """Side of the aligned crops."""

    def __init__(self, judge: Describes) -> None:
        self._judge = judge

    def compare(self, before: Tensor, after: Tensor, references: References) -> tuple[float, float]:
        """Similarity of a face before and after, uint8 (3, 256, 256) RGB each, to the mean of its `references`.

        The references must not be empty. The face is located in the picture before.
        """
        views = [_picture(crop, _WITNESS_PX) for crop in references.crops]
        faces = [_picture(before, _WITNESS_PX), _picture(after, _WITNESS_PX)]
        found = self._judge.describe([*views, *faces], [*views, faces[0], faces[0]])
        person = found[:-2].mean(0)
        distances = np.linalg.norm(found[-2:] - person, axis=1)
        return float(1 - distances[0]), float(1 - distances[1])


def find_witness() -> Witness | None:
    """None where dlib or its models are not installed (extra `evaluate`)."""
    try:
        from models.evaluation.faces import Cache
        from models.evaluation.measures import Judge

        return Witness(Judge(Cache(None)))
    except ImportError:
        return None


@dataclass(slots=True)
class Entry:
    """One person."""

    faces: int = 0
    """Frames with a face of this person."""
    series: Series = field(default_factory=Series)
    """`strength`; where known `before` and `after` (by the gate), `seen before` and `seen after` (by the witness)."""
    chosen: Chosen = field(default_factory=Chosen)
    strip: Thinned[Pair] = field(default_factory=lambda: Thinned(MOST_SMALL, _SMALL_EVERY))
    looks: Thinned[None] = field(default_factory=lambda: Thinned(_MOST_LOOKS, _WITNESS_EVERY))

    def join(self, other: Entry) -> None:
        """Adds another entry of the same person."""
        self.faces += other.faces
        self.series.join(other.series)
        self.chosen.join(other.chosen)
        self.strip.join(other.strip)


class Diary:
    """One entry per person. Owner: the thread that blends."""

    def __init__(self, strength: float, witness: Witness | None) -> None:
        """`strength`: the run's `blend.strength`."""
        self.witness = witness
        self.people: dict[int, Entry] = {}
        self._strength = strength
        self._start: float | None = None

    def write(self, frame: RestoredFrame, after: av.VideoFrame) -> None:
        """Adds one finished frame; `after` is the picture with its restored faces."""
        original = frame.tracked.frame
        seconds = float(original.pts * original.time_base)
        if self._start is None:
            self._start = seconds
        seconds -= self._start
        restored = {face.tracked.track_id: face for face in frame.faces}
        for tracked in frame.tracked.faces:
            person = NOBODY if tracked.person_id is None else tracked.person_id
            entry = self.people.setdefault(person, Entry())
            entry.faces += 1
            face = restored.get(tracked.track_id)
            strength, reason = self._strength_of(tracked, face)
            figures = {"strength": strength}
            if face is not None:
                if face.likeness is not None and len(tracked.references):
                    figures |= {"before": face.likeness.before, "after": face.likeness.after}
                both = original.native, after
                figures |= self._measured(entry, original.index, both, tracked)
                _add_pictures(entry, original.index, both, face, strength, seconds)
            entry.series.add(original.index, seconds, reason, **figures)

    def merged(self, current: Callable[[int], int | None]) -> dict[int, Entry]:
        """Entries by present id, as `current` maps them; those of forgotten people go to NOBODY."""
        people: dict[int, Entry] = {}
        for person, entry in sorted(self.people.items()):
            now = current(person) if person != NOBODY else NOBODY
            people.setdefault(NOBODY if now is None else now, Entry()).join(entry)
        return people

    def _strength_of(self, tracked: TrackedFace, face: RestoredFace | None) -> tuple[float, str]:
        if face is None:
            return 0.0, tracked.reason or "not asked for"
        if face.allowed < 1:
            return tracked.strength * face.allowed * self._strength, "identity"
        return tracked.strength * self._strength, "easing" if tracked.strength < tracked.wish else ""

    def _measured(
        self, entry: Entry, index: int, both: tuple[av.VideoFrame, av.VideoFrame], tracked: TrackedFace
    ) -> dict[str, float]:
        """Likeness by the witness, for some of the frames."""
        if self.witness is None or not len(tracked.references) or not entry.looks.wants(index):
            return {}
        entry.looks.keep(index, None)
        side = tracked.crop.shape[-1]
        views = [aligned(native, tracked.matrix, side, self.witness.side) for native in both]
        before, after = self.witness.compare(views[0], views[1], tracked.references)
        return {"seen before": before, "seen after": after}


def _add_pictures(
    entry: Entry,
    index: int,
    both: tuple[av.VideoFrame, av.VideoFrame],
    face: RestoredFace,
    strength: float,
    seconds: float,
) -> None:
    tracked = face.tracked
    side = tracked.crop.shape[-1]
    if entry.strip.wants(index):
        views = [jpeg(aligned(native, tracked.matrix, side, SMALL_PX), SMALL_BYTES) for native in both]
        entry.strip.keep(index, Pair(seconds, *views))
    change = float((face.image.float() - tracked.crop.float()).abs().mean()) * strength
    # Change in code values, weighted by the size on screen.
    score = change / float(np.sqrt(scale_of(tracked.matrix)))
    if score > 0 and entry.chosen.place_for(index, score) is not None:
        entry.chosen.keep(index, score, large_pair(*both, tracked.matrix, side, seconds))


def large_pair(
    before: av.VideoFrame, after: av.VideoFrame, matrix: NDArray[np.float32], side: int, seconds: float
) -> Pair:
    """The surroundings of a face before and after; `matrix` (2, 3) maps the frame to a crop of `side`."""
    around = _around(matrix, side, _AROUND, LARGE_PX)
    views = [jpeg(read_crop(native, around, LARGE_PX), LARGE_BYTES) for native in (before, after)]
    return Pair(seconds, *views)


def small(crop: Tensor) -> bytes:
    """An aligned crop, uint8 (3, S, S) RGB, as a small JPEG."""
    return _encoded(_picture(crop, SMALL_PX), SMALL_BYTES)


def aligned(native: av.VideoFrame, matrix: NDArray[np.float32], side: int, size: int) -> Tensor:
    """The crop at `matrix` (2, 3), which maps the frame to a crop of `side`, resampled: uint8 (3, size, size)."""
    return read_crop(native, _around(matrix, side, 1.0, size), size)


def jpeg(crop: Tensor, most_bytes: int) -> bytes:
    """`crop`, uint8 (3, H, W) RGB, as a JPEG of at most `most_bytes`."""
    return _encoded(crop.permute(1, 2, 0).numpy(), most_bytes)


def address(content: bytes) -> str:
    """A JPEG as a data URL."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _picture(crop: Tensor, side: int) -> NDArray[np.uint8]:
    picture = crop.permute(1, 2, 0).numpy()
    if picture.shape[0] != side:
        picture = cv2.resize(picture, (side, side), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture)


def _encoded(picture: NDArray[np.uint8], most_bytes: int) -> bytes:
    while True:
        bgr = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR)
        for quality in _QUALITIES:
            content: bytes = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(content) <= most_bytes:
                return content
        # Noise exceeds the limit at any quality: halve the picture; the page shows it at the same size.
        half = (max(picture.shape[1] // 2, 1), max(picture.shape[0] // 2, 1))
        picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)


def _around(matrix: NDArray[np.float32], side: int, factor: float, size: int) -> NDArray[np.float32]:
    """Matrix (2, 3) to a crop of `size` that shows `factor` times the side of the crop of `side` under `matrix`."""
    scale = size / (side * factor)
    # Pixel centres lie at integers, so the corner of a crop is at -0.5.
    shift = (1 - 1 / factor) * size / 2 + 0.5 * scale - 0.5
    wider = matrix * np.float32(scale)
    wider[:, 2] += np.float32(shift)
    return wider
