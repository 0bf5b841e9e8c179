"""The whole way of a frame: read this file first.

Source --Frame--> track --TrackedFrame--> restore, gate --RestoredFrame--> blend --picture--> Sink
         decode     |  find, follow,         |  batches over            |  paste into      encode
         thread     |  recognise, gather     |  frames and people;      |  the decoder's   (caller)
                    |  references            |  some faces are carried  |  own planes
                    |                        |  over, none flickers;    |
                    |                        |  nobody becomes somebody |
                    |                        |  else                    |
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

import av

from models.protocols import Masker, Restorer
from pipeline.config import PipelineConfig
from pipeline.frames import Frame, RestoredFrame, TrackedFrame
from pipeline.pixels.kinds import Pixels
from pipeline.report.counts import Report
from pipeline.stages.gate import Gate, gate
from pipeline.stages.perception import Perception
from pipeline.stages.restore import restore
from pipeline.stages.reuse import Reuse
from pipeline.stages.threads import Stages
from pipeline.stages.track import track


class Source(Protocol):
    """Gives frames in the order of presentation."""

    live: bool
    """Frames come at their own pace; late ones are dropped."""

    def __iter__(self) -> Iterator[Frame]: ...


class Sink(Protocol):
    """Takes finished pictures in order."""

    def write(self, native: av.VideoFrame, pts: int) -> None: ...


@dataclass(frozen=True, slots=True)
class Parts:
    """What a run is made of."""

    perception: Perception
    """Finds, follows and recognises; belongs to this run alone."""
    restorer: Restorer | None
    """None: faces are found and followed, and nothing is changed."""
    masker: Masker | None = None
    """None: nothing is taken to cover a face."""
    gate: Gate | None = None
    """Remembers how people stand, so it belongs to this run alone; None: who people are is not compared."""
    pixels: Pixels = field(default_factory=Pixels)
    """Cuts crops out of frames and puts restored faces back; belongs to this run alone."""


Watch = Callable[[Report], None]
Arrange = Callable[[av.VideoFrame, av.VideoFrame], av.VideoFrame]
Note = Callable[[RestoredFrame, av.VideoFrame], None]
Follow = Callable[[Iterable[Frame]], Iterable[TrackedFrame]]


def keep_after(before: av.VideoFrame, after: av.VideoFrame) -> av.VideoFrame:
    """What is written in the ordinary case: the finished picture."""
    return after


def leave_unnoted(frame: RestoredFrame, after: av.VideoFrame) -> None:
    """What is noted of a frame in the ordinary case: nothing."""


def run(
    source: Source,
    sink: Sink,
    parts: Parts,
    config: PipelineConfig,
    *,
    report: Report,
    arrange: Arrange = keep_after,
    watch: Watch = lambda report: None,
    note: Note = leave_unnoted,
    follow: Follow | None = None,
    reuse: Reuse | None = None,
) -> None:
    """Restores every face of `source` into `sink`, counting into `report`.

    `arrange` makes the written picture of the frame before and after; `watch` is called after each frame, `note`
    gets it with its finished picture. A part of a film gets its faces from `follow` in place of `parts.perception`,
    and goes on with the `reuse` of the part before.
    """
    started, processor = time.perf_counter(), time.process_time()
    with Stages(config.depth) as stages:
        frames = stages.start("decode", source, newest=source.live)
        if follow is None:
            seen: Iterable[TrackedFrame] = track(
                frames,
                parts.perception,
                config.track,
                crops=parts.restorer is not None,
                read=parts.pixels.read_crops,
            )
        else:
            seen = follow(frames)
        tracked = stages.start("track", seen)
        restored = stages.start(
            "restore",
            restore(tracked, parts.restorer, config.restore, parts.masker, config.blend.steadiness, reuse),
        )
        if parts.gate is not None:
            restored = stages.start("gate", gate(restored, parts.gate))
        spent = {"blend": 0.0, "encode": 0.0}
        for frame in restored:
            original = frame.tracked.frame
            begun = time.perf_counter()
            after = parts.pixels.blend(frame, config.blend)
            picture = arrange(original.native, after)
            blended = time.perf_counter()
            sink.write(picture, original.pts)
            spent["blend"] += blended - begun
            spent["encode"] += time.perf_counter() - blended
            report.add(frame)
            note(frame, after)
            report.seconds = time.perf_counter() - started
            report.processor_seconds = time.process_time() - processor
            report.stage_seconds = stages.seconds() | spent
            watch(report)
