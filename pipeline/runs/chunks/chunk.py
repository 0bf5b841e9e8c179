"""One chunk, from the film to encoded packets: the same steps in this process and in others."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any, Self

from models.protocols import uses_references
from pipeline.config import PipelineConfig
from pipeline.errors import SourceError
from pipeline.flow import Parts, Watch, keep_after, run
from pipeline.frames import Frame, TrackedFrame
from pipeline.media.files import WorkFolder
from pipeline.media.layout import side_by_side
from pipeline.media.source import FileSource
from pipeline.pixels.kinds import ReadCrops
from pipeline.report.counts import Report
from pipeline.runs.chunks import carry, counts
from pipeline.runs.chunks.first_pass import Chunk, Plan
from pipeline.runs.chunks.packets import PacketIndex, PacketSink
from pipeline.runs.chunks.tracks import Tracks
from pipeline.stages.gate import Standing
from pipeline.stages.restore import make_reuse


@dataclass(frozen=True, slots=True)
class Done:
    """What is known of a finished chunk."""

    index: PacketIndex
    carry: str
    """sha256 of what it leaves to the next chunk; empty where that begins a shot."""
    counts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return {"index": self.index.as_json(), "carry": self.carry, "counts": self.counts}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises TypeError, ValueError or KeyError for anything else."""
        return cls(PacketIndex.from_json(value["index"]), str(value["carry"]), dict(value["counts"]))


def finished(chunk: Chunk, folder: WorkFolder) -> Done | None:
    """What is known of `chunk` if it is finished and its files are those that were written."""
    try:
        done = Done.from_json(folder.read_json(_name(chunk.number, "json")))
    except (TypeError, ValueError, KeyError):
        return None
    if folder.read(done.index.name, done.index.sha256) is None:
        return None
    if done.carry and folder.read(_name(chunk.number, "carry.npz"), done.carry) is None:
        return None
    return done


def for_chunks(config: PipelineConfig) -> PipelineConfig:
    """`config` for parts that restore chunks: what is known of people is among the followed faces already."""
    return replace(config, input=replace(config.input, references=(), two_passes=False))


class ChunkRunner:
    """Restores chunks of one film; the networks are loaded once."""

    def __init__(
        self,
        source: FileSource,
        output: Path,
        config: PipelineConfig,
        parts: Parts,
        folder: WorkFolder,
        plan: Plan,
    ) -> None:
        self._source, self._output, self._config = source, output, config
        self._parts, self._folder, self._plan = parts, folder, plan

    def run(self, chunk: Chunk, watch: Watch = lambda report: None) -> Done:
        """Restores `chunk` and keeps it; the one before must be finished if `chunk` continues it."""
        config, restorer, gate = self._config, self._parts.restorer, self._parts.gate
        content = self._folder.read(chunk.tracks_name, chunk.tracks)
        if content is None:
            raise SourceError(f"{self._folder.path / chunk.tracks_name}: is damaged; run again with --resume")
        tracks = Tracks(content)
        reuse = make_reuse(config.restore, config.blend.steadiness, restorer)
        standings: dict[int, Standing] = {}
        if chunk.continues:
            left = self._folder.read(_name(chunk.number - 1, "carry.npz"))
            if left is None:
                raise SourceError(
                    f"{self._folder.path}: chunk {chunk.number - 1} is missing; run again with --resume"
                )
            last, standings = carry.from_bytes(left)
            reuse.go_on_from(last)
        if gate is not None:
            gate.go_on_from(standings)
        report = Report(uses_references=restorer is None or uses_references(restorer))
        columns = 2 if config.output.compare else 1
        name = _name(chunk.number, "packets")
        sink = PacketSink(self._folder, name, self._output, self._source, config.encode, columns)
        with sink:
            run(
                _ChunkSource(self._source, chunk, tracks, seek=self._plan.seekable),
                sink,
                self._parts,
                config,
                report=report,
                arrange=side_by_side if config.output.compare else keep_after,
                watch=watch,
                follow=_Follow(
                    tracks,
                    chunk.first,
                    restorer.crop_size if restorer else None,
                    self._parts.pixels.read_crops,
                ),
                reuse=reuse,
            )
        left_over = ""
        if self._plan.goes_on(chunk):
            content = carry.to_bytes(reuse.last, gate.last if gate is not None else {})
            left_over = self._folder.write(_name(chunk.number, "carry.npz"), content)
        done = Done(sink.index, left_over, counts.to_json(report))
        # Last of all: a chunk is finished when this file is there.
        self._folder.write_json(_name(chunk.number, "json"), done.as_json())
        return done


class _ChunkSource:
    """The frames of a chunk, each proven to be the one that was seen in the first pass."""

    live = False

    def __init__(self, source: FileSource, chunk: Chunk, tracks: Tracks, *, seek: bool) -> None:
        self._source, self._chunk, self._tracks, self._seek = source, chunk, tracks, seek

    def __iter__(self) -> Iterator[Frame]:
        first, count, place = self._chunk.first, self._chunk.frames, 0
        if self._seek and first:
            with closing(self._source.from_frame(first, self._tracks.pts(0))) as frames:
                for frame in islice(frames, count):
                    if not self._tracks.shows(place, frame):
                        break
                    yield frame
                    place += 1
        if place == count:
            return
        # Some files cannot be entered everywhere; from their beginning they give what they gave before.
        with closing(iter(self._source)) as frames:
            for frame in islice(frames, first + place, first + count):
                if not self._tracks.shows(place, frame):
                    break
                yield frame
                place += 1
        if place < count:
            raise SourceError(
                f"{self._source.path}: frame {first + place} is not the one that was seen before; the file has "
                "changed or its disk fails, so remove the chunks and run again"
            )


class _Follow:
    """The faces of a chunk in place of looking for them."""

    def __init__(self, tracks: Tracks, first: int, crop_size: int | None, read: ReadCrops) -> None:
        self._tracks, self._first, self._crop_size, self._read = tracks, first, crop_size, read

    def __call__(self, frames: Iterable[Frame]) -> Iterator[TrackedFrame]:
        for frame in frames:
            yield self._tracks.tracked(frame.index - self._first, frame, self._crop_size, self._read)


def _name(number: int, kind: str) -> str:
    return f"{number:05d}.{kind}"
