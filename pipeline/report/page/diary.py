"""What the page tells, gathered while a run goes on; bounded, however long the film is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import av

from pipeline.frames import RestoredFace, RestoredFrame, TrackedFace
from pipeline.report.page.pictures import Chosen, Pair, aligned, large_pair, score, small_pair
from pipeline.report.page.series import Series, Thinned
from pipeline.report.page.witness import Witness

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
