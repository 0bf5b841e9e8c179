"""Who is in a film, from faces of a few frames a second: appearances within a shot, and people over shots and films.

Faces that lie over each other in successive frames and are alike form an appearance. Its raw embeddings are added
up, so that clear views weigh more (norm-weighted pooling, IConFace, arXiv 2605.02814), and appearances are joined
from the most alike on (agglomerative clustering by the direction of these sums), but never two that were on screen
together. All that is kept is bounded, however long the films are.

Legend: D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.protocols import Face
from trackers.evidence import Evidence
from trackers.references import ReferenceConfig, ReferenceSet, View, cosine

_OVERLAP = 0.15
"""Share of two faces' common area from which they may be one that moved."""
_LINK, _LINK_OVER_CUT = 0.3, 0.4
"""Cosine similarity from which such faces are one, and where the picture changed so much that it may be another shot:
on labelled clips 98 % of the pairs of one person reach the second, and 2 % of those of two."""
_KEPT = 0.9
"""Share of the most appearances that is left when the least known are forgotten."""


@dataclass(frozen=True, slots=True)
class GroupingConfig:
    """How faces are grouped into people."""

    min_similarity: float = 0.5
    """Cosine similarity from which two appearances are one person's."""
    doubt: float = 0.2
    """Share of the way from there to 1 that is asked for on top of an appearance that says nothing of who it is."""
    sure: float = 3.0
    """Length of an appearance's sum, measured by that of a clear view, from which nothing more is asked for."""
    min_evidence: float = 1.0
    """Length of an appearance's sum, measured by that of a clear view, below which nobody can say who it is."""
    most: int = 240
    """Appearances that are remembered; of more, the least known are forgotten."""
    views: int = 6
    """Best views that are kept of each, and of each person."""

    def __post_init__(self) -> None:
        if not -1 < self.min_similarity < 1:
            raise ValueError(f"min_similarity must be in (-1, 1), got {self.min_similarity}")
        if self.min_evidence < 0 or self.doubt < 0 or self.sure <= 0:
            raise ValueError("min_evidence and doubt must not be negative, and sure must be positive")
        if self.most < 2 or self.views < 1:
            raise ValueError(
                f"most must be at least 2 and views at least 1, got {self.most} and {self.views}"
            )


@dataclass(frozen=True, slots=True)
class Span:
    """Seconds of one film, both ends included."""

    film: int
    start: float
    end: float


@dataclass(frozen=True, slots=True, eq=False)
class Glimpse:
    """A face of a frame that was looked at."""

    face: Face
    """With its embedding."""
    decides: bool
    """Seen from the front far enough to say who it is."""


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A kept view and its picture."""

    view: View
    """Its crop may be small: it serves for comparing."""
    picture: bytes
    """The file of the picture."""
    film: int
    seconds: float
    eye_px: float
    """Distance of the eyes in the film."""
    look: NDArray[np.float32]
    """float32 (D,), raw: the sum over the appearance that the view is of, while that is known."""


@dataclass(slots=True, eq=False)
class Appearance:
    """One person over a stretch of a film, and later over all of them; owned by `Appearances`."""

    total: NDArray[np.float32]
    """float32 (D,), raw: sum of the views that decide."""
    numbers: set[int]
    """Its own, and those of the appearances that it was joined of."""
    beside: set[int]
    """Numbers of those that were on screen at the same time: they are other people."""
    references: ReferenceSet
    spans: list[Span]
    last: Face
    samples: int = 0
    """Frames of those looked at in which the person is."""
    portraits: dict[str, Portrait] = field(default_factory=dict)
    """By the view's source."""

    def offer(
        self, view: View, picture: Callable[[], bytes], film: int, seconds: float, eye_px: float
    ) -> None:
        """Keeps `view`, with what `picture` makes, if it is one of the best."""
        if self.references.offer(view):
            self.portraits[str(view.source)] = Portrait(
                view, picture(), film, seconds, eye_px, np.zeros_like(self.total)
            )
            self._forget_pictures()

    def best(self) -> list[Portrait]:
        """The kept views, best first."""
        return [self.portraits[str(view.source)] for view in self.references.views]

    def close(self) -> None:
        """The appearance is over: each view knows how the person looked in it."""
        self.portraits = {
            name: Portrait(p.view, p.picture, p.film, p.seconds, p.eye_px, self.total)
            for name, p in self.portraits.items()
        }

    def is_beside(self, other: Appearance) -> bool:
        """Whether both were on screen at the same time: they are two people."""
        return not self.numbers.isdisjoint(other.beside)

    def join(self, other: Appearance) -> None:
        """Takes in another appearance of the same person."""
        self.total = self.total + other.total
        self.numbers |= other.numbers
        self.beside |= other.beside
        self.spans = sorted([*self.spans, *other.spans], key=lambda span: (span.film, span.start))
        self.samples += other.samples
        self.portraits |= other.portraits
        for view in other.references.views:
            self.references.offer(view)
        self._forget_pictures()

    def _forget_pictures(self) -> None:
        kept = {str(view.source) for view in self.references.views}
        self.portraits = {name: p for name, p in self.portraits.items() if name in kept}


class Appearances:
    """Gathers faces frame by frame. One owner; not for several threads."""

    def __init__(self, config: GroupingConfig, evidence: Evidence) -> None:
        self.config = config
        self._evidence = evidence
        self._living: list[Appearance] = []
        self._ended: list[Appearance] = []
        self._next = 0
        self.unclear = 0
        """Appearances that were dropped, as there were too many, or of which `people` could not say whose they are."""

    def see(
        self, film: int, seconds: float, glimpses: Sequence[Glimpse], *, most_apart: float, is_cut: bool
    ) -> list[Appearance]:
        """The appearance of each face of the next frame that was looked at.

        `most_apart`: seconds since a face was seen after which it comes back as a new appearance. `is_cut`: the frame
        may begin a new shot, so that the same place says less.
        """
        self._end(lambda each: each.spans[-1].film != film or seconds - each.spans[-1].end > most_apart)
        found: list[Appearance | None] = [None] * len(glimpses)
        for number, each in self._pairs(glimpses, _LINK_OVER_CUT if is_cut else _LINK):
            if found[number] is None and not any(other is each for other in found):
                found[number] = each
        seen = [
            self._seen(each, film, seconds, glimpse) for each, glimpse in zip(found, glimpses, strict=True)
        ]
        for each in seen:
            for other in seen:
                each.beside |= other.numbers if other is not each else set()
        return seen

    def people(self) -> list[Appearance]:
        """Everybody who can be told from the others, longest on screen first; ends all appearances."""
        self._end(lambda each: True)
        self._join_alike()
        known = [each for each in self._ended if self._evidence.of(each.total) >= self.config.min_evidence]
        known = [each for each in known if each.portraits]
        self.unclear += len(self._ended) - len(known)
        self._ended = known
        return sorted(known, key=lambda each: -each.samples)

    def _pairs(self, glimpses: Sequence[Glimpse], least: float) -> list[tuple[int, Appearance]]:
        """Which face may continue which appearance, the best first."""
        rated = []
        for number, glimpse in enumerate(glimpses):
            for place, each in enumerate(self._living):
                shared = _overlap(each.last.box, glimpse.face.box)
                alike = max(_alike(each.last, glimpse.face), _cosine(each.total, glimpse.face))
                if shared > _OVERLAP and alike > least:
                    rated.append((shared + alike, number, place))
        return [(number, self._living[place]) for _, number, place in sorted(rated, reverse=True)]

    def _seen(self, each: Appearance | None, film: int, seconds: float, glimpse: Glimpse) -> Appearance:
        embedding = glimpse.face.embedding
        assert embedding is not None
        if each is None:
            references = ReferenceConfig(
                capacity=self.config.views, min_similarity=self.config.min_similarity / 2
            )
            span = Span(film, seconds, seconds)
            each = Appearance(
                np.zeros_like(embedding), {self._next}, set(), ReferenceSet(references), [span], glimpse.face
            )
            self._living.append(each)
            self._next += 1
        each.last = glimpse.face
        each.samples += 1
        each.spans[-1] = Span(film, each.spans[-1].start, seconds)
        if glimpse.decides:
            self._evidence.note(embedding)
            each.total = each.total + embedding
        return each

    def _end(self, is_over: Callable[[Appearance], bool]) -> None:
        over = [each for each in self._living if is_over(each)]
        self._living = [each for each in self._living if not any(each is other for other in over)]
        for each in over:
            each.close()
        self._ended += over
        if len(self._ended) > self.config.most:
            self._join_alike()
        if len(self._ended) > self.config.most:
            ranked = sorted(self._ended, key=lambda each: -float(np.linalg.norm(each.total)))
            kept = int(_KEPT * self.config.most)
            self._ended, self.unclear = ranked[:kept], self.unclear + len(ranked) - kept

    def _join_alike(self) -> None:
        """Joins ended appearances, the most alike first, until no two are alike that may be one person's."""
        # What says little of who it is takes no part: it would be like anybody.
        clear = [
            each for each in self._ended if self._evidence.of(each.total) >= self.config.min_evidence / 2
        ]
        while (pair := self._most_alike(clear)) is not None:
            kept, gone = pair
            kept.join(gone)
            clear = [each for each in clear if each is not gone]
            self._ended = [each for each in self._ended if each is not gone]

    def _most_alike(self, appearances: Sequence[Appearance]) -> tuple[Appearance, Appearance] | None:
        if len(appearances) < 2:
            return None
        totals = np.stack([each.total for each in appearances])
        units = totals / np.linalg.norm(totals, axis=1, keepdims=True).clip(1e-6)
        known = np.array([self._evidence.of(each.total) for each in appearances])
        doubts = self.config.doubt * (1 - self.config.min_similarity) * (1 - known / self.config.sure).clip(0)
        # Of two, the one that says less decides how much is asked for.
        above = units @ units.T - self.config.min_similarity - np.maximum(doubts[:, None], doubts)
        above[np.tril_indices(len(above))] = -1
        for place in np.argsort(-above, axis=None, kind="stable"):
            first, second = np.unravel_index(place, above.shape)
            if above[first, second] < 0:
                return None
            if not appearances[first].is_beside(appearances[second]):
                return appearances[first], appearances[second]
        return None


def _alike(a: Face, b: Face) -> float:
    return _cosine(a.embedding, b) if a.embedding is not None else 0.0


def _cosine(total: NDArray[np.float32], face: Face) -> float:
    return cosine(total, face.embedding) if face.embedding is not None else 0.0


def _overlap(a: NDArray[np.float32], b: NDArray[np.float32]) -> float:
    """Intersection over union of two boxes (4,)."""
    sides = np.clip(np.minimum(a[2:], b[2:]) - np.maximum(a[:2], b[:2]), 0, None)
    shared = float(sides.prod())
    areas = float((a[2:] - a[:2]).prod() + (b[2:] - b[:2]).prod())
    return shared / (areas - shared) if areas > shared else 0.0
