"""What the page tells, gathered while a run goes on; bounded, however long the film is."""

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
"""Faces in the strip of a person, at most."""
_SMALL_EVERY = 8
"""Frames between two of them, at first."""
_WITNESS_EVERY = 25
"""Frames between two looks of the witness at a person, until there are too many."""
_MOST_LOOKS = 64
NOBODY = -1
"""Stands for the faces of which nobody knows whose they are."""


@dataclass(slots=True)
class Entry:
    """One person."""

    faces: int = 0
    """Frames with a face of this person."""
    series: Series = field(default_factory=Series)
    """`strength`, and where known `before` and `after` (the gate's), `seen before` and `seen after` (the witness's)."""
    chosen: Chosen = field(default_factory=Chosen)
    strip: Thinned[Pair] = field(default_factory=lambda: Thinned(MOST_SMALL, _SMALL_EVERY))
    looks: Thinned[None] = field(default_factory=lambda: Thinned(_MOST_LOOKS, _WITNESS_EVERY))

    def join(self, other: Entry) -> None:
        """Takes in another entry of the same person."""
        self.faces += other.faces
        self.series.join(other.series)
        self.chosen.join(other.chosen)
        self.strip.join(other.strip)


class Diary:
    """Keeps an entry for each person; owned by the thread that blends."""

    def __init__(self, strength: float, witness: Witness | None) -> None:
        """`strength`: what the whole run uses of restorations, `blend.strength`."""
        self.witness = witness
        self.people: dict[int, Entry] = {}
        self._strength = strength
        self._start: float | None = None

    def write(self, frame: RestoredFrame, after: av.VideoFrame) -> None:
        """Notes one finished frame; `after` is the picture with its restored faces."""
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
                figures |= self._look(entry, original.index, original.native, after, tracked)
                self._picture(entry, original.index, original.native, after, face, strength, seconds)
            entry.series.add(original.index, seconds, reason, **figures)

    def merged(self, current: Callable[[int], int | None]) -> dict[int, Entry]:
        """Entries by the id a person has now (of `current`); those of forgotten people are nobody's."""
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

    def _look(
        self,
        entry: Entry,
        index: int,
        before: av.VideoFrame,
        after: av.VideoFrame,
        tracked: TrackedFace,
    ) -> dict[str, float]:
        if self.witness is None or not len(tracked.references) or not entry.looks.wants(index):
            return {}
        entry.looks.keep(index, None)
        side = tracked.crop.shape[-1]
        views = [aligned(native, tracked.matrix, side, self.witness.side) for native in (before, after)]
        seen = self.witness.compare(views[0], views[1], tracked.references)
        return {"seen before": seen[0], "seen after": seen[1]}

    def _picture(
        self,
        entry: Entry,
        index: int,
        before: av.VideoFrame,
        after: av.VideoFrame,
        face: RestoredFace,
        strength: float,
        seconds: float,
    ) -> None:
        tracked = face.tracked
        side = tracked.crop.shape[-1]
        if entry.strip.wants(index):
            entry.strip.keep(index, small_pair(before, after, tracked.matrix, side, seconds))
        change = float((face.image.float() - tracked.crop.float()).abs().mean()) * strength
        worth = score(change, tracked.matrix)
        if worth > 0 and entry.chosen.place_for(index, worth) is not None:
            entry.chosen.keep(index, worth, large_pair(before, after, tracked.matrix, side, seconds))


_SIDE_PX = 256


class Describes(Protocol):
    """What is needed of `models.evaluation.judge.Judge`."""

    def describe(
        self, pictures: list[NDArray[np.uint8]], targets: list[NDArray[np.uint8]]
    ) -> NDArray[np.float64]:
        """Descriptors (N, D) of `pictures`, cut where the face is seen in `targets`."""
        ...


class Witness:
    """Compares faces with a person's references, by dlib's recogniser."""

    name = "dlib's face recogniser (1 - distance of descriptors; above 0.4 = the same person to it)"
    side = _SIDE_PX
    """Of the aligned crops it takes."""

    def __init__(self, judge: Describes) -> None:
        self._judge = judge

    def compare(self, before: Tensor, after: Tensor, references: References) -> tuple[float, float]:
        """Similarity of a face before and after, uint8 (3, 256, 256) RGB each, to the mean of its `references`.

        The references must not be empty. The place of the face is read from the picture before.
        """
        views = [_picture(crop) for crop in references.crops]
        faces = [_picture(before), _picture(after)]
        found = self._judge.describe([*views, *faces], [*views, faces[0], faces[0]])
        person = found[:-2].mean(0)
        distances = np.linalg.norm(found[-2:] - person, axis=1)
        return float(1 - distances[0]), float(1 - distances[1])


def find_witness() -> Witness | None:
    """None where dlib or its models are not installed (extra `evaluate`)."""
    try:
        from models.evaluation.cache import Cache
        from models.evaluation.judge import Judge

        return Witness(Judge(Cache(None)))
    except ImportError:
        return None


def _picture(crop: Tensor) -> NDArray[np.uint8]:
    picture = crop.permute(1, 2, 0).numpy()
    if picture.shape[0] != _SIDE_PX:
        picture = cv2.resize(picture, (_SIDE_PX, _SIDE_PX), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(picture)


LARGE_PX, SMALL_PX = 448, 112
LARGE_BYTES, SMALL_BYTES = 48_000, 6_000
"""No JPEG is larger."""
MOST_LARGE = 3
"""Pairs of a person that are shown large."""
_AROUND = 1.35
"""Side of what is shown large against that of the aligned crop."""
_QUALITIES = (88, 75, 60, 45, 30, 15)
_BETTER = 1.2
"""A pair gives way to one that scores so many times more; otherwise nearly every frame would be encoded."""
_APART = 50
"""Frames between two pairs that are shown, at least."""


@dataclass(frozen=True, slots=True)
class Pair:
    """The same place of a frame before and after, as JPEG."""

    seconds: float
    before: bytes
    after: bytes


@dataclass(slots=True)
class Chosen:
    """The pairs of one person that are shown large: those where most changed on a large face."""

    pairs: dict[int, tuple[float, Pair]] = field(default_factory=dict)
    """Score and pair by frame index."""

    def place_for(self, index: int, score: float) -> int | None:
        """The frame whose pair a pair of the frame `index` would take the place of, `index` itself where there is
        room, None where it would not be taken."""
        near = [known for known in self.pairs if abs(known - index) < _APART]
        if not near and len(self.pairs) < MOST_LARGE:
            return index
        rival = min(near or self.pairs, key=lambda known: self.pairs[known][0])
        if len(near) > 1 or score < _BETTER * self.pairs[rival][0]:
            return None
        return rival

    def keep(self, index: int, score: float, pair: Pair) -> None:
        """Takes a pair in, where there is a place for it."""
        place = self.place_for(index, score)
        if place is not None:
            self.pairs.pop(place, None)
            self.pairs[index] = (score, pair)

    def join(self, other: Chosen) -> None:
        """Takes in the better ones of `other`."""
        for index, (score, pair) in other.pairs.items():
            self.keep(index, score, pair)

    def all(self) -> list[tuple[int, Pair]]:
        """Frame and pair, in the order of time."""
        return [(index, pair) for index, (_, pair) in sorted(self.pairs.items())]


def large_pair(
    before: av.VideoFrame, after: av.VideoFrame, matrix: NDArray[np.float32], side: int, seconds: float
) -> Pair:
    """The surroundings of a face, `matrix` (2, 3) from frame to a crop of `side`, before and after."""
    around = _around(matrix, side, _AROUND, LARGE_PX)
    views = [jpeg(read_crop(native, around, LARGE_PX), LARGE_BYTES) for native in (before, after)]
    return Pair(seconds, *views)


def small_pair(
    before: av.VideoFrame, after: av.VideoFrame, matrix: NDArray[np.float32], side: int, seconds: float
) -> Pair:
    """The aligned face of both frames."""
    views = [jpeg(aligned(native, matrix, side, SMALL_PX), SMALL_BYTES) for native in (before, after)]
    return Pair(seconds, *views)


def small(crop: Tensor) -> bytes:
    """An aligned crop, uint8 (3, S, S) RGB, as a small JPEG."""
    picture = crop.permute(1, 2, 0).numpy()
    picture = cv2.resize(picture, (SMALL_PX, SMALL_PX), interpolation=cv2.INTER_AREA)
    return _encoded(np.asarray(picture, np.uint8), SMALL_BYTES)


def aligned(native: av.VideoFrame, matrix: NDArray[np.float32], side: int, size: int) -> Tensor:
    """What lies at `matrix` (2, 3), from frame to a crop of `side`, as a crop of `size`: uint8 (3, size, size)."""
    return read_crop(native, _around(matrix, side, 1.0, size), size)


def score(change: float, matrix: NDArray[np.float32]) -> float:
    """Worth of showing a face that changed by `change` code values: the larger it is on screen, the more."""
    return change / float(np.sqrt(scale_of(matrix)))


def jpeg(crop: Tensor, most_bytes: int) -> bytes:
    """`crop`, uint8 (3, H, W) RGB, as JPEG of at most so many bytes."""
    return _encoded(crop.permute(1, 2, 0).numpy(), most_bytes)


def address(content: bytes) -> str:
    """A JPEG as the address of a picture that lies in the page itself."""
    return "data:image/jpeg;base64," + base64.b64encode(content).decode("ascii")


def _encoded(picture: NDArray[np.uint8], most_bytes: int) -> bytes:
    while True:
        bgr = cv2.cvtColor(np.ascontiguousarray(picture), cv2.COLOR_RGB2BGR)
        for quality in _QUALITIES:
            content: bytes = cv2.imencode(".jpg", bgr, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()
            if len(content) <= most_bytes:
                return content
        # Noise at any quality: a smaller picture is shown as large.
        half = (max(picture.shape[1] // 2, 1), max(picture.shape[0] // 2, 1))
        picture = np.asarray(cv2.resize(picture, half, interpolation=cv2.INTER_AREA), np.uint8)


def _around(matrix: NDArray[np.float32], side: int, factor: float, size: int) -> NDArray[np.float32]:
    """Frame to a crop of `size` that shows `factor` times as much as the crop of `side` under `matrix`."""
    scale = size / (side * factor)
    # Positions count pixel centres at integers: the corner of a crop is at -0.5.
    shift = (1 - 1 / factor) * size / 2 + 0.5 * scale - 0.5
    wider = matrix * np.float32(scale)
    wider[:, 2] += np.float32(shift)
    return wider
