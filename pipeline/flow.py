"""The whole way of a frame: read this file first.

Source --Frame--> follow --TrackedFrame--> restore --RestoredFrame--> gate --RestoredFrame--> blend --picture--> Sink
                  find, follow,          |  batches over frames and     people stay           paste into the
                  recognise, gather      |  people; some faces are      who they are          decoder's own planes
                  references             |  carried, none flickers
                                         |
TrackedSource --TrackedFrame--> cut -----+
faces of a first pass           crops

ChainState ----------------------------> restore -------------------> gate ----------------> ChainState
the part of the film before                                                                  the part after

Files, chunks, workers, clusters and live pictures run this one `Chain`. `run` takes a source to a sink and gives each
stage a thread: decode, track (follow or cut), restore, gate; the caller's own blends and encodes. Live pictures
(`live/faces.py`) go through the same stages one by one. How much is done for a frame, its `Effort`, travels on it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol, TypeVar

import av

from models.protocols import Masker, Restorer
from pipeline.config import PipelineConfig
from pipeline.frames import Effort, Frame, RestoredFrame, TrackedFace, TrackedFrame
from pipeline.pixels.kinds import Pixels
from pipeline.report.counts import Report
from pipeline.stages.effort import NO_QUICK, Quick, limited
from pipeline.stages.gate import Gate, Standing, gate
from pipeline.stages.perception import Perception
from pipeline.stages.restore import make_neighbours, make_reuse, restore
from pipeline.stages.reuse import Planned
from pipeline.stages.threads import Stages
from pipeline.stages.track import cut, track

T = TypeVar("T")


class Source(Protocol):
    """Gives frames in the order of presentation."""

    live: bool
    """Frames come at their own pace; late ones are dropped."""

    def __iter__(self) -> Iterator[Frame]: ...


@dataclass(frozen=True, slots=True, eq=False)
class TrackedSource:
    """Gives frames whose faces a first pass has followed; their crops are empty."""

    frames: Iterable[TrackedFrame]


class Sink(Protocol):
    """Takes finished pictures in order."""

    def write(self, native: av.VideoFrame, pts: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a chain is made of."""

    perception: Perception
    """Finds, follows and recognises; belongs to this chain alone."""
    restorer: Restorer | None
    """None: faces are found and followed, and nothing is changed."""
    masker: Masker | None = None
    """None: nothing is taken to cover a face."""
    gate: Gate | None = None
    """Remembers how people stand, so it belongs to this chain alone; None: who people are is not compared."""
    pixels: Pixels = field(default_factory=Pixels)
    """Cuts crops out of frames and puts restored faces back; belongs to this chain alone."""
    quick: Quick = NO_QUICK
    """What takes the place of `restorer` for frames with less effort."""


@dataclass(frozen=True, slots=True, eq=False)
class ChainState:
    """All that goes on from one part of a film to the next: what comes later depends on nothing else of before.

    Its keyframes are finished: they are not changed any more. As bytes: `runs/chunks/carry.py`.
    """

    faces: Mapping[int, Planned] = field(default_factory=dict)
    """The faces of the last frame with their keyframes, by track."""
    standings: Mapping[int, Standing] = field(default_factory=dict)
    """How the tracks of the last frame stand with the gate."""
    crops: Mapping[int, TrackedFace] = field(default_factory=dict)
    """The faces of the last frame with the crops before them, by track, where a restorer uses neighbours."""


START = ChainState()
"""Before the first frame of a film, and at a cut."""


class Start(Protocol):
    """Iterates over the items of a stage called `name`, in whichever thread."""

    def __call__(self, name: str, items: Iterable[T], /) -> Iterator[T]: ...


def start_here(name: str, items: Iterable[T]) -> Iterator[T]:
    """Runs a stage in the thread of whoever asks for its items."""
    return iter(items)


class Chain:
    """The stages between source and sink, for one run at a time.

    `follow` (or `cut`), then `restore`, then `blend`. The first half and the second may belong to different threads.
    """

    def __init__(self, parts: Parts, config: PipelineConfig) -> None:
        self.parts, self.config = parts, config
        self.go_on_from(START)

    def go_on_from(self, state: ChainState) -> None:
        """Goes on as after the frame whose `state` this is."""
        config = self.config
        self._reuse = make_reuse(config.restore, config.blend.steadiness, self.parts.restorer)
        self._reuse.go_on_from(dict(state.faces))
        self._neighbours = make_neighbours(config.restore, self.parts.restorer)
        self._neighbours.go_on_from(state.crops)
        if self.parts.gate is not None:
            self.parts.gate.go_on_from(dict(state.standings))

    @property
    def state(self) -> ChainState:
        """What goes on after the last frame that was given to `restore`, once all frames have left it."""
        gate = self.parts.gate
        standings = gate.last if gate is not None else {}
        return ChainState(self._reuse.last, standings, self._neighbours.last)

    def follow(self, frames: Iterable[Frame]) -> Iterator[TrackedFrame]:
        """Finds, follows and recognises the people of `frames`, and gathers their references."""
        parts = self.parts
        tracked = track(
            frames,
            parts.perception,
            self.config.track,
            crops=parts.restorer is not None,
            read=parts.pixels.read_crops,
            side=self._side,
        )
        return limited(tracked)

    def cut(self, frames: Iterable[TrackedFrame]) -> Iterator[TrackedFrame]:
        """Cuts the crops of faces that were followed before: what `follow` gives, without looking again."""
        parts = self.parts
        if parts.restorer is None:
            return iter(frames)
        own = parts.restorer.needs.crop_size
        return limited(cut(frames, own, read=parts.pixels.read_crops, side=self._side))

    def restore(self, frames: Iterable[TrackedFrame], start: Start = start_here) -> Iterator[RestoredFrame]:
        """Restores the faces of `frames`, and holds back what is no longer the person."""
        parts, config = self.parts, self.config
        restored = start(
            "restore",
            restore(
                frames,
                parts.restorer,
                config.restore,
                parts.masker,
                config.blend.steadiness,
                self._reuse,
                parts.quick,
                self._neighbours,
            ),
        )
        return restored if parts.gate is None else start("gate", gate(restored, parts.gate))

    def blend(self, frame: RestoredFrame) -> av.VideoFrame:
        """The finished picture."""
        return self.parts.pixels.blend(frame, self.config.blend)

    def _side(self, effort: Effort) -> int:
        """Side in pixels of the crops that `effort` asks for."""
        parts = self.parts
        if parts.restorer is None:
            return parts.perception.crop_size
        return parts.quick.instead_of(parts.restorer, effort).needs.crop_size


Watch = Callable[[Report], None]
Arrange = Callable[[av.VideoFrame, av.VideoFrame], av.VideoFrame]
Note = Callable[[RestoredFrame, av.VideoFrame], None]


def keep_after(before: av.VideoFrame, after: av.VideoFrame) -> av.VideoFrame:
    """The default of `Hooks.arrange`: the finished picture is written."""
    return after


def leave_unwatched(report: Report) -> None:
    """The default of `Hooks.watch`: does nothing."""


def leave_unnoted(frame: RestoredFrame, after: av.VideoFrame) -> None:
    """The default of `Hooks.note`: does nothing."""


@dataclass(frozen=True, slots=True)
class Hooks:
    """What a run calls besides its chain."""

    report: Report = field(default_factory=Report)
    """Gets the counts."""
    arrange: Arrange = keep_after
    """Makes the written picture of the frame before and after."""
    watch: Watch = leave_unwatched
    """Hears the counts after each frame."""
    note: Note = leave_unnoted
    """Hears of each frame, with its finished picture."""


def run(
    source: Source | TrackedSource, sink: Sink, chain: Chain, hooks: Hooks, state: ChainState = START
) -> ChainState:
    """Restores every face of `source` into `sink`.

    A part of a film goes on from the `state` that `run` gave for the part before.
    """
    report, started, processor = hooks.report, time.perf_counter(), time.process_time()
    chain.go_on_from(state)
    with Stages(chain.config.depth) as stages:
        if isinstance(source, TrackedSource):
            seen = chain.cut(stages.start("decode", source.frames))
        else:
            seen = chain.follow(stages.start("decode", source, newest=source.live))
        tracked = stages.start("track", seen)
        spent = {"blend": 0.0, "encode": 0.0}
        for frame in chain.restore(tracked, stages.start):
            original = frame.tracked.frame
            begun = time.perf_counter()
            after = chain.blend(frame)
            picture = hooks.arrange(original.native, after)
            blended = time.perf_counter()
            sink.write(picture, original.pts)
            spent["blend"] += blended - begun
            spent["encode"] += time.perf_counter() - blended
            report.add(frame)
            hooks.note(frame, after)
            report.seconds = time.perf_counter() - started
            report.processor_seconds = time.process_time() - processor
            report.stage_seconds = stages.seconds() | spent
            hooks.watch(report)
    return chain.state
