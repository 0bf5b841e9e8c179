"""The thread that reads a source: paces files, opens anew what was lost, and hands over the newest frame."""

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


class Newest(Generic[T]):
    """Holds one item; a next one takes the place of one that was not taken yet."""

    def __init__(self) -> None:
        self.replaced = 0
        """Items that nobody took in time."""
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
        """Says that no more comes; `error` is raised where the next item is asked for."""
        with self._changed:
            self._ended, self._error = True, error
            self._changed.notify_all()

    def wake(self) -> None:
        """Lets `get` return at once, now or when it is called next: there is something else to do."""
        with self._changed:
            self._woken = True
            self._changed.notify_all()

    def get(self, timeout: float | None = None) -> T | None:
        """The newest item, waited for up to `timeout` seconds; None if none came. Raises StopIteration at the end."""
        with self._changed:
            self._changed.wait_for(lambda: self._ended or self._woken or self._item is not None, timeout)
            self._woken = False
            item, self._item = self._item, None
            if item is None and self._ended:
                raise self._error if self._error is not None else StopIteration
            return item


TICK = Fraction(1, 1_000_000)
"""Seconds per tick of a live frame: its time is the moment it came, by the run's own clock."""


class Source(Protocol):
    """An open source, like `Opened` in sources.py."""

    info: LiveInfo

    def __iter__(self) -> Iterator[av.VideoFrame]: ...

    def __exit__(self, *error: object) -> None: ...

    def seconds(self, native: av.VideoFrame) -> float | None: ...

    def listen(self, heard: Heard) -> None: ...


class Capture:
    """Reads a source in a thread of its own. A context manager; the newest frame is taken with `get`.

    A frame's `pts` is the moment at which it came or, of a paced source, was due, in ticks since `zero`.
    """

    def __init__(
        self,
        first: Source,
        reopen: Callable[[], Source],
        config: LiveConfig,
        tell: Callable[[str], None] = lambda sentence: None,
        sound: SoundQueue | None = None,
    ) -> None:
        """`first` is open already; `reopen` opens it anew and raises SourceError. `tell` hears what happens.

        `sound` takes what is heard; None where nobody wants it.
        """
        self.received = 0
        """Frames that came."""
        self.lost = 0
        """How often the source was lost."""
        self.zero = time.monotonic()
        """The start of the run's clock, on `time.monotonic`."""
        self._source, self._reopen, self._config, self._tell = first, reopen, config, tell
        self._sound, self._sound_clock = sound, SoundClock()
        self._started: float | None = None
        self._newest = Newest[Frame]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="capture", daemon=True)

    @property
    def dropped(self) -> int:
        """Frames that nobody took before the next one came."""
        return self._newest.replaced

    def now(self) -> float:
        """Seconds on the run's clock."""
        return time.monotonic() - self.zero

    def get(self, timeout: float) -> Frame | None:
        """The newest frame, None if none came for `timeout` seconds or on `wake`. Raises StopIteration at the end."""
        return self._newest.get(timeout)

    def wake(self) -> None:
        """Lets `get` return without a frame."""
        self._newest.wake()

    def __enter__(self) -> Capture:
        self.zero = time.monotonic()
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stop.set()
        # A read that hangs ends by its own time-out; nobody waits longer for it than that.
        self._thread.join(self._config.stall_seconds + 1)

    def _run(self) -> None:
        try:
            while not self._stop.is_set():
                reason = self._read_to_the_end()
                if self._source.info.ends or self._stop.is_set():
                    break
                self.lost += 1
                self._tell(f"{reason or 'the source has ended'}; it is opened anew as soon as it is back")
                if not self._open_anew():
                    break
                self._tell("the source is back")
        except BaseException as error:
            self._newest.end(error)
        else:
            self._newest.end()
        finally:
            self._source.__exit__()

    def _read_to_the_end(self) -> str:
        """Hands over frames until the source ends; gives the reason if it is lost."""
        self._started = None
        if self._sound is not None:
            self._source.listen(self._hear)
        try:
            for native in self._source:
                if self._source.info.paced:
                    shown = self._source.seconds(native)
                    # wait() gives True when the run is over.
                    if shown is not None and self._stop.wait(max(self._start(shown) + shown - self.now(), 0)):
                        return ""
                if self._stop.is_set():
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
        """When the source's clock stood at 0, on the run's; a paced source starts with what it gives first."""
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

    def _open_anew(self) -> bool:
        """Tries until the source is back, ever less often; False when the run is over."""
        wait = self._config.shortest_retry_seconds
        while not self._stop.wait(wait):
            try:
                self._source = self._reopen()
            except SourceError:
                wait = min(2 * wait, self._config.longest_retry_seconds)
            else:
                return True
        return False
