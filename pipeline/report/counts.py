"""Counts of a run, and their summary."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, fields
from typing import Any, TypeVar

from pipeline.frames import RestoredFace, RestoredFrame

N = TypeVar("N", int, float)


@dataclass(slots=True)
class Report:
    """Counts of one run. Owner: the calling thread."""

    output: str = ""
    """Path of the result."""
    uses_references: bool = True
    """Whether the restorer uses references."""
    frames: int = 0
    """Frames written."""
    kept: int = 0
    """Frames of these that were restored by an earlier run."""
    faces: int = 0
    """Faces tracked, counted per frame."""
    restored: int = 0
    """Faces restored, counted per frame."""
    origins: Counter[str] = field(default_factory=Counter)
    """Restored faces by origin: network, carried, still."""
    passed: Counter[str] = field(default_factory=Counter)
    """Faces not restored, by reason."""
    people: set[int] = field(default_factory=set)
    """Ids of the people seen."""
    names: set[str] = field(default_factory=set)
    """Names of the people seen, if given by the user."""
    tracks: set[int] = field(default_factory=set)
    """Ids of the tracks seen (continuous appearances of a person)."""
    references: Counter[int] = field(default_factory=Counter)
    """Restored faces by number of references; 0 if the restorer ignores them."""
    held_back: int = 0
    """Restored faces that the identity gate weakened or dropped."""
    held_back_fully: int = 0
    """Restored faces that the identity gate dropped."""
    compared: Counter[int] = field(default_factory=Counter)
    """Restored faces with references and measured likeness, by person."""
    likeness_before: dict[int, float] = field(default_factory=dict)
    """Sum of the cosines to the person's references before restoration, by person."""
    likeness_after: dict[int, float] = field(default_factory=dict)
    """The same after restoration, at full strength."""
    processor_seconds: float = 0.0
    """CPU time of all cores without loading networks; 0 if a film is restored in chunks."""
    seconds: float = 0.0
    """Wall-clock time of the run."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Working time of each stage; stages run in parallel, so the sum can exceed `seconds`."""
    warnings: list[str] = field(default_factory=list)
    """One sentence each."""
    damage: list[str] = field(default_factory=list)
    """Losses of the input, one sentence each."""

    def add(self, frame: RestoredFrame) -> None:
        """Counts one written frame."""
        self.frames += 1
        self.origins.update(face.origin for face in frame.faces)
        restored = {face.tracked.track_id for face in frame.faces}
        for done in frame.faces:
            self._add_likeness(done)
        for face in frame.tracked.faces:
            self.faces += 1
            self.tracks.add(face.track_id)
            if face.person_id is not None:
                self.people.add(face.person_id)
            if face.name:
                self.names.add(face.name)
            if face.track_id in restored:
                self.restored += 1
                self.references[len(face.references) if self.uses_references else 0] += 1
            else:
                self.passed[face.reason or "not asked for"] += 1

    def _add_likeness(self, face: RestoredFace) -> None:
        self.held_back += face.allowed < 1
        self.held_back_fully += face.allowed == 0
        person, likeness = face.tracked.person_id, face.likeness
        if person is not None and likeness is not None and len(face.tracked.references):
            self.compared[person] += 1
            self.likeness_before[person] = self.likeness_before.get(person, 0.0) + likeness.before
            self.likeness_after[person] = self.likeness_after.get(person, 0.0) + likeness.after

    def to_json(self) -> dict[str, Any]:
        """All counts, for `add_json`. Keys of mappings need not be strings, so mappings become lists of pairs."""
        found: dict[str, Any] = {}
        for name, value in ((each.name, getattr(self, each.name)) for each in fields(self)):
            if isinstance(value, dict):
                found[name] = [[key, count] for key, count in value.items()]
            elif isinstance(value, set):
                found[name] = sorted(value)
            elif not isinstance(value, str):
                found[name] = value
        return found

    def add_json(self, counts: dict[str, Any]) -> None:
        """Adds the counts of a chunk, as given by `to_json`."""
        for name, value in counts.items():
            known = getattr(self, name)
            if isinstance(known, dict):
                for key, count in value:
                    known[key] = known.get(key, 0) + count
            elif isinstance(known, set):
                known.update(value)
            elif isinstance(known, bool):
                setattr(self, name, known and value)
            else:
                setattr(self, name, known + value)

    def merge_people(self, current: Callable[[int], int | None]) -> None:
        """Joins the counts of merged people; `current` maps an id to the present one, if any."""
        self.people = {now for person in self.people if (now := current(person)) is not None}
        self.compared = Counter(_merged(self.compared, current))
        self.likeness_before = _merged(self.likeness_before, current)
        self.likeness_after = _merged(self.likeness_after, current)

    def missed(self, names: Iterable[str], film: str) -> list[str]:
        """One sentence for each of `names` that was not seen."""
        return [f"{name} was not seen in {film}" for name in names if name not in self.names]

    def likeness(self) -> dict[int, tuple[float, float]]:
        """Mean cosine to the person's references before and after restoration, by person."""
        return {
            person: (self.likeness_before[person] / faces, self.likeness_after[person] / faces)
            for person, faces in sorted(self.compared.items())
        }

    @property
    def stage_ms(self) -> dict[str, float]:
        """Milliseconds per frame of each stage."""
        return {name: 1000 * spent / max(self.frames, 1) for name, spent in self.stage_seconds.items()}

    def summary(self) -> str:
        """A few lines for a person."""
        new = self.frames - self.kept
        # A run that only joined kept frames has no rate.
        rate = f" ({new / self.seconds:.1f} frames per second)" if new and self.seconds else ""
        with_references = f"{self.restored - self.references[0]} with references"
        lines = [
            f"{self.frames} frames in {self.seconds:.1f} s{rate}",
            f"people: {len(self.people)}{_named(self.names)}, tracks: {len(self.tracks)}",
            f"faces restored: {self.restored} ({with_references if self.uses_references else 'references not used'}; "
            f"{self.origins['network']} by the network, {self.restored - self.origins['network']} carried over), "
            f"passed through: {sum(self.passed.values())}" + _reasons(self.passed),
            "ms per frame: " + ", ".join(f"{name} {ms:.1f}" for name, ms in self.stage_ms.items()),
        ]
        if self.held_back:
            lines.append(
                f"identity: {self.held_back} of these faces were held back, {self.held_back_fully} of them fully, "
                "because they no longer resembled the person"
            )
        if self.kept:
            lines.insert(1, f"kept from an earlier run: {self.kept} frames")
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        lines += [f"damaged input: {sentence}" for sentence in self.damage]
        lines.append(f"output: {self.output}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "output": self.output,
            "frames": self.frames,
            "kept": self.kept,
            "faces": self.faces,
            "restored": self.restored,
            "origins": dict(self.origins),
            "passed": dict(self.passed),
            "people": sorted(self.people),
            "names": sorted(self.names),
            "tracks": len(self.tracks),
            "references": {str(count): faces for count, faces in sorted(self.references.items())},
            "held_back": self.held_back,
            "held_back_fully": self.held_back_fully,
            "likeness": {
                str(person): {"before": round(before, 4), "after": round(after, 4)}
                for person, (before, after) in self.likeness().items()
            },
            "seconds": round(self.seconds, 3),
            "processor_seconds": round(self.processor_seconds, 3),
            "stage_ms": {name: round(ms, 3) for name, ms in self.stage_ms.items()},
            "warnings": self.warnings,
            "damage": self.damage,
        }


def _merged(values: Mapping[int, N], current: Callable[[int], int | None]) -> dict[int, N]:
    """`values` by present id, summed per person."""
    merged: dict[int, N] = {}
    for person, value in values.items():
        if (now := current(person)) is not None:
            merged[now] = merged[now] + value if now in merged else value
    return merged


def _named(names: set[str]) -> str:
    return f" ({', '.join(sorted(names))})" if names else ""


def _reasons(passed: Counter[str]) -> str:
    if not passed:
        return ""
    return " (" + ", ".join(f"{reason} {count}" for reason, count in passed.most_common()) + ")"
