"""Writes to a sink in a thread of its own, and opens it anew when it is lost: a network may stall, a call must not."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

import av

from pipeline.errors import SinkError
from pipeline.live.newest import Newest
from pipeline.live.settings import LiveConfig
from pipeline.live.sinks import NullSink
from pipeline.live.sound import Sound, SoundQueue


class Outlet(NullSink):
    """The sink that `make` makes, behind a hand-over that keeps the newest picture alone, and the sound up to it."""

    def __init__(
        self,
        make: Callable[[], NullSink],
        config: LiveConfig,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """`tell` hears what happens, in the writing thread."""
        self.lost = 0
        self._make, self._config, self._tell = make, config, tell
        self._sound = SoundQueue()
        self._newest = Newest[tuple[av.VideoFrame, int]]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)

    def __enter__(self) -> Self:
        # The first time in the caller's thread: who is wrong about an address wants to hear so at once.
        self._sink = self._make()
        self._sink.__enter__()
        self._thread.start()
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        self._newest.put((native, pts))

    def write_sound(self, sound: Sound) -> None:
        self._sound.put(sound)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stop.set()
        self._newest.end()
        self._thread.join(self._config.stall_seconds + 1)

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._write_all()
            except SinkError as error:
                self.lost += 1
                self._tell(f"{error}; it is opened anew as soon as that can be done")
                self._sink.__exit__(SinkError, error, None)
                if not self._open_anew():
                    return
                self._tell("the sink is back")
        try:
            self._sink.__exit__(None, None, None)
        except SinkError as error:
            self._tell(str(error))

    def _write_all(self) -> None:
        while True:
            try:
                item = self._newest.get(1.0)
            except StopIteration:
                return
            if item is not None:
                self._sink.write(*item)
                for sound in self._sound.until(item[1]):
                    self._sink.write_sound(sound)

    def _open_anew(self) -> bool:
        """Tries until the sink is back, ever less often; False when the run is over."""
        wait = self._config.shortest_retry_seconds
        while not self._stop.wait(wait):
            try:
                sink = self._make()
                sink.__enter__()
            except SinkError:
                wait = min(2 * wait, self._config.longest_retry_seconds)
            else:
                self._sink = sink
                return True
        return False
