"""Reads a source in a thread of its own: paces files, reopens a lost source, hands over the newest frame."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from fractions import Fraction
from typing import Generic, Protocol, TypeVar

import av

from pipeline.errors import SourceError
from pipeline.frames import Frame
from pipeline.live.settings import LiveConfig
from pipeline.live.sound import Sound, SoundClock, SoundQueue
from pipeline.live.sources import Heard, LiveInfo

T = TypeVar("T")


TICK = Fraction(1, 1_000_000)
"""Seconds per tick of a live frame's `pts`, its arrival on the run's clock."""


class Newest(Generic[T]):
    """Hand-over of one item between threads; a new item replaces one that was not taken: delay cannot grow."""

    def __init__(self) -> None:
        self.replaced = 0
        """Items replaced before they were taken."""
        self._item: T | None = None
        self._error: BaseException | None = None
        self._ended = False
        self._woken = False
        self._changed = threading.Condition()

    def put(self, item: T) -> None:
        """Offers `item`."""
        with self._changed:
            self.replaced += self._item is not None
            self._item = item
            self._changed.notify_all()

    def end(self, error: BaseException | None = None) -> None:
        """Marks the end; `get` then raises `error`, if given, or StopIteration."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def wake(self) -> None:
        """Makes the current or next `get` return at once."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> T | None:
        """The newest item; None after `timeout` seconds or `wake`. Raises StopIteration at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._woken or self._item is not None, timeout)
            self._woken = False
            item, self._item = self._item, None
            if item is None and self._ended:
                raise self._error if self._error is not None else StopIteration
            return item


class Source(Protocol):
    """An open source; see `Opened` in sources.py."""

    info: LiveInfo

    def __iter__(self) -> Iterator[av.VideoFrame]: ...

    def __exit__(self, *error: object) -> None: ...

    def seconds(self, native: av.VideoFrame) -> float | None: ...

    def listen(self, heard: Heard) -> None: ...


class Capture:
    """Context manager that reads a source in a thread; `get` takes the newest frame.

    A frame's `pts` is its arrival (paced source: its due time) in ticks since `zero`.
    """

    def __init__(
        self,
        first: Source,
        reopen: Callable[[], Source],
        config: LiveConfig,
        tell: Callable[[str], None] = lambda sentence: None,
        sound: SoundQueue | None = None,
    ) -> None:
        """`first` is open; `reopen` opens the source again and raises SourceError. `tell` is called with messages.

        `sound` receives the source's sound; None ignores it.
        """
        self.received = 0
        """Frames received."""
        self.lost = 0
        """Times that the source was lost."""
        self.zero = time.monotonic()
        """Start of the run's clock on `time.monotonic`."""
        self._source, self._reopen, self._config, self._tell = first, reopen, config, tell
        self._sound, self._sound_clock = sound, SoundClock()
        self._started: float | None = None
        self._newest = Newest[Frame]()
        self.stop = threading.Event()
        """Set when the run is over."""
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    @property
    def dropped(self) -> int:
        """Frames replaced before they were taken."""
        return self._newest.replaced

    def now(self) -> float:
        """Seconds on the run's clock."""
        return time.monotonic() - self.zero

    def get(self, timeout: float) -> Frame | None:
        """The newest frame; None after `timeout` seconds or `wake`. Raises StopIteration at the end."""
        return self._newest.get(timeout)

    def wake(self) -> None:
        """Makes `get` return without a frame."""
        self._newest.wake()

    def __enter__(self) -> Capture:
        self.zero = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.stop.set()
        # A hanging read ends by its own time-out.
        self._thread.join(self._config.stall_seconds + 1)

    def _run(self) -> None:
        try:
            while not self.stop.is_set():
                reason = self._read_to_the_end()
                if self._source.info.ends or self.stop.is_set():
                    break
                self.lost += 1
                self._tell(f"{reason or 'the source has ended'}; trying to reopen it")
                source = reopened(self._reopen, SourceError, self.stop, self._config)
                if source is None:
                    break
                self._source = source
                self._tell("the source is back")
        except BaseException as error:
            self._newest.end(error)
        else:
            self._newest.end()
        finally:
            self._source.__exit__()

    def _read_to_the_end(self) -> str:
        """Hands over frames until the source ends; returns the reason if it was lost."""
        self._started = None
        if self._sound is not None:
            self._source.listen(self._hear)
        try:
            for native in self._source:
                if self._source.info.paced:
                    shown = self._source.seconds(native)
                    # wait() returns True when the run is over.
                    if shown is not None and self.stop.wait(max(self._start(shown) + shown - self.now(), 0)):
                        return ""
                if self.stop.is_set():
                    return ""
                self._hand_over(native)
        except SourceError as error:
            if self._source.info.ends:
                raise
            return str(error)
        finally:
            self._source.__exit__()
        return ""

    def _start(self, shown: float) -> float:
        """Zero of the source's clock on the run's clock; the first picture or sound of a paced source sets it."""
        if self._started is None:
            self._started = self.now() - shown
        return self._started

    def _hear(self, samples: av.AudioFrame, own: float | None) -> None:
        assert self._sound is not None
        if self._source.info.paced:
            if own is None:
                return
            begun = self._start(own) + own
        else:
            begun = self._sound_clock.place(self.now(), own, samples.samples / samples.sample_rate)
        self._sound.put(Sound(samples, round(begun / TICK)))

    def _hand_over(self, native: av.VideoFrame) -> None:
        pts = round(self.now() / TICK)
        native.pts, native.time_base = pts, TICK
        self._newest.put(Frame(self.received, pts, TICK, native))
        self.received += 1


def reopened(
    reopen: Callable[[], T], lost: type[Exception], stop: threading.Event, config: LiveConfig
) -> T | None:
    """Calls `reopen` until it no longer raises `lost`, at growing intervals; None once `stop` is set."""
    wait = config.shortest_retry_seconds
    while not stop.wait(wait):
        try:
            return reopen()
        except lost:
            wait = min(2 * wait, config.longest_retry_seconds)
    return None
