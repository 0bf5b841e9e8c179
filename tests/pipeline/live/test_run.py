"""The loop of a live run, on a clock of its own."""

from __future__ import annotations

import itertools
import threading
import time
from concurrent.futures import Future

import pytest

from pipeline.frames import Frame
from pipeline.live.capture import Newest
from pipeline.live.report import Delays, LiveReport
from pipeline.live.run import run
from pipeline.live.settings import LadderConfig, LiveConfig
from pipeline.live.worker import Done
from support.fakes import gray_frame
from support.live import RATE, WAY, AwaitedWorker, FakeCapture, FakeFaces, ListSink, name_of

CONFIG = LiveConfig(most_delay_ms=5000, ladder=LadderConfig(patience=10, longest_patience=40))


def go(
    items: list[int | None], took: dict[int, float | Exception], config: LiveConfig = CONFIG
) -> tuple[FakeCapture, FakeFaces, ListSink, LiveReport]:
    clock = [0.0]
    capture, faces, sink, report = FakeCapture(items, clock), FakeFaces(clock, took), ListSink(), LiveReport()
    with AwaitedWorker(faces, capture) as worker:
        run(capture, sink, worker, WAY, config, rate=RATE, report=report)  # type: ignore[arg-type]
    return capture, faces, sink, report


def test_quick_frames_are_all_restored_and_leave_in_order() -> None:
    _, faces, sink, report = go(list(range(50)), {})
    assert [index for index, _ in faces.seen] == list(range(50))
    assert [native.pts for native, _ in sink.written] == list(range(1000, 1050))
    times = [pts for _, pts in sink.written]
    assert times == sorted(set(times))
    assert report.steps == {"full": 50}
    assert report.late == report.errors == report.repeated == 0


def test_a_restorer_ten_times_too_slow_is_bypassed_and_comes_back() -> None:
    slow = dict.fromkeys(range(20, 60), 0.4)
    capture, faces, sink, report = go(list(range(200)), slow)
    # Few of the slow frames were tried; the others went out as the decoder gave them, the very same objects.
    tried = [index for index, _ in faces.seen if index in slow]
    assert len(tried) <= 6
    passed = {index: native for index, (native, _) in enumerate(sink.written) if native.pts != 1000 + index}
    assert len(passed) >= 30
    assert all(native is capture.natives[index] for index, native in passed.items())
    assert report.steps["bypass"] == len(passed)
    assert report.delays.quantile(0.5) < 40
    assert report.step == "full"
    assert faces.seen[-1] == (199, "full")
    assert len(sink.written) == 200


def test_what_was_bypassed_is_forgotten_before_the_next_frame_is_restored() -> None:
    _, faces, _, report = go(list(range(60)), dict.fromkeys(range(5, 9), 0.4))
    assert report.steps["bypass"]
    assert faces.restarts == ["following"]


def test_an_error_lets_frames_pass_and_restoring_is_tried_again() -> None:
    capture, faces, sink, report = go(list(range(60)), {3: RuntimeError("the device is gone")})
    assert report.errors == 1
    assert sink.written[3][0] is capture.natives[3]
    assert sink.written[4][0] is capture.natives[4]
    assert faces.restarts[0] == "finishing"
    assert sink.written[-1][0].pts == 1059
    assert len(sink.written) == 60


def test_a_restorer_that_fails_always_is_tried_ever_more_rarely() -> None:
    always: dict[int, float | Exception] = {index: RuntimeError("broken") for index in range(300)}
    _, faces, sink, report = go(list(range(300)), always)
    assert len(sink.written) == 300
    assert report.errors == len(faces.seen) <= 10
    tried = [index for index, _ in faces.seen]
    gaps = [after - before for before, after in itertools.pairwise(tried)]
    assert gaps[-1] >= 4 * gaps[0] - 4


def test_a_call_that_hangs_holds_up_no_frame() -> None:
    clock = [0.0]
    capture, faces, sink, report = (
        FakeCapture(range(40), clock),
        FakeFaces(clock, {}),
        ListSink(),
        LiveReport(),
    )
    faces.hold = threading.Event()
    config = LiveConfig(most_delay_ms=20)

    def let_go(report: LiveReport) -> None:
        assert faces.hold is not None
        if report.written >= 30 and not faces.hold.is_set():
            faces.hold.set()
            while not worker.has_room:
                time.sleep(0.005)
            worker.awaited = True

    with AwaitedWorker(faces, capture) as worker:
        worker.awaited = False
        run(capture, sink, worker, WAY, config, rate=RATE, report=report, watch=let_go)  # type: ignore[arg-type]
    assert len(sink.written) == 40
    assert [native for native, _ in sink.written[:30]] == capture.natives[:30]
    assert report.late >= 30
    # One call was made meanwhile; what waited behind it was given up, not done in vain.
    assert faces.followed[:2] == [0, 1]
    assert faces.seen[0][0] == 0
    assert faces.seen[1][0] >= 30


class HeldWorker:
    """Its frames are ready when the test decides."""

    has_room = True

    def __init__(self) -> None:
        self.begun: list[tuple[str, Future[Done]]] = []

    def begin(self, frame: Frame, told: object) -> Future[Done]:
        done: Future[Done] = Future()
        done.set_running_or_notify_cancel()
        self.begun.append((name_of(frame.effort), done))
        return done

    def skip(self) -> None:
        """Nothing is tracked here."""

    def finish(self, took_ms: float) -> None:
        """Completes the frames in work, each after this time."""
        for _, done in self.begun:
            if not done.done():
                done.set_result(Done(gray_frame(0).native, finished_ms=took_ms))


def test_frames_that_were_begun_on_another_step_lead_no_further_down() -> None:
    worker, capture = HeldWorker(), FakeCapture(range(6), [0.0])
    config = LiveConfig(most_delay_ms=20)

    def watch(report: LiveReport) -> None:
        # Three frames, one of them late, are ready at one time, each of them too slow for its step.
        if report.written == 2:
            worker.finish(400)

    run(capture, ListSink(), worker, WAY, config, rate=RATE, report=LiveReport(), watch=watch)  # type: ignore[arg-type]
    assert [step for step, _ in worker.begun] == [*["full"] * 4, *["detect less"] * 2]


def test_the_last_picture_is_shown_again_while_the_source_is_away() -> None:
    _, _, sink, report = go([0, 1, None, None, None, 2], {})
    assert [native.pts for native, _ in sink.written] == [1000, 1001, 1001, 1001, 1001, 1002]
    times = [pts for _, pts in sink.written]
    assert times == sorted(set(times))
    # Half a second of patience first, then the usual rate.
    assert round((times[2] - times[1]) / 1e6, 2) == pytest.approx(0.5, abs=0.02)
    assert round((times[3] - times[2]) / 1e6, 2) == pytest.approx(0.04, abs=0.02)
    assert report.repeated == 3
    assert report.written == 3


def test_before_the_first_frame_nothing_can_be_shown() -> None:
    assert go([None, None, 0], {})[3].repeated == 0


def test_only_the_newest_is_handed_over_and_the_rest_is_counted() -> None:
    newest = Newest[int]()
    for number in range(5):
        newest.put(number)
    assert newest.get(0) == 4
    assert newest.replaced == 4
    assert newest.get(0) is None
    newest.put(5)
    newest.end()
    assert newest.get() == 5
    with pytest.raises(StopIteration):
        newest.get()


def test_an_error_of_the_producer_reaches_the_consumer() -> None:
    newest = Newest[int]()
    newest.end(ZeroDivisionError("broken on purpose"))
    with pytest.raises(ZeroDivisionError):
        newest.get()


def test_quantiles_of_delay_and_jitter() -> None:
    delays = Delays()
    assert delays.quantile(0.5) == 0
    for ms in range(1, 101):
        delays.add((ms + 0.5) / 1000)
    assert [delays.quantile(share) for share in (0.5, 0.95, 0.99, 1.0)] == [50, 95, 99, 100]
    assert 0.9 < delays.jitter_ms < 1.01
    delays.add(1e6)
    assert delays.quantile(1.0) == 10_000


def test_the_report_says_all_that_happened() -> None:
    *_, report = go([0, None, *range(1, 40)], {5: RuntimeError("gone")})
    text, data = report.summary(), report.as_dict()
    assert "failed 1" in text
    assert "repeated 1" in text
    assert "bypass" in text
    assert data["steps"]["bypass"] > 0
    assert data["errors"] == 1
    assert set(data["delay_ms"]) == {"p50", "p95", "p99"}
    assert "errors 1" in report.line()
