"""Threads for a chain of generators: bounded hand-over, errors that reach the caller, an end that always comes.

A stage is a plain function from an iterable to an iterator and knows nothing of threads. `Stages.start` runs one
in its own thread; leaving the `with` block abandons every hand-over, joins every thread and closes every stage,
on success, on an error and on Ctrl-C alike.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Stages:
    """Owns the threads of one run.

    `depth`: items that may wait between two stages; a full hand-over blocks its producer, so the slowest stage
    paces the rest. 0 runs the whole chain in the caller's thread (debugging, live).
    """

    def __init__(self, depth: int) -> None:
        self._depth = depth
        self._threads: list[tuple[threading.Thread, _HandOver[Any]]] = []
        self._iterators: list[Any] = []
        self._clock = _Clock()

    def __enter__(self) -> Stages:
        return self

    def start(self, name: str, items: Iterable[T], newest: bool = False) -> Iterator[T]:
        """Iterates over `items`, produced ahead in a thread called `name`.

        `newest`: an item that was not taken yet is replaced by the next one (a camera does not wait).
        An exception of the stage is raised here, with its type and traceback and the name of the stage as a note.
        """
        iterator = self._clock.timed(name, items)
        self._iterators += [iterator, items]
        if self._depth == 0:
            return iterator
        hand_over = _HandOver[T](1 if newest else self._depth, newest)
        thread = threading.Thread(target=_produce, args=(name, iterator, hand_over), name=name, daemon=True)
        self._threads.append((thread, hand_over))
        thread.start()
        return self._clock.waiting(hand_over)

    def seconds(self) -> dict[str, float]:
        """Seconds each stage has worked so far, without the time it waited for the stage before."""
        return dict(self._clock.seconds)

    def __exit__(self, *error: object) -> None:
        for _, hand_over in self._threads:
            hand_over.abandon()
        for thread, hand_over in self._threads:
            # Ctrl-C may have come while a thread was being started: that one will see that it is not wanted any more.
            if hand_over.begun:
                thread.join()
        # A generator does not close what it iterates over when it fails: close all, the last stage first.
        for iterator in reversed(self._iterators):
            close = getattr(iterator, "close", None)
            if close is not None:
                close()


class _Abandoned(BaseException):
    """The consumer has left: the producer stops quietly."""


class _HandOver(Generic[T]):
    """A bounded queue that can be abandoned and that carries the producer's end or error."""

    def __init__(self, depth: int, newest: bool) -> None:
        self._items: deque[T] = deque()
        self._depth = depth
        self._newest = newest
        self._changed = threading.Condition()
        self._ended = False
        self._abandoned = False
        self.begun = False
        """The producer is at work, or was."""
        self._error: BaseException | None = None

    def begin(self) -> bool:
        """Whether the producer may begin."""
        with self._changed:
            self.begun = not self._abandoned
            return self.begun

    def put(self, item: T) -> None:
        with self._changed:
            if self._newest and len(self._items) == self._depth:
                self._items.popleft()
            self._changed.wait_for(lambda: self._abandoned or len(self._items) < self._depth)
            if self._abandoned:
                raise _Abandoned
            self._items.append(item)
            self._changed.notify_all()

    def end(self, error: BaseException | None) -> None:
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def get(self) -> T:
        """The next item; raises the producer's error, or StopIteration at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._abandoned or self._ended or bool(self._items))
            if self._abandoned:
                raise _Abandoned
            if self._items:
                item = self._items.popleft()
                self._changed.notify_all()
                return item
            if self._error is not None:
                raise self._error
            raise StopIteration

    def abandon(self) -> None:
        with self._changed:
            self._abandoned = True
            self._items.clear()
            self._changed.notify_all()


class _Clock:
    """Work time per stage: the time of one step less the time of the steps and waits inside it."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._local = threading.local()

    def timed(self, name: str, items: Iterable[T]) -> Iterator[T]:
        iterator = iter(items)
        self.seconds[name] = 0.0
        while True:
            outer, self._local.inner = getattr(self._local, "inner", 0.0), 0.0
            started = time.perf_counter()
            try:
                item = next(iterator)
            except StopIteration:
                return
            finally:
                spent = time.perf_counter() - started
                self.seconds[name] += spent - self._local.inner
                self._local.inner = outer + spent
            yield item

    def waiting(self, hand_over: _HandOver[T]) -> Iterator[T]:
        while True:
            started = time.perf_counter()
            try:
                item = hand_over.get()
            except StopIteration:
                return
            finally:
                self._local.inner = getattr(self._local, "inner", 0.0) + time.perf_counter() - started
            yield item


def _produce(name: str, items: Iterator[T], hand_over: _HandOver[T]) -> None:
    if not hand_over.begin():
        return
    try:
        for item in items:
            hand_over.put(item)
    except _Abandoned:
        hand_over.end(None)
    except BaseException as error:
        error.add_note(f"in stage {name!r}")
        hand_over.end(error)
    else:
        hand_over.end(None)
