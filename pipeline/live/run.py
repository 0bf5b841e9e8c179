"""The loop of a live run: each frame goes out in time, restored if that can be done and as it came if not."""

from __future__ import annotations

import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from concurrent.futures import TimeoutError as TooLate
from dataclasses import dataclass
from fractions import Fraction
from time import perf_counter
from typing import Protocol

import av

from pipeline.frames import Frame, RestoredFrame
from pipeline.live.capture import TICK, Capture
from pipeline.live.ladder import Ladder, Step
from pipeline.live.report import LiveReport
from pipeline.live.settings import LiveConfig

logger = logging.getLogger(__name__)

Watch = Callable[[LiveReport], None]


class Sink(Protocol):
    """Takes pictures in order; see sinks.py."""

    lost: int
    """How often it was lost."""

    def write(self, native: av.VideoFrame, pts: int) -> None: ...


class LiveFaces(Protocol):
    """Restores a frame at a step; see faces.py."""

    def restart(self) -> None: ...

    def warm_up(self, frame: Frame) -> None: ...

    def restore(self, frame: Frame, step: Step) -> tuple[RestoredFrame, av.VideoFrame]: ...


@dataclass(frozen=True, slots=True)
class _Done:
    """What became of a frame in the worker."""

    picture: av.VideoFrame
    restored: RestoredFrame | None
    ms: float
    error: Exception | None = None


def run(
    capture: Capture,
    sink: Sink,
    worker: Worker,
    way: tuple[Step, ...],
    config: LiveConfig,
    *,
    rate: Fraction,
    report: LiveReport,
    watch: Watch = lambda report: None,
    duration_seconds: float | None = None,
) -> None:
    """Takes the newest frame of `capture`, restores it by `worker` at a step of `way`, and writes it to `sink`.

    Ends with the source, or `duration_seconds` after the start. `rate`: frames per second of the source; it sets the
    budget of a frame and how often the last picture is shown again while the source is away.
    """
    live = _Live(sink, worker, way, config, rate, report)
    patience = config.hold_seconds
    while duration_seconds is None or capture.now() < duration_seconds:
        try:
            frame = capture.get(patience)
        except StopIteration:
            break
        if frame is None:
            live.show_again(capture.now())
            patience = float(1 / rate)
        else:
            live.show(frame, capture.now)
            patience = config.hold_seconds
        report.received, report.dropped, report.lost = capture.received, capture.dropped, capture.lost
        report.seconds, report.sink_lost = capture.now(), sink.lost
        watch(report)


class _Live:
    """One run's state: the ladder, the last picture, and whether the worker is free."""

    def __init__(
        self,
        sink: Sink,
        worker: Worker,
        way: tuple[Step, ...],
        config: LiveConfig,
        rate: Fraction,
        report: LiveReport,
    ) -> None:
        self._sink, self._worker, self._way, self._config, self._report = sink, worker, way, config, report
        self._ladder = Ladder(len(way), config.ladder)
        self._budget_ms = config.ladder.share * 1000 / float(rate)
        self._last: av.VideoFrame | None = None
        self._last_pts = -1

    def show(self, frame: Frame, now: Callable[[], float]) -> None:
        """Writes `frame` in time."""
        late = self._worker.take_late()
        if late is not None:
            self._learn(late, 0.0)
        step = self._way[self._ladder.step]
        done: _Done | None = None
        if step.bypass:
            self._worker.skip()
            done = _Done(frame.native, None, 0.0)
        elif self._worker.is_free:
            done = self._worker.restore(frame, step, self._left(frame, now))
        begun = perf_counter()
        self._write(frame.native if done is None else done.picture, frame.pts)
        if done is None:
            self._report.late += 1
        else:
            self._learn(done, 1000 * (perf_counter() - begun))
        self._count(step, None if done is None else done.restored)
        self._report.delays.add(now() - float(frame.pts * TICK))

    def show_again(self, now: float) -> None:
        """Writes the last picture once more: whoever watches must not lose the stream."""
        if self._last is not None:
            self._write(self._last, round(now / TICK))
            self._report.repeated += 1

    def _left(self, frame: Frame, now: Callable[[], float]) -> float:
        """Seconds until `frame` must go out."""
        return max(float(frame.pts * TICK) + self._config.most_delay_ms / 1000 - now(), 0.0)

    def _learn(self, done: _Done, written_ms: float) -> None:
        """Tells the ladder how long a frame took, or that it failed."""
        if done.error is None:
            self._ladder.measure(done.ms + written_ms, self._budget_ms)
            return
        self._report.errors += 1
        if self._report.errors == 1:
            logger.warning("restoring failed (%s); frames go out as they came meanwhile", done.error)
        self._ladder.fail()

    def _write(self, picture: av.VideoFrame, pts: int) -> None:
        # Encoders refuse times that do not grow.
        pts = max(pts, self._last_pts + 1)
        self._sink.write(picture, pts)
        self._last, self._last_pts = picture, pts

    def _count(self, step: Step, restored: RestoredFrame | None) -> None:
        report = self._report
        report.written += 1
        report.steps[step.name] += 1
        report.step, report.moves = self._way[self._ladder.step].name, self._ladder.moves
        if restored is not None:
            report.restored += len(restored.faces)
            report.people |= {f.person_id for f in restored.tracked.faces if f.person_id is not None}


class Worker:
    """Restores in a thread of its own, so that a call that takes long holds up nothing but itself."""

    def __init__(self, faces: LiveFaces, clock: Callable[[], float] = perf_counter) -> None:
        """`clock` gives seconds; what a frame took is measured on it."""
        self._faces, self._clock = faces, clock
        self._pool = ThreadPoolExecutor(1, "restore")
        self._running: Future[_Done] | None = None
        self._stale = False

    @property
    def is_free(self) -> bool:
        return self._running is None

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def warm_up(self, frame: Frame) -> None:
        """Makes every part work once, in the thread that will use it."""
        self._pool.submit(self._faces.warm_up, frame).result()

    def skip(self) -> None:
        """A frame goes by unseen: what follows has nothing to do with what was before."""
        self._stale = True

    def restore(self, frame: Frame, step: Step, seconds: float) -> _Done | None:
        """The restored frame; None if it takes longer than `seconds`, and it goes on meanwhile."""
        self._running = self._pool.submit(self._restore, frame, step, self._stale)
        self._stale = False
        try:
            done = self._running.result(seconds)
        except TooLate:
            return None
        self._running = None
        return done

    def take_late(self) -> _Done | None:
        """What was finished since, if anything."""
        if self._running is None or not self._running.done():
            return None
        done, self._running = self._running.result(), None
        return done

    def _restore(self, frame: Frame, step: Step, afresh: bool) -> _Done:
        begun = self._clock()
        try:
            if afresh:
                self._faces.restart()
            restored, picture = self._faces.restore(frame, step)
        except Exception as error:  # whatever a part of the user's own may raise: the call goes on
            self._faces.restart()
            return _Done(frame.native, None, 0.0, error)
        return _Done(picture, restored, 1000 * (self._clock() - begun))
