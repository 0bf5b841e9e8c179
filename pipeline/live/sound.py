"""Sound of a live run: it goes along with the picture of its moment, and so is late by what the picture is late.

The capturing thread puts it in, the writing thread takes it out after each picture. Times are ticks of a microsecond
on the run's clock, like those of frames.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass

import av

_MOST_SECONDS = 10.0
"""Sound that may wait for its picture; beyond, the oldest is thrown away."""
_JUMP_SECONDS = 0.3
"""A source's clock that is so far from the run's has begun anew."""


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """What sound of a source is like."""

    rate: int
    """Samples per second."""
    layout: str
    """`mono` or `stereo`; more channels are mixed down."""


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A short piece of sound."""

    samples: av.AudioFrame
    pts: int
    """When it begins, in microseconds on the run's clock."""

    @property
    def seconds(self) -> float:
        """How long it is."""
        return self.samples.samples / self.samples.sample_rate


class SoundQueue:
    """Sound on its way from one thread to another."""

    def __init__(self) -> None:
        self._waiting: deque[Sound] = deque()
        self._seconds = 0.0
        self._lock = threading.Lock()

    def put(self, sound: Sound) -> None:
        """Adds what was heard, in order."""
        with self._lock:
            self._waiting.append(sound)
            self._seconds += sound.seconds
            while self._seconds > _MOST_SECONDS:
                self._seconds -= self._waiting.popleft().seconds

    def until(self, pts: int) -> list[Sound]:
        """Takes out all that begins up to `pts`."""
        with self._lock:
            taken = []
            while self._waiting and self._waiting[0].pts <= pts:
                taken.append(self._waiting.popleft())
            self._seconds -= sum(sound.seconds for sound in taken)
            return taken


class SoundClock:
    """Says when sound of a source that gives it as it comes was heard: by the source's clock, set by the run's."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def place(self, now: float, own: float | None, seconds: float) -> float:
        """Seconds on the run's clock at which sound began that came `now`, is `seconds` long and says it is of `own`.

        The moment of arrival alone would tear at every hiccup of the network.
        """
        begun = now - seconds
        if own is None:
            return begun
        if self._offset is None or abs(own + self._offset - begun) > _JUMP_SECONDS:
            self._offset = begun - own
        return own + self._offset
