"""The first pass over a film: faces are followed to its end, and it is cut into chunks.

References roll over the whole film, so what a face is restored with depends on all that was seen before. This pass
sees it once, as the straight run does; afterwards chunks can be restored in any order and in any process.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

from pipeline.config import PipelineConfig
from pipeline.flow import Parts, Watch
from pipeline.frames import Frame, TrackedFrame
from pipeline.media.files import WorkFolder
from pipeline.media.source import FileSource
from pipeline.report.counts import Report
from pipeline.runs.chunks.tracks import TrackWriter
from pipeline.stages.threads import Stages
from pipeline.stages.track import track


@dataclass(frozen=True, slots=True)
class Chunk:
    """A stretch of the film that is restored in one go."""

    number: int
    first: int
    """Index of its first frame."""
    frames: int
    continues: bool
    """Its first shot began in the chunk before, and needs what that one leaves."""
    tracks: str
    """sha256 of its followed faces."""

    @property
    def tracks_name(self) -> str:
        """File of its followed faces."""
        return f"{self.number:05d}.tracks.npz"


@dataclass(frozen=True, slots=True)
class Plan:
    """What the first pass found out."""

    chunks: tuple[Chunk, ...]
    people: list[tuple[int, int]]
    """Ids of the persons seen, and the id of each at the end: some turned out to be the same."""
    strangers: list[str]
    """Names of the photos whose person was not seen."""
    damage: list[str]
    warnings: list[str]

    @property
    def seekable(self) -> bool:
        """Frames may be reached by seeking: what a decoder makes of damage depends on where it begins."""
        return not self.damage

    def goes_on(self, chunk: Chunk) -> bool:
        """Whether the last shot of `chunk` goes on in the next one."""
        return chunk.number + 1 < len(self.chunks) and self.chunks[chunk.number + 1].continues

    def scenes(self) -> Iterator[list[Chunk]]:
        """Chunks that must be restored one after the other, together."""
        scene: list[Chunk] = []
        for chunk in self.chunks:
            if scene and not chunk.continues:
                yield scene
                scene = []
            scene.append(chunk)
        yield scene

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises TypeError or KeyError for anything else."""
        chunks = tuple(Chunk(**chunk) for chunk in value["chunks"])
        return cls(**{**value, "chunks": chunks, "people": [(int(a), int(b)) for a, b in value["people"]]})


def look(source: FileSource, parts: Parts, config: PipelineConfig, folder: WorkFolder, watch: Watch) -> Plan:
    """Follows the faces of `source` to its end, and keeps them in `folder`, chunk by chunk.

    `watch` hears of the people seen; no frame is written yet.
    """
    seen = Report()
    chunks: list[Chunk] = []
    with Stages(config.depth) as stages:
        frames: Iterable[Frame] = stages.start("decode", source)
        tracked = stages.start("track", track(frames, parts.perception, config.track, crops=False))
        for writer, continues in _cut(_told(tracked, seen, watch), _least_frames(source, config)):
            number = len(chunks)
            chunk = Chunk(number, sum(c.frames for c in chunks), len(writer), continues, "")
            chunks.append(replace(chunk, tracks=folder.write(chunk.tracks_name, writer.to_bytes())))
    people = parts.perception.people
    current = [(person, now) for person in sorted(seen.people) if (now := people.current(person)) is not None]
    known = {now for _, now in current}
    strangers = [name for person, name in people.photos().items() if person not in known]
    return Plan(tuple(chunks), current, strangers, list(source.damage), list(source.warnings))


def _least_frames(source: FileSource, config: PipelineConfig) -> int:
    # Of two frames at least: two encoders' key frames side by side could pass for one picture.
    return max(2, round(config.chunks.seconds * source.info.average_rate))


def _told(frames: Iterable[TrackedFrame], seen: Report, watch: Watch) -> Iterator[TrackedFrame]:
    for frame in frames:
        for face in frame.faces:
            if face.person_id is not None:
                seen.people.add(face.person_id)
        watch(seen)
        yield frame


def _cut(frames: Iterable[TrackedFrame], least: int) -> Iterator[tuple[TrackWriter, bool]]:
    """Chunks that end at the first cut after `least` frames, or after twice as many; and whether each continues a
    shot."""
    writer, continues, shot = TrackWriter(), False, 0
    for frame in frames:
        is_cut, shot = frame.shot != shot, frame.shot
        if len(writer) >= (least if is_cut else 2 * least):
            yield writer, continues
            writer, continues = TrackWriter(), not is_cut
        writer.add(frame)
    yield writer, continues
