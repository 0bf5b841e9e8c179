"""The first pass over a film: tracks the faces, cuts the film into chunks, and stores the tracked faces of each.

References accumulate over the film, so those of a face depend on all earlier frames. This pass sees the film once, like
an uninterrupted run; afterwards chunks can be restored in any order and in any process.

Legend: F frames, N faces, E embeddings, V reference sets, R all their views, C distinct views, S side of a crop,
D width of an embedding.
"""

from __future__ import annotations

import io
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray

from models.protocols import Face, References
from pipeline.config import PipelineConfig
from pipeline.flow import Parts, Watch
from pipeline.frames import Detail, Frame, TrackedFace, TrackedFrame
from pipeline.media.coding import planes_of
from pipeline.media.files import WorkFolder
from pipeline.media.source import FileSource
from pipeline.report.counts import Report
from pipeline.stages.threads import Stages
from pipeline.stages.track import NO_CROP, track


@dataclass(frozen=True, slots=True)
class Chunk:
    """A range of the film that is restored as a unit."""

    number: int
    first: int
    """Index of its first frame."""
    frames: int
    continues: bool
    """Its first shot began in the chunk before, whose final state it needs."""
    tracks: str
    """sha256 of its tracked faces."""

    @property
    def tracks_name(self) -> str:
        """File of its tracked faces."""
        return f"{self.number:05d}.tracks.npz"


@dataclass(frozen=True, slots=True)
class Plan:
    """Result of the first pass."""

    chunks: tuple[Chunk, ...]
    people: list[tuple[int, int]]
    """Ids of the people seen, each with its id at the end, after merges."""
    strangers: list[str]
    """Names of photos whose person was not seen."""
    damage: list[str]
    warnings: list[str]

    @property
    def seekable(self) -> bool:
        """Whether frames may be reached by seeking: with damage the decoded frames depend on the start."""
        return not self.damage

    def goes_on(self, chunk: Chunk) -> bool:
        """Whether the last shot of `chunk` continues in the next one."""
        return chunk.number + 1 < len(self.chunks) and self.chunks[chunk.number + 1].continues

    def scenes(self) -> Iterator[list[Chunk]]:
        """Groups of chunks that must be restored in order."""
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
    """Tracks the faces of `source` and stores them in `folder`, chunk by chunk; `watch` gets the people so far."""
    seen = Report()
    chunks: list[Chunk] = []
    with Stages(config.depth) as stages:
        frames: Iterable[Frame] = stages.start("decode", source)
        tracked = stages.start("track", track(frames, parts.perception, config.track, crops=False))
        for writer, continues in _cut(_watched(tracked, seen, watch), _least_frames(source, config)):
            number = len(chunks)
            chunk = Chunk(number, sum(c.frames for c in chunks), len(writer), continues, "")
            chunks.append(replace(chunk, tracks=folder.write(chunk.tracks_name, writer.to_bytes())))
    people = parts.perception.people
    current = [(person, now) for person in sorted(seen.people) if (now := people.current(person)) is not None]
    known = {now for _, now in current}
    strangers = [name for person, name in people.photos().items() if person not in known]
    return Plan(tuple(chunks), current, strangers, list(source.damage), list(source.warnings))


def _least_frames(source: FileSource, config: PipelineConfig) -> int:
    # At least two frames: adjacent key frames of two encoders could be taken for one picture.
    return max(2, round(config.chunks.seconds * source.info.average_rate))


def _watched(frames: Iterable[TrackedFrame], seen: Report, watch: Watch) -> Iterator[TrackedFrame]:
    for frame in frames:
        for face in frame.faces:
            if face.person_id is not None:
                seen.people.add(face.person_id)
        watch(seen)
        yield frame


def _cut(frames: Iterable[TrackedFrame], least: int) -> Iterator[tuple[TrackWriter, bool]]:
    """Chunks that end at the first cut after `least` frames, or after twice as many; whether each continues a shot."""
    writer, continues, shot = TrackWriter(), False, 0
    for frame in frames:
        is_cut, shot = frame.shot != shot, frame.shot
        if len(writer) >= (least if is_cut else 2 * least):
            yield writer, continues
            writer, continues = TrackWriter(), not is_cut
        writer.add(frame)
    yield writer, continues


_NONE = -1


def checksum(frame: Frame) -> int:
    """CRC-32 of the luma samples."""
    return zlib.crc32(np.ascontiguousarray(planes_of(frame.native)[0]).tobytes())


class TrackWriter:
    """Collects tracked frames, without crops, and serialises them."""

    def __init__(self) -> None:
        self._frames: list[tuple[int, int, bool, int, int]] = []
        self._faces: list[TrackedFace] = []
        self._words: dict[str, int] = {}
        self._sets: dict[int, tuple[int, References]] = {}

    def __len__(self) -> int:
        """Frames collected."""
        return len(self._frames)

    def add(self, tracked: TrackedFrame) -> None:
        """Adds the next frame."""
        frame = tracked.frame
        self._frames.append(
            (frame.pts, checksum(frame), tracked.monochrome, tracked.shot, len(tracked.faces))
        )
        for face in tracked.faces:
            for word in (face.reason, face.restorer, face.name):
                self._words.setdefault(word, len(self._words))
            if len(face.references):
                self._sets.setdefault(id(face.references), (len(self._sets), face.references))
            self._faces.append(face)

    def to_bytes(self) -> bytes:
        """An .npz file without pickled parts."""
        faces = self._faces
        embeddings = [face.face.embedding for face in faces if face.face.embedding is not None]
        numbers = iter(range(len(embeddings)))
        content = io.BytesIO()
        np.savez(
            content,
            frames=np.array(self._frames, np.int64).reshape(-1, 5),
            track=np.array([face.track_id for face in faces], np.int64),
            person=np.array([_NONE if f.person_id is None else f.person_id for f in faces], np.int64),
            box=_stacked([face.face.box for face in faces], (4,)),
            landmarks=_stacked([face.face.landmarks for face in faces], (5, 2)),
            score=np.array([face.face.score for face in faces], np.float64),
            embedding=np.array(
                [_NONE if f.face.embedding is None else next(numbers) for f in faces], np.int64
            ),
            embeddings=_stacked(embeddings, (0,)),
            matrix=_stacked([face.matrix for face in faces], (2, 3)),
            references=np.array([self._set_of(face.references) for face in faces], np.int64),
            strength=np.array([face.strength for face in faces], np.float64),
            detail=np.array([(f.detail.fine, f.detail.grain) for f in faces], np.float64).reshape(-1, 2),
            reason=np.array([self._words[face.reason] for face in faces], np.int64),
            restorer=np.array([self._words[face.restorer] for face in faces], np.int64),
            name=np.array([self._words[face.name] for face in faces], np.int64),
            words=np.array(list(self._words), np.str_),
            **self._views(),  # type: ignore[arg-type]
        )
        return content.getvalue()

    def _set_of(self, references: References) -> int:
        return self._sets[id(references)][0] if len(references) else _NONE

    def _views(self) -> dict[str, NDArray[Any]]:
        """The reference sets, with each shared view stored once."""
        sets = [references for _, references in self._sets.values()]
        crops = {id(crop): crop for references in sets for crop in references.crops}
        places = {name: place for place, name in enumerate(crops)}
        return {
            "set_version": np.array([references.version for references in sets], np.int64),
            "set_size": np.array([len(references) for references in sets], np.int64),
            "set_views": np.array([places[id(crop)] for r in sets for crop in r.crops], np.int64),
            "set_sources": np.array([name for r in sets for name in r.sources or [""] * len(r)], np.str_),
            "set_embeddings": _stacked([row for r in sets for row in r.embeddings.numpy()], (0,)),
            "views": np.stack([crop.numpy() for crop in crops.values()])
            if crops
            else np.zeros((0, 3, 0, 0), np.uint8),
        }


class Tracks:
    """Tracked frames of a chunk, from the bytes of a `TrackWriter`."""

    def __init__(self, content: bytes) -> None:
        with np.load(io.BytesIO(content), allow_pickle=False) as file:
            self._values: dict[str, NDArray[Any]] = dict(file)
        self._ends = np.cumsum(self._values["frames"][:, 4])
        self._sets = self._reference_sets()

    def __len__(self) -> int:
        """Frames."""
        return len(self._ends)

    def pts(self, place: int) -> int:
        """Time in ticks of the frame at `place` in the chunk."""
        return int(self._values["frames"][place, 0])

    def shows(self, place: int, frame: Frame) -> bool:
        """Whether `frame` has the time and the luma of the frame at `place`."""
        pts, luma = self._values["frames"][place, :2]
        return bool(frame.pts == pts and checksum(frame) == luma)

    def tracked(self, place: int, frame: Frame) -> TrackedFrame:
        """`frame` with its faces, whose crops are empty; `place`: its place in the chunk."""
        row = self._values["frames"][place]
        end = int(self._ends[place])
        faces = [self._face(number) for number in range(end - int(row[4]), end)]
        return TrackedFrame(frame, tuple(faces), monochrome=bool(row[2]), shot=int(row[3]))

    def _face(self, number: int) -> TrackedFace:
        values = {name: self._values[name][number] for name in _OF_FACE}
        matrix, strength, person = values["matrix"], float(values["strength"]), int(values["person"])
        at = int(values["embedding"])
        embedding = None if at == _NONE else self._values["embeddings"][at]
        return TrackedFace(
            track_id=int(values["track"]),
            person_id=None if person == _NONE else person,
            face=Face(values["box"], values["landmarks"], float(values["score"]), embedding),
            crop=NO_CROP,
            matrix=matrix,
            references=self._sets[int(values["references"])],
            strength=strength,
            reason=str(self._values["words"][values["reason"]]),
            restorer=str(self._values["words"][values["restorer"]]),
            name=str(self._values["words"][values["name"]]),
            detail=Detail(*map(float, values["detail"])),
        )

    def _reference_sets(self) -> dict[int, References]:
        values = self._values
        views = [torch.from_numpy(view) for view in values["views"]]
        sets, start = {_NONE: References()}, 0
        for number, (version, size) in enumerate(zip(values["set_version"], values["set_size"], strict=True)):
            rows = slice(start, start + int(size))
            crops = tuple(views[place] for place in values["set_views"][rows])
            embeddings = torch.from_numpy(values["set_embeddings"][rows].copy())
            sources = tuple(map(str, values["set_sources"][rows]))
            sets[number], start = References(crops, embeddings, int(version), sources), rows.stop
        return sets


_OF_FACE = (
    "track", "person", "box", "landmarks", "score", "embedding", "matrix", "references", "strength", "reason",
    "restorer", "name", "detail",
)  # fmt: skip


def _stacked(rows: list[NDArray[np.float32]], empty: tuple[int, ...]) -> NDArray[np.float32]:
    return np.stack(rows).astype(np.float32) if rows else np.zeros((0, *empty), np.float32)
