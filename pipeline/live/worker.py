"""Two threads that restore frames, one behind the other, so that a call that takes long holds up nothing but itself."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from time import perf_counter
from typing import Protocol

import av

from pipeline.frames import Frame, RestoredFrame, TrackedFrame

_MOST = 2
"""Frames at work at once: one is followed while the one before is restored. A third would only wait."""


class LiveFaces(Protocol):
    """Restores a frame in two halves; see faces.py."""

    def restart_following(self) -> None: ...

    def restart_finishing(self) -> None: ...

    def warm_up(self, frame: Frame) -> None: ...

    def follow(self, frame: Frame) -> TrackedFrame: ...

    def finish(self, tracked: TrackedFrame) -> tuple[RestoredFrame, av.VideoFrame]: ...


@dataclass(frozen=True, slots=True)
class Done:
    """What became of a frame."""

    picture: av.VideoFrame
    restored: RestoredFrame | None = None
    followed_ms: float = 0.0
    """What the first half took."""
    finished_ms: float = 0.0
    """What the second half took."""
    error: Exception | None = None


@dataclass(frozen=True, slots=True)
class _Half:
    tracked: TrackedFrame | None
    ms: float
    error: Exception | None = None


class Worker:
    """Owns the two threads. Called by one thread, which takes no result out of order."""

    def __init__(self, faces: LiveFaces, clock: Callable[[], float] = perf_counter) -> None:
        """`clock` gives seconds; what a frame took is measured on it."""
        self._faces, self._clock = faces, clock
        self._following = ThreadPoolExecutor(1, "follow")
        self._finishing = ThreadPoolExecutor(1, "restore")
        self._running: list[Future[Done]] = []
        self._halves: list[Future[_Half]] = []
        self._stale = False

    @property
    def has_room(self) -> bool:
        """Whether a frame would be begun at once."""
        self._running = [future for future in self._running if not future.done()]
        self._halves = [half for half in self._halves if not half.done()]
        return not self._halves and len(self._running) < _MOST

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        for pool in (self._following, self._finishing):
            pool.shutdown(cancel_futures=True)

    def warm_up(self, frame: Frame) -> None:
        """Makes every part work once in each thread, as libraries keep memory and helpers by thread."""
        for pool in (self._following, self._finishing):
            pool.submit(self._faces.warm_up, frame).result()

    def skip(self) -> None:
        """A frame goes by unseen: what follows has nothing to do with what was before."""
        self._stale = True

    def begin(self, frame: Frame, told: Callable[[], None] = lambda: None) -> Future[Done]:
        """The restored frame, some time; `told` is called then, in another thread. Only where there is room."""
        half = self._following.submit(self._follow, frame, self._stale)
        self._stale = False
        done = self._finishing.submit(self._finish, frame, half)
        self._halves.append(half)
        self._running.append(done)
        done.add_done_callback(lambda future: told())
        return done

    def _follow(self, frame: Frame, afresh: bool) -> _Half:
        begun = self._clock()
        try:
            if afresh:
                self._faces.restart_following()
            return _Half(self._faces.follow(frame), 1000 * (self._clock() - begun))
        except Exception as error:  # whatever a part of the user's own may raise: the call goes on
            self._faces.restart_following()
            return _Half(None, 0.0, error)

    def _finish(self, frame: Frame, half: Future[_Half]) -> Done:
        first = half.result()
        if first.tracked is None:
            return Done(frame.native, error=first.error)
        begun = self._clock()
        try:
            restored, picture = self._faces.finish(first.tracked)
        except Exception as error:  # as above
            self._faces.restart_finishing()
            return Done(frame.native, error=error)
        return Done(picture, restored, first.ms, 1000 * (self._clock() - begun))
