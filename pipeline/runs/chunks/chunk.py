"""One chunk, from the film to a file of encoded packets; the files are joined without encoding again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from itertools import islice
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
from av.packet import Packet

from pipeline.config import PipelineConfig
from pipeline.errors import SinkError, SourceError
from pipeline.flow import START, Chain, ChainState, Hooks, Parts, TrackedSource, Watch, keep_after, run
from pipeline.frames import TrackedFrame
from pipeline.media.encode import EncodeConfig, add_encoder, choose_encoding, kept_scheduling, prepare
from pipeline.media.files import WorkFolder
from pipeline.media.layout import frame_size, side_by_side
from pipeline.media.sink import FileSink
from pipeline.media.source import FileSource
from pipeline.report.counts import Report
from pipeline.runs.chunks import carry
from pipeline.runs.chunks.first_pass import Chunk, Plan, Tracks


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """Sizes and times of the packets in a file."""

    name: str
    sha256: str
    time_base: str
    """Seconds per tick, as a fraction."""
    packets: list[tuple[int, int, int, bool]]
    """Bytes, presentation time and duration in ticks, and whether it is a key frame, in decoding order."""

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises TypeError, ValueError or KeyError for anything else."""
        packets = [
            (int(size), int(pts), int(length), bool(key)) for size, pts, length, key in value["packets"]
        ]
        return cls(str(value["name"]), str(value["sha256"]), str(value["time_base"]), packets)


class PacketSink:
    """Encodes frames like a `FileSink` for `output`, into the file `name` of a work folder.

    A context manager; `index` is set when the block ends without an error, else nothing is left. Raises SinkError.
    """

    index: PacketIndex

    def __init__(
        self,
        folder: WorkFolder,
        name: str,
        output: Path,
        source: FileSource,
        encode: EncodeConfig,
        columns: int,
    ) -> None:
        info = source.info
        size = frame_size(
            info.width, info.height, info.rotation, columns=columns, pixel_format=info.pixel_format
        )
        self._folder, self._name, self._info, self._size = folder, name, info, size
        self._encoding = choose_encoding(output, info, *size, encode)
        self._stack = ExitStack()
        self._packets: list[tuple[int, int, int, bool]] = []
        self._digest = hashlib.sha256()
        self._time_base = Fraction(0)

    def __enter__(self) -> Self:
        # Nothing is muxed: the container only decides where headers go, as for the output.
        container = self._stack.enter_context(av.open(io.BytesIO(), "w", format=self._encoding.container))
        self._file = self._stack.enter_context(self._folder.growing(self._name))
        self._stream = add_encoder(container, self._encoding, self._info, *self._size)
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Encodes `native` at time `pts` in ticks of the source's time base; times must increase."""
        self._encode(prepare(native, self._encoding, pts, self._info.time_base))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            self._encode(None)
        base = str(self._time_base)
        self.index = PacketIndex(self._name, self._digest.hexdigest(), base, self._packets)

    def _encode(self, native: av.VideoFrame | None) -> None:
        try:
            with kept_scheduling():
                encoded = self._stream.encode(native)
        except (av.error.FFmpegError, ValueError) as error:
            raise SinkError(
                f"{self._folder.path}: {self._encoding.codec} failed ({str(error).lower()}); try another --codec"
            ) from error
        for packet in encoded:
            assert packet.pts is not None
            content = bytes(packet)
            self._file.write(content)
            self._digest.update(content)
            self._time_base = packet.time_base
            self._packets.append((len(content), packet.pts, packet.duration or 0, packet.is_keyframe))


def join(indexes: Sequence[PacketIndex], folder: WorkFolder, sink: FileSink) -> None:
    """Writes the packets of all chunks in order into `sink`."""
    order = decoding_times([pts for index in indexes for _, pts, _, _ in index.packets])
    times = iter(order)
    for index in indexes:
        for packet in _read(index, folder):
            packet.dts = next(times)
            sink.copy(packet)


def _read(index: PacketIndex, folder: WorkFolder) -> Iterator[Packet[Any]]:
    with (folder.path / index.name).open("rb") as file:
        for size, pts, duration, key in index.packets:
            packet: Packet[Any] = Packet(file.read(size))
            packet.pts, packet.duration, packet.time_base = pts, duration, Fraction(index.time_base)
            packet.is_keyframe = key
            yield packet


def decoding_times(shown: Sequence[int]) -> list[int]:
    """Decoding times for packets with these presentation times, as x264 assigns them.

    The sorted times, shifted so that no packet is presented before it is decoded. Computed for the whole film: with a
    variable frame rate the times of two encoders can overlap.
    """
    ordered = sorted(shown)
    rank = {pts: place for place, pts in enumerate(ordered)}
    delay = max((place - rank[pts] for place, pts in enumerate(shown)), default=0)
    ahead = [pts - (ordered[delay] - ordered[0]) for pts in ordered[:delay]]
    return ahead + ordered[: len(ordered) - delay]


@dataclass(frozen=True, slots=True)
class Done:
    """A finished chunk."""

    index: PacketIndex
    carry: str
    """sha256 of the state for the next chunk; empty if that begins a shot."""
    counts: dict[str, Any]

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return {"index": self.index.as_json(), "carry": self.carry, "counts": self.counts}

    @classmethod
    def from_json(cls, value: Any) -> Self:
        """Raises TypeError, ValueError or KeyError for anything else."""
        return cls(PacketIndex.from_json(value["index"]), str(value["carry"]), dict(value["counts"]))


def finished(chunk: Chunk, folder: WorkFolder) -> Done | None:
    """The record of `chunk` if it is finished and its files are intact."""
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
    """`config` for restoring chunks: the tracked faces already hold their references."""
    return replace(config, input=replace(config.input, references=(), two_passes=False))


class ChunkRunner:
    """Restores chunks of one film with networks loaded once."""

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
        self._chain, self._folder, self._plan = Chain(parts, config), folder, plan

    def run(self, chunk: Chunk, watch: Watch = lambda report: None) -> Done:
        """Restores `chunk` and stores it; if it continues the one before, that must be finished."""
        config, restorer = self._config, self._chain.parts.restorer
        content = self._folder.read(chunk.tracks_name, chunk.tracks)
        if content is None:
            raise SourceError(f"{self._folder.path / chunk.tracks_name}: is damaged; run again with --resume")
        frames = _frames(self._source, chunk, Tracks(content), seek=self._plan.seekable)
        state = self._state_before(chunk) if chunk.continues else START
        report = Report(uses_references=restorer is None or restorer.needs.references)
        columns = 2 if config.output.compare else 1
        name = _name(chunk.number, "packets")
        sink = PacketSink(self._folder, name, self._output, self._source, config.encode, columns)
        with sink:
            arrange = side_by_side if config.output.compare else keep_after
            state = run(TrackedSource(frames), sink, self._chain, Hooks(report, arrange, watch), state)
        left_over = ""
        if self._plan.goes_on(chunk):
            content = carry.to_bytes(state)
            left_over = self._folder.write(_name(chunk.number, "carry.npz"), content)
        done = Done(sink.index, left_over, report.to_json())
        # Last: this file marks the chunk as finished.
        self._folder.write_json(_name(chunk.number, "json"), done.as_json())
        return done

    def _state_before(self, chunk: Chunk) -> ChainState:
        """The state that the chunk before `chunk` left."""
        left = self._folder.read(_name(chunk.number - 1, "carry.npz"))
        if left is None:
            raise SourceError(
                f"{self._folder.path}: chunk {chunk.number - 1} is missing; run again with --resume"
            )
        return carry.from_bytes(left)


def _frames(source: FileSource, chunk: Chunk, tracks: Tracks, *, seek: bool) -> Iterator[TrackedFrame]:
    """The frames of a chunk with their tracked faces, each checked to be the frame of the first pass."""
    first, count, place = chunk.first, chunk.frames, 0
    if seek and first:
        with closing(source.from_frame(first, tracks.pts(0))) as frames:
            for frame in islice(frames, count):
                if not tracks.shows(place, frame):
                    break
                yield tracks.tracked(place, frame)
                place += 1
    if place == count:
        return
    # Some files cannot be sought exactly; from the start they give the same frames as before.
    with closing(iter(source)) as frames:
        for frame in islice(frames, first + place, first + count):
            if not tracks.shows(place, frame):
                break
            yield tracks.tracked(place, frame)
            place += 1
    if place < count:
        raise SourceError(
            f"{source.path}: frame {first + place} differs from the first pass; the file has "
            "changed or its disk fails, so remove the chunks and run again"
        )


def _name(number: int, kind: str) -> str:
    return f"{number:05d}.{kind}"
