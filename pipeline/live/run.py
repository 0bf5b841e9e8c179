"""The loop of a live run: each frame is written in time, unrestored if restoration is late or fails."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from fractions import Fraction
from time import perf_counter
from typing import Protocol

import av

from pipeline.frames import Frame, RestoredFrame
from pipeline.live.capture import TICK, Capture
from pipeline.live.ladder import Ladder, Step
from pipeline.live.report import LiveReport
from pipeline.live.settings import LiveConfig
from pipeline.live.sound import Sound, SoundQueue
from pipeline.live.worker import Done, Worker

logger = logging.getLogger(__name__)

Watch = Callable[[LiveReport], None]


class Sink(Protocol):
    """Takes pictures in order; see sinks.py."""

    lost: int
    """Times that it was lost."""

    def write(self, native: av.VideoFrame, pts: int) -> None: ...

    def write_sound(self, sound: Sound) -> None: ...


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
    sound: SoundQueue | None = None,
) -> None:
    """Takes the newest frame of `capture`, restores it with `worker` at a step of `way`, and writes it to `sink`.

    Ends with the source, or `duration_seconds` after the start. `rate`: frames per second of the source; sets the
    budget of a frame and the rate at which the last picture is repeated while the source is lost. `sound` is written
    after the picture of its moment.
    """
    live = _Live(sink, worker, way, config, rate, report, sound)
    quiet, patience = capture.now(), config.hold_seconds
    while duration_seconds is None or capture.now() < duration_seconds:
        now = capture.now()
        try:
            # Returns early when a frame is ready to be written.
            frame = capture.get(live.seconds_to_next(now, quiet + patience - now))
        except StopIteration:
            break
        if frame is not None:
            live.take(frame, capture.wake)
            quiet, patience = capture.now(), config.hold_seconds
        written = live.write_ready(capture.now)
        if not live.is_waiting and capture.now() >= quiet + patience:
            live.show_again(capture.now())
            quiet, patience, written = capture.now(), float(1 / rate), True
        report.received, report.dropped, report.lost = capture.received, capture.dropped, capture.lost
        report.seconds, report.sink_lost = capture.now(), sink.lost
        if written:
            watch(report)
    live.write_all(capture.now)
    report.received, report.dropped, report.seconds = capture.received, capture.dropped, capture.now()


@dataclass(frozen=True, slots=True)
class _Pending:
    """A frame that was taken but not written."""

    frame: Frame
    step: Step
    due: float
    """Time on the run's clock at which it is written, restored or not."""
    done: Future[Done] | None
    """None: it is written unrestored."""


class _Live:
    """State of one run: the ladder, the frames in work and the last picture."""

    def __init__(
        self,
        sink: Sink,
        worker: Worker,
        way: tuple[Step, ...],
        config: LiveConfig,
        rate: Fraction,
        report: LiveReport,
        sound: SoundQueue | None,
    ) -> None:
        self._sound = sound
        self._sink, self._worker, self._way, self._config, self._report = sink, worker, way, config, report
        self._ladder = Ladder(len(way), config.ladder)
        self._budget_ms = config.ladder.share * 1000 / float(rate)
        self._pending: deque[_Pending] = deque()
        self._late: list[_Pending] = []
        self._last: av.VideoFrame | None = None
        self._last_pts = -1

    @property
    def is_waiting(self) -> bool:
        """Whether a frame is yet to be written."""
        return bool(self._pending)

    def seconds_to_next(self, now: float, patience: float) -> float:
        """Time until the next frame is due; `patience` if none is in work."""
        wait = self._pending[0].due - now if self._pending else patience
        return max(wait, 0.0)

    def take(self, frame: Frame, ready: Callable[[], None]) -> None:
        """Starts to restore `frame` if the ladder allows it and the worker has room; calls `ready` when it is done."""
        step = self._way[self._ladder.step]
        due = float(frame.pts * TICK) + self._config.most_delay_ms / 1000
        done: Future[Done] | None = None
        if step.bypass:
            self._worker.skip()
        elif self._worker.has_room:
            done = self._worker.begin(replace(frame, effort=step.effort), ready)
        else:
            self._report.late += 1
        self._pending.append(_Pending(frame, step, due, done))

    def write_ready(self, now: Callable[[], float]) -> bool:
        """Writes, in order, frames that are done or due; returns whether any was written."""
        self._learn_late()
        before = self._report.written
        while self._pending:
            head = self._pending[0]
            if head.done is not None and not head.done.done() and now() < head.due:
                break
            self._show(self._pending.popleft(), now)
        return self._report.written > before

    def write_all(self, now: Callable[[], float]) -> None:
        """At the end: waits for the frames in work until they are due, and writes them."""
        while self._pending:
            head = self._pending.popleft()
            if head.done is not None:
                wait([head.done], max(head.due - now(), 0.0))
            self._show(head, now)

    def show_again(self, now: float) -> None:
        """Repeats the last picture, so that viewers keep the stream."""
        if self._last is not None:
            self._write(self._last, round(now / TICK))
            self._report.repeated += 1

    def _show(self, pending: _Pending, now: Callable[[], float]) -> None:
        frame, done = pending.frame, None
        if pending.done is not None:
            if pending.done.done():
                done = pending.done.result()
            else:
                self._report.late += 1
                # Work that has not started is cancelled; a running one still informs the ladder.
                if not pending.done.cancel():
                    self._late.append(pending)
        begun = perf_counter()
        self._write(frame.native if done is None else done.picture, frame.pts)
        if done is not None:
            self._learn(done, pending.step, 1000 * (perf_counter() - begun))
        elif pending.step.bypass:
            self._measure(pending.step, 1000 * (perf_counter() - begun))
        self._count(pending.step, None if done is None else done.restored)
        self._report.delays.add(now() - float(frame.pts * TICK))

    def _learn_late(self) -> None:
        for pending in [
            pending for pending in self._late if pending.done is not None and pending.done.done()
        ]:
            self._late.remove(pending)
            assert pending.done is not None
            self._learn(pending.done.result(), pending.step, 0.0)

    def _measure(self, step: Step, took_ms: float) -> None:
        # A time measured on an earlier step does not count: one slow frame would lead down twice.
        if step is self._way[self._ladder.step]:
            self._ladder.measure(took_ms, self._budget_ms)

    def _learn(self, done: Done, step: Step, written_ms: float) -> None:
        """Passes the time or failure of a frame at `step` to the ladder."""
        if done.error is None:
            slowest = max(done.followed_ms, done.finished_ms, written_ms)
            # Two frames are in work at once, so one may take longer than a frame interval, but not longer than the
            # maximum delay.
            together = (done.followed_ms + done.finished_ms) * self._budget_ms / self._config.most_delay_ms
            self._measure(step, max(slowest, together))
            return
        self._report.errors += 1
        if self._report.errors == 1:
            logger.warning("restoration failed (%s); frames are written unrestored meanwhile", done.error)
        self._ladder.fail()

    def _write(self, picture: av.VideoFrame, pts: int) -> None:
        # Encoders require increasing times.
        pts = max(pts, self._last_pts + 1)
        self._sink.write(picture, pts)
        self._last, self._last_pts = picture, pts
        for piece in self._sound.until(pts) if self._sound is not None else ():
            self._sink.write_sound(piece)
            self._report.sound_seconds += piece.seconds

    def _count(self, step: Step, restored: RestoredFrame | None) -> None:
        report = self._report
        report.written += 1
        report.steps[step.name] += 1
        report.step, report.moves = self._way[self._ladder.step].name, self._ladder.moves
        if restored is not None:
            report.restored += len(restored.faces)
            report.frames_restored += bool(restored.faces)
            people = {f.person_id for f in restored.tracked.faces if f.person_id is not None}
            report.people |= people
            report.seen.update(people)
