"""The people of a video: the person behind each track, over cuts and absences, and each person's reference set.

Legend: D width of an embedding.
"""

from __future__ import annotations

from collections.abc import Sequence, Set
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray

from trackers.references import Evidence, ReferenceConfig, ReferenceSet, View, cosine


@dataclass(frozen=True, slots=True, eq=False)
class Acquaintance:
    """A named person, known from a gallery or an earlier pass over the film."""

    name: str
    """Unique among the people of a run."""
    looks: tuple[NDArray[np.float32], ...]
    """float32 (D,) each, raw: the person in different shots; similarity to one of them is enough."""
    views: tuple[View, ...] = ()
    """Of earlier scenes or passes; better ones of the film replace them."""
    photos: tuple[View, ...] = ()
    """Of the user; never replaced."""

    def __post_init__(self) -> None:
        if not self.looks:
            raise ValueError(f"{self.name!r} needs at least one look")


@dataclass(frozen=True, slots=True)
class PeopleConfig:
    """Settings of the identification of people."""

    min_similarity: float = 0.45
    """Cosine similarity with a person's mean from which a track is that person (the recogniser's `same_person`)."""
    doubt: float = 0.1
    """Range below `min_similarity` in which a new person needs twice the evidence."""
    min_evidence: float = 0.55
    """Norm of an embedding, relative to a clear view, below which it identifies nobody."""
    guess: float = 0.15
    """Range below `min_similarity` in which an unclear face is taken for a person given by photo or name."""
    merge_margin: float = 0.15
    """Similarity above `min_similarity` at which two people are merged."""
    merge_views: float = 4.0
    """Minimum evidence of each of them, in clear views."""
    max_people: int = 200
    """Maximum people remembered; beyond it the one with the least evidence is forgotten, never one with photos."""
    memory_views: float = 50.0
    """Evidence, in clear views, from which a person's mean decays."""
    references: ReferenceConfig = field(default_factory=ReferenceConfig)
    """Settings of each person's reference set."""

    def __post_init__(self) -> None:
        if not -1 < self.min_similarity < 1:
            raise ValueError(f"min_similarity must be in (-1, 1), got {self.min_similarity}")
        if min(self.doubt, self.min_evidence, self.merge_margin, self.guess) < 0:
            raise ValueError("doubt, min_evidence, merge_margin and guess must not be negative")
        if self.max_people < 1:
            raise ValueError(f"max_people must be at least 1, got {self.max_people}")
        if self.merge_views <= 0 or self.memory_views < 1:
            raise ValueError("merge_views must be positive and memory_views at least 1")


class People:
    """Recognises people by their embeddings. One owner; not thread-safe.

    A person's mean is a decayed sum of raw embeddings: an unclear view has a short one and weighs little.
    `clear_norm`: see `Evidence`.
    """

    def __init__(self, config: PeopleConfig | None = None, clear_norm: float = 0.0) -> None:
        self.config = config or PeopleConfig()
        self._measure = Evidence(clear_norm)
        self._people: dict[int, _Person] = {}
        self._next_id = 0
        self._merged: dict[int, int] = {}

    def __len__(self) -> int:
        """People known, including people from photos who were not seen."""
        return len(self._people)

    def __contains__(self, person_id: object) -> bool:
        """Whether this id is in use; ids of merged people are not."""
        return person_id in self._people

    def current(self, person_id: int) -> int | None:
        """The present id of the person formerly `person_id`; None = forgotten."""
        while person_id in self._merged:
            person_id = self._merged[person_id]
        return person_id if person_id in self._people else None

    def identify(self, embedding: NDArray[np.float32], exclude: Set[int] = frozenset()) -> int | None:
        """The person of `embedding`: a known one, a new one, or None while the evidence is too weak.

        `embedding`: float32 (D,), raw, of a new track; on later calls, preferably the sum so far. `exclude`: people
        visible beside this track.
        """
        evidence = self._measure.of(embedding)
        if evidence <= 0 or evidence < self.config.min_evidence:
            return None
        similarities = {
            number: person.likeness(embedding)
            for number, person in self._people.items()
            if number not in exclude
        }
        best = max(similarities, key=lambda number: similarities[number], default=-1)
        similarity = similarities.get(best, -1.0)
        if similarity >= self.config.min_similarity:
            self._apart(best, exclude)
            return best
        doubtful = similarity >= self.config.min_similarity - self.config.doubt
        if doubtful and evidence < 2 * self.config.min_evidence:
            return None
        new = self._add(_Person(np.zeros_like(embedding), 0.0, ReferenceSet(self.config.references)))
        self.observe(new, embedding)
        self._apart(new, exclude)
        return new

    def guess(self, embedding: NDArray[np.float32], exclude: Set[int] = frozenset()) -> int | None:
        """The person given by photo or name whom a face too unclear for `identify` resembles; None = nobody.

        `embedding`: float32 (D,), raw, preferably the sum of all views of the track. `exclude`: people visible beside
        it. Of several people given, one must be `doubt` ahead of the others.
        """
        given = {number: p.likeness(embedding) for number, p in self._people.items() if p.is_given}
        ranked = sorted(
            ((like, number) for number, like in given.items() if number not in exclude), reverse=True
        )
        if not ranked or ranked[0][0] < self.config.min_similarity - self.config.guess:
            return None
        if len(ranked) > 1 and ranked[0][0] - ranked[1][0] < self.config.doubt:
            return None
        return ranked[0][1]

    def observe(self, person_id: int, embedding: NDArray[np.float32]) -> int:
        """Adds a view, raw `embedding` (D,), to a person's mean.

        Returns the person's id from now on: after a merge the older of the two.
        """
        person = self._person(person_id)
        self._measure.note(embedding)
        keep = min(1.0, self.config.memory_views / (person.views + 1))
        person.mean = person.mean * keep + embedding
        person.views = person.views * keep + self._measure.of(embedding)
        for other_id in self._people:
            if other_id != person_id and self._same(person_id, other_id):
                return self._merge(min(person_id, other_id), max(person_id, other_id))
        return person_id

    def references(self, person_id: int) -> ReferenceSet:
        """The reference set of a person; the caller may offer views to it."""
        return self._person(person_id).references

    def photos(self) -> dict[int, str]:
        """People registered by photos and the name of one photo each, without those of `acquaint`."""
        unnamed = {number: person for number, person in self._people.items() if not person.name}
        pinned = {n: [view for view in p.references.views if view.pinned] for n, p in unnamed.items()}
        return {number: str(views[0].source) for number, views in pinned.items() if views}

    def add_photo_person(self, views: Sequence[View]) -> int:
        """Registers photos of one person as pinned views, or adds them to a registered person. Returns the id."""
        if not views:
            raise ValueError("a person needs at least one photo")
        pinned = [replace(view, pinned=True) for view in views]
        total = np.stack([view.embedding for view in pinned]).sum(0)
        for view in pinned:
            self._measure.note(view.embedding)
        for number, person in self._people.items():
            if person.likeness(total) >= self.config.min_similarity:
                person.mean, person.views = person.mean + total, person.views + len(pinned)
                person.references.pin(pinned)
                return number
        # Photos are evidence enough for a merge.
        views_worth = max(float(len(pinned)), self.config.merge_views)
        return self._add(_Person(total, views_worth, ReferenceSet(self.config.references, pinned)))

    def add_known_person(self, views: Sequence[View]) -> int:
        """Registers replaceable views of one person from an earlier run. Returns the id."""
        total = np.stack([view.embedding for view in views]).sum(0)
        person = _Person(total, self.config.merge_views, ReferenceSet(self.config.references))
        for view in views:
            person.references.offer(replace(view, pinned=False))
        return self._add(person)

    def acquaint(self, somebody: Acquaintance) -> int:
        """Registers a named person, who is never forgotten and never merged with another named one. Returns the id."""
        # The looks are sums of many views, so they are no measure.
        for view in (*somebody.views, *somebody.photos):
            self._measure.note(view.embedding)
        references = ReferenceSet(self.config.references, [replace(v, pinned=True) for v in somebody.photos])
        for view in sorted(somebody.views, key=lambda view: -view.quality):
            references.offer(view)
        total = np.asarray(np.sum(somebody.looks, axis=0), np.float32)
        views = max(self._measure.of(total), self.config.merge_views)
        return self._add(_Person(total, views, references, looks=somebody.looks, name=somebody.name))

    def name_of(self, person_id: int) -> str:
        """The name given to `acquaint`; empty for other people."""
        return self._person(person_id).name

    def is_clear(self, embedding: NDArray[np.float32]) -> bool:
        """Whether the raw `embedding` of a single view is enough to identify the person."""
        return self._measure.of(embedding) >= self.config.min_evidence

    def _add(self, person: _Person) -> int:
        if len(self._people) >= self.config.max_people:
            self._forget()
        self._people[self._next_id] = person
        self._next_id += 1
        return self._next_id - 1

    def _forget(self) -> None:
        # Photos and names come from the user, so they are kept.
        rolling = [number for number, person in self._people.items() if not person.is_given]
        if rolling:
            del self._people[min(rolling, key=lambda number: self._people[number].views)]

    def _person(self, person_id: int) -> _Person:
        if person_id not in self._people:
            raise KeyError(f"no person {person_id}; known: {sorted(self._people)}")
        return self._people[person_id]

    def _apart(self, person_id: int, visible: Set[int]) -> None:
        """Marks people seen side by side: they are never merged."""
        for other in visible & self._people.keys():
            self._people[other].beside.add(person_id)
            self._people[person_id].beside.add(other)

    def _same(self, a: int, b: int) -> bool:
        first, second = self._people[a], self._people[b]
        if first.name and second.name:
            return False
        if b in first.beside or min(first.views, second.views) < self.config.merge_views:
            return False
        return cosine(first.mean, second.mean) >= self.config.min_similarity + self.config.merge_margin

    def _merge(self, kept_id: int, gone_id: int) -> int:
        kept, gone = self._people[kept_id], self._people.pop(gone_id)
        self._merged[gone_id] = kept_id
        kept.mean, kept.views = kept.mean + gone.mean, kept.views + gone.views
        kept.looks, kept.name = kept.looks + gone.looks, kept.name or gone.name
        for other in gone.beside & self._people.keys():
            self._people[other].beside.add(kept_id)
            kept.beside.add(other)
        if pinned := [view for view in gone.references.views if view.pinned]:
            kept.references.pin(pinned)
        for view in gone.references.views:
            if not view.pinned:
                kept.references.offer(view)
        return kept_id


@dataclass(slots=True, eq=False)
class _Person:
    mean: NDArray[np.float32]
    views: float
    references: ReferenceSet
    beside: set[int] = field(default_factory=set)
    looks: tuple[NDArray[np.float32], ...] = ()
    name: str = ""

    @property
    def is_given(self) -> bool:
        """Whether the user gave this person by photo or name."""
        return bool(self.name) or any(view.pinned for view in self.references.views)

    def likeness(self, embedding: NDArray[np.float32]) -> float:
        """Cosine to the mean or to the most similar look."""
        return max(cosine(look, embedding) for look in (self.mean, *self.looks))
