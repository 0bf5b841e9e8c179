"""What a run did, counted while it runs and told at its end."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from pipeline.frames import RestoredFrame


@dataclass(slots=True)
class Report:
    """Counts of one run; owned by the thread that called it."""

    output: str = ""
    """Where the result is."""
    uses_references: bool = True
    """Whether the restorer looks at the references it is given."""
    frames: int = 0
    """Frames written."""
    faces: int = 0
    """Faces followed, counted per frame."""
    restored: int = 0
    """Faces restored, counted per frame."""
    origins: Counter[str] = field(default_factory=Counter)
    """Restored faces by what gave them: network, carried, still."""
    passed: Counter[str] = field(default_factory=Counter)
    """Faces left as they were, by reason."""
    people: set[int] = field(default_factory=set)
    """Ids of the persons seen."""
    tracks: set[int] = field(default_factory=set)
    """Ids of the tracks seen (continuous appearances of a person)."""
    references: Counter[int] = field(default_factory=Counter)
    """Restored faces by the number of references they were restored with; 0 where the restorer ignores them."""
    seconds: float = 0.0
    """Wall-clock time of the run."""
    stage_seconds: dict[str, float] = field(default_factory=dict)
    """Time each stage worked; stages run beside each other, so the sum can exceed `seconds`."""
    warnings: list[str] = field(default_factory=list)
    """What the user should know, a sentence each."""
    damage: list[str] = field(default_factory=list)
    """What of the input was lost, a sentence each; empty for a sound file."""

    def add(self, frame: RestoredFrame) -> None:
        """Counts one frame that was written."""
        self.frames += 1
        self.origins.update(face.origin for face in frame.faces)
        restored = {face.tracked.track_id for face in frame.faces}
        for face in frame.tracked.faces:
            self.faces += 1
            self.tracks.add(face.track_id)
            if face.person_id is not None:
                self.people.add(face.person_id)
            if face.track_id in restored:
                self.restored += 1
                self.references[len(face.references) if self.uses_references else 0] += 1
            else:
                self.passed[face.reason or "not asked for"] += 1

    @property
    def stage_ms(self) -> dict[str, float]:
        """Milliseconds per frame of each stage."""
        return {name: 1000 * spent / max(self.frames, 1) for name, spent in self.stage_seconds.items()}

    def summary(self) -> str:
        """A few lines for a person."""
        rate = self.frames / self.seconds if self.seconds else 0.0
        with_references = f"{self.restored - self.references[0]} with references"
        lines = [
            f"{self.frames} frames in {self.seconds:.1f} s ({rate:.1f} frames per second)",
            f"people: {len(self.people)}, tracks: {len(self.tracks)}",
            f"faces restored: {self.restored} ({with_references if self.uses_references else 'references not used'}; "
            f"{self.origins['network']} by the network, {self.restored - self.origins['network']} carried over), "
            f"passed through: {sum(self.passed.values())}" + _reasons(self.passed),
            "ms per frame: " + ", ".join(f"{name} {ms:.1f}" for name, ms in self.stage_ms.items()),
        ]
        lines += [f"warning: {sentence}" for sentence in self.warnings]
        lines += [f"damaged input: {sentence}" for sentence in self.damage]
        lines.append(f"output: {self.output}")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "output": self.output,
            "frames": self.frames,
            "faces": self.faces,
            "restored": self.restored,
            "origins": dict(self.origins),
            "passed": dict(self.passed),
            "people": sorted(self.people),
            "tracks": len(self.tracks),
            "references": {str(count): faces for count, faces in sorted(self.references.items())},
            "seconds": round(self.seconds, 3),
            "stage_ms": {name: round(ms, 3) for name, ms in self.stage_ms.items()},
            "warnings": self.warnings,
            "damage": self.damage,
        }


def _reasons(passed: Counter[str]) -> str:
    if not passed:
        return ""
    return " (" + ", ".join(f"{reason} {count}" for reason, count in passed.most_common()) + ")"
