"""Stages: order, back-pressure, errors and ends."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator

import pytest

from pipeline.stages.threads import Stages

NAMES = ["first", "second", "third"]


def count(limit: int, made: list[int] | None = None, closed: list[str] | None = None) -> Iterator[int]:
    try:
        for number in range(limit):
            if made is not None:
                made.append(number)
            yield number
    finally:
        if closed is not None:
            closed.append("source")


def add_one(items: Iterator[int], fail_at: int | None = None) -> Iterator[int]:
    for number in items:
        if number == fail_at:
            raise ZeroDivisionError("broken on purpose")
        yield number + 1


def own_threads() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name in NAMES]


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_items_leave_in_order_once_each(depth: int) -> None:
    with Stages(depth) as stages:
        items = stages.start("first", count(100))
        items = stages.start("second", add_one(items))
        assert list(items) == list(range(1, 101))
    assert own_threads() == []


def test_an_interrupt_while_a_thread_starts_reaches_the_caller_and_the_thread_does_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    late: list[threading.Thread] = []
    start = threading.Thread.start

    def interrupted(thread: threading.Thread) -> None:
        late.append(thread)
        raise KeyboardInterrupt

    made: list[int] = []
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt), Stages(2) as stages:
        items = stages.start("first", count(5))
        patch.setattr(threading.Thread, "start", interrupted)
        stages.start("second", count(5, made))
        list(items)
    # A busy machine may begin it only now.
    start(late[0])
    late[0].join()
    assert made == []
    assert own_threads() == []


@pytest.mark.parametrize("depth", [0, 1, 4])
def test_error_of_a_stage_reaches_the_caller_and_no_thread_survives(depth: int) -> None:
    closed: list[str] = []
    with pytest.raises(ZeroDivisionError) as caught, Stages(depth) as stages:
        items = stages.start("first", count(1000, closed=closed))
        items = stages.start("second", add_one(items, fail_at=5))
        list(stages.start("third", add_one(items)))
    if depth:
        assert "in stage 'second'" in caught.value.__notes__
    assert closed == ["source"]
    assert own_threads() == []


@pytest.mark.parametrize("depth", [0, 2])
def test_leaving_early_closes_the_source_and_joins(depth: int) -> None:
    closed: list[str] = []
    with pytest.raises(KeyboardInterrupt), Stages(depth) as stages:
        for number in stages.start("second", add_one(stages.start("first", count(10**9, closed=closed)))):
            if number == 10:
                raise KeyboardInterrupt
    assert closed == ["source"]
    assert own_threads() == []


def test_slow_consumer_holds_the_producer_back() -> None:
    made: list[int] = []
    with Stages(2) as stages:
        items = stages.start("first", count(1000, made))
        next(items)
        time.sleep(0.2)
        assert len(made) <= 1 + 2 + 1


def test_newest_drops_what_was_not_taken() -> None:
    release = threading.Event()

    def camera() -> Iterator[int]:
        yield from range(50)
        release.set()
        yield 50

    with Stages(1) as stages:
        items = stages.start("first", camera(), newest=True)
        assert release.wait(5)
        seen = list(items)
    assert seen[-1] == 50
    assert len(seen) < 10


@pytest.mark.parametrize("depth", [0, 2])
def test_work_time_is_counted_for_the_stage_that_works(depth: int) -> None:
    def slow(items: Iterator[int]) -> Iterator[int]:
        for number in items:
            time.sleep(0.02)
            yield number

    with Stages(depth) as stages:
        list(stages.start("second", add_one(stages.start("first", slow(count(10))))))
        seconds = stages.seconds()
    assert seconds["first"] > 0.15
    assert seconds["second"] < 0.1
