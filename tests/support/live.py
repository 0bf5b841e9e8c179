"""Stand-ins for the ends of a live run."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, wait
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
import cv2
import numpy as np

from models.protocols import Request, Result
from pipeline.errors import SourceError
from pipeline.frames import Effort, Frame, RestoredFrame, TrackedFrame
from pipeline.live.capture import TICK
from pipeline.live.ladder import steps
from pipeline.live.sources import LiveInfo
from pipeline.live.worker import Done, Worker
from support.fakes import InvertingRestorer, gray_frame

RATE = Fraction(25)
WAY = steps(restores=True, has_light=False, has_small=False)


def name_of(effort: Effort) -> str:
    """Name of the step of `WAY` that asks for `effort`."""
    return next(step.name for step in WAY if step.effort == effort)


def square_frame(index: int) -> Frame:
    """A bright square on a dark ground, which `SquareDetector` takes for a face; it stands still."""
    image = np.full((160, 160, 3), 40, np.uint8)
    cv2.rectangle(image, (40, 40), (119, 119), (230, 215, 200), -1)
    rng = np.random.default_rng(1)
    image[40:120, 40:120] -= cv2.resize(rng.integers(0, 25, (10, 10, 3), np.uint8), (80, 80))
    native = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
    native.pts, native.time_base = index, Fraction(1, 25)
    return Frame(index, index, Fraction(1, 25), native)


def two_squares(index: int, left: int, right: int) -> Frame:
    """Two such squares side by side, 240 pixels wide in all, each with a side of so many pixels."""
    image = np.full((160, 240, 3), 40, np.uint8)
    for centre, side in ((60, left), (180, right)):
        place = slice(80 - side // 2, 80 + side // 2), slice(centre - side // 2, centre + side // 2)
        image[place] = (230, 215, 200)
    native = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
    native.pts, native.time_base = index, Fraction(1, 25)
    return Frame(index, index, Fraction(1, 25), native)


def write_square_clip(path: Path, frames: int) -> None:
    """So many of them, at 25 frames per second."""
    native = square_frame(0).native
    with av.open(str(path), "w") as container:
        stream: Any = container.add_stream("libx264", rate=25, options={"preset": "ultrafast", "crf": "10"})
        stream.width, stream.height, stream.pix_fmt = native.width, native.height, "yuv420p"
        for index in range(frames):
            native.pts = index
            container.mux(stream.encode(native))
        container.mux(stream.encode(None))


class SlowRestorer(InvertingRestorer):
    """A restorer on which a while is spent."""

    seconds = 0.002

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        time.sleep(self.seconds)
        return super().restore(requests)


class FakeSource:
    """Gives so many frames and then ends, or is lost with an error."""

    def __init__(self, frames: int, *, paced: bool = False, ends: bool = False, error: str = "") -> None:
        self.info = LiveInfo(RATE, 0, None, paced=paced, ends=ends)
        self.frames, self.error, self.closed = frames, error, 0

    def __iter__(self) -> Iterator[av.VideoFrame]:
        for index in range(self.frames):
            yield gray_frame(index, level=40 + index).native
        if self.error:
            raise SourceError(self.error)

    def __exit__(self, *error: object) -> None:
        self.closed += 1

    def seconds(self, native: av.VideoFrame) -> float | None:
        assert native.pts is not None
        return native.pts / 25

    def listen(self, heard: object) -> None:
        """It is mute."""


class FakeCapture:
    """Hands over frames on a clock that `FakeFaces` moves on; None stands for a time without a frame.

    Before each of them whatever is at work is finished, as its time has passed on the clock already.
    """

    def __init__(self, items: Sequence[int | None], clock: list[float]) -> None:
        self.items, self.clock = list(items), clock
        self.received = self.dropped = self.lost = 0
        self.natives: list[av.VideoFrame] = []
        self.awaited: list[Future[Done]] = []

    def now(self) -> float:
        return self.clock[0]

    def wake(self) -> None:
        """Nobody waits for longer than it takes."""

    def get(self, timeout: float) -> Frame | None:
        if self.awaited:
            wait([self.awaited.pop()], 10)
            return None
        if not self.items:
            raise StopIteration
        item = self.items.pop(0)
        self.clock[0] += timeout if item is None else 0.04
        if item is None:
            return None
        pts = round(self.clock[0] / TICK)
        native = gray_frame(item).native
        self.natives.append(native)
        self.received += 1
        return Frame(item, pts, TICK, native)


class AwaitedWorker(Worker):
    """A worker whose frames `FakeCapture` waits for."""

    def __init__(self, faces: FakeFaces, capture: FakeCapture) -> None:
        super().__init__(faces, lambda: faces.clock[0])
        self.capture = capture
        self.awaited = True

    def begin(self, frame: Frame, told: Callable[[], None] = lambda: None) -> Future[Done]:
        done = super().begin(frame, told)
        if self.awaited:
            self.capture.awaited.append(done)
        return done


class FakeFaces:
    """Takes `took[index]` seconds on the fake clock for each frame, fails where that is an error."""

    def __init__(self, clock: list[float], took: dict[int, float | Exception]) -> None:
        self.clock, self.took = clock, took
        self.seen: list[tuple[int, str]] = []
        self.followed: list[int] = []
        self.restarts: list[str] = []
        self.hold: threading.Event | None = None

    def restart_following(self) -> None:
        self.restarts.append("following")

    def restart_finishing(self) -> None:
        self.restarts.append("finishing")

    def warm_up(self, frame: Frame) -> None:
        self.finish(self.follow(frame))

    def follow(self, frame: Frame) -> TrackedFrame:
        self.followed.append(frame.index)
        return TrackedFrame(frame, (), monochrome=False)

    def finish(self, tracked: TrackedFrame) -> tuple[RestoredFrame, av.VideoFrame]:
        index = tracked.frame.index
        self.seen.append((index, name_of(tracked.effort)))
        if self.hold is not None:
            self.hold.wait(10)
        took = self.took.get(index, 0.01)
        if isinstance(took, Exception):
            raise took
        self.clock[0] += took
        return RestoredFrame(tracked, ()), gray_frame(1000 + index).native


class ListSink:
    """Remembers what was written."""

    lost = 0

    def __init__(self) -> None:
        self.written: list[tuple[av.VideoFrame, int]] = []

    def write(self, native: av.VideoFrame, pts: int) -> None:
        self.written.append((native, pts))
