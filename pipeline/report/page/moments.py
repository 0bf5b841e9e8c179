"""A few moments of each person, the same ones whatever the settings: what a trial's page compares."""

from __future__ import annotations

from collections.abc import Callable

import av

from pipeline.frames import RestoredFrame
from pipeline.report.page.pictures import Pair, large_pair
from pipeline.report.page.series import Thinned

MOST_MOMENTS = 4
"""Of a person, at most."""
_EVERY = 12
"""Frames between two of them, at first."""


class Moments:
    """Keeps a few pairs of pictures of each person; which frames they are of depends on the followed faces alone."""

    def __init__(self, crop_size: int) -> None:
        """`crop_size`: side in pixels of the crops to which the matrices of faces lead."""
        self._crop_size = crop_size
        self._people: dict[int, Thinned[Pair]] = {}

    def note(self, frame: RestoredFrame, after: av.VideoFrame) -> None:
        """Notes one finished frame; `after` is the picture with its restored faces."""
        original = frame.tracked.frame
        for face in frame.tracked.faces:
            if face.person_id is None or not face.strength:
                continue
            kept = self._people.setdefault(face.person_id, Thinned(MOST_MOMENTS, _EVERY))
            if kept.wants(original.index):
                seconds = float(original.pts * original.time_base)
                pair = large_pair(original.native, after, face.matrix, self._crop_size, seconds)
                kept.keep(original.index, pair)

    def merged(self, current: Callable[[int], int | None]) -> dict[int, list[tuple[int, Pair]]]:
        """Frame and pictures, by the id a person has now (of `current`)."""
        people: dict[int, Thinned[Pair]] = {}
        for person, kept in sorted(self._people.items()):
            if (now := current(person)) is not None:
                people.setdefault(now, Thinned(MOST_MOMENTS, _EVERY)).join(kept)
        return {person: kept.all() for person, kept in people.items()}
