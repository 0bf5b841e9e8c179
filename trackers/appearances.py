"""Groups sampled faces into appearances within a shot, and appearances into people over shots and films.

Overlapping, similar faces of successive samples form an appearance. Its raw embeddings are summed, so clear views
weigh more (norm-weighted pooling, IConFace, arXiv 2605.02814). Agglomerative clustering by the direction of these sums
joins appearances, but never two that were on screen together. Memory is bounded.

Legend: D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from models.protocols import Face
from trackers.references import Evidence, ReferenceConfig, ReferenceSet, View, cosine

_OVERLAP = 0.15
"""Intersection over union above which two faces may be one that moved."""
_LINK, _LINK_OVER_CUT = 0.3, 0.4
"""Cosine similarity above which overlapping faces are one: within a shot, and after a possible cut. On labelled clips
98 % of the pairs of one person reach the second, and 2 % of the pairs of two people."""
_KEPT = 0.9
"""Share of the maximum that remains after the least known appearances are dropped."""


@dataclass(frozen=True, slots=True)
class GroupingConfig:
    """How faces are grouped into people. Evidence: length of a summed embedding relative to one clear view."""

    min_similarity: float = 0.5
    """Cosine similarity from which two appearances are one person."""
    doubt: float = 0.2
    """Share of the way from `min_similarity` to 1 that is required on top, for an appearance without evidence."""
    sure: float = 3.0
    """Evidence from which nothing is required on top."""
    min_evidence: float = 1.0
    """Evidence below which an appearance is not identified."""
    most: int = 240
    """Maximum appearances remembered; beyond it the least known are dropped."""
    views: int = 6
    """Maximum best views kept per appearance and per person."""

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
    """A face of a sampled frame."""

    face: Face
    """With its embedding."""
    decides: bool
    """Frontal enough to identify the person."""


@dataclass(frozen=True, slots=True, eq=False)
class Portrait:
    """A kept view and its picture."""

    view: View
    """Its crop may be small: it is only compared."""
    picture: bytes
    """The encoded picture."""
    film: int
    seconds: float
    eye_px: float
    """Distance of the eyes in pixels of the film."""
    look: NDArray[np.float32]
    """float32 (D,), raw: the sum over the view's appearance; zeros until the appearance ends."""


@dataclass(slots=True, eq=False)
class Appearance:
    """One person over a stretch of a film, after joining over all films. Owner: `Appearances`."""

    total: NDArray[np.float32]
    """float32 (D,), raw: sum of the deciding views."""
    numbers: set[int]
    """Its own number and those of the appearances joined into it."""
    beside: set[int]
    """Numbers of the appearances that were on screen at the same time: other people."""
    references: ReferenceSet
    spans: list[Span]
    last: Face
    samples: int = 0
    """Sampled frames that show the person."""
    portraits: dict[str, Portrait] = field(default_factory=dict)
    """By source of the view."""

    def offer(
        self, view: View, picture: Callable[[], bytes], film: int, seconds: float, eye_px: float
    ) -> None:
        """Keeps `view` and the result of `picture()` if it is one of the best."""
        if self.references.offer(view):
            self.portraits[str(view.source)] = Portrait(
                view, picture(), film, seconds, eye_px, np.zeros_like(self.total)
            )
            self._forget_pictures()

    def best(self) -> list[Portrait]:
        """The kept views, best first."""
        return [self.portraits[str(view.source)] for view in self.references.views]

    def close(self) -> None:
        """Ends the appearance: stores its sum as the `look` of each view."""
        self.portraits = {
            name: Portrait(p.view, p.picture, p.film, p.seconds, p.eye_px, self.total)
            for name, p in self.portraits.items()
        }

    def is_beside(self, other: Appearance) -> bool:
        """Whether both were on screen at the same time."""
        return not self.numbers.isdisjoint(other.beside)

    def join(self, other: Appearance) -> None:
        """Adds another appearance of the same person."""
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
    """Collects faces frame by frame. One owner; not thread-safe."""

    def __init__(self, config: GroupingConfig, evidence: Evidence) -> None:
        self.config = config
        self._evidence = evidence
        self._living: list[Appearance] = []
        self._ended: list[Appearance] = []
        self._next = 0
        self.unclear = 0
        """Appearances dropped over the limit, or not identified by `people`."""

    def see(
        self, film: int, seconds: float, glimpses: Sequence[Glimpse], *, most_apart: float, is_cut: bool
    ) -> list[Appearance]:
        """The appearance of each face of the next sampled frame.

        `most_apart`: seconds unseen after which a face starts a new appearance. `is_cut`: the frame may begin a new
        shot, so position is weaker evidence.
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
        """All identified people, longest on screen first; ends all appearances."""
        self._end(lambda each: True)
        self._join_alike()
        known = [each for each in self._ended if self._evidence.of(each.total) >= self.config.min_evidence]
        known = [each for each in known if each.portraits]
        self.unclear += len(self._ended) - len(known)
        self._ended = known
        return sorted(known, key=lambda each: -each.samples)

    def _pairs(self, glimpses: Sequence[Glimpse], least: float) -> list[tuple[int, Appearance]]:
        """Candidate pairs of face and appearance, best first."""
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
        """Joins ended appearances, most similar pair first, until no joinable pair is left."""
        # Appearances with little evidence resemble anybody, so they are left out.
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
        # The one with less evidence sets the threshold of a pair.
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
