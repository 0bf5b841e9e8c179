"""Sound of a live run: written after the picture of its moment, and so delayed as much as the picture.

The capturing thread queues it, the writing thread takes it out after each picture. Times are ticks of a microsecond
on the run's clock, like those of frames.
"""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass
from fractions import Fraction

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer

_MOST_SECONDS = 10.0
"""Maximum length of queued sound; the oldest is discarded."""
_JUMP_SECONDS = 0.3
"""Difference of clocks above which the source's clock is taken to have restarted."""


_RATE = 48000
_CODECS = {"mpeg": "mp2", "vob": "mp2"}
"""Codec by container; AAC elsewhere."""
_BITS_PER_SECOND = 128_000
_SLACK = _RATE // 12
"""Gap or overlap in samples that is attributed to the clock and ignored."""


@dataclass(frozen=True, slots=True)
class SoundFormat:
    """Format of a source's sound."""

    rate: int
    """Samples per second."""
    layout: str
    """`mono` or `stereo`; further channels are mixed down."""


@dataclass(frozen=True, slots=True, eq=False)
class Sound:
    """A short piece of sound."""

    samples: av.AudioFrame
    pts: int
    """Start in microseconds on the run's clock."""

    @property
    def seconds(self) -> float:
        """Length."""
        return self.samples.samples / self.samples.sample_rate


class SoundQueue:
    """Queue of sound between two threads."""

    def __init__(self) -> None:
        self._waiting: deque[Sound] = deque()
        self._seconds = 0.0
        self._lock = threading.Lock()

    def put(self, sound: Sound) -> None:
        """Appends a piece of sound."""
        with self._lock:
            self._waiting.append(sound)
            self._seconds += sound.seconds
            while self._seconds > _MOST_SECONDS:
                self._seconds -= self._waiting.popleft().seconds

    def until(self, pts: int) -> list[Sound]:
        """Takes out the pieces that start at or before `pts`."""
        with self._lock:
            taken = []
            while self._waiting and self._waiting[0].pts <= pts:
                taken.append(self._waiting.popleft())
            self._seconds -= sum(sound.seconds for sound in taken)
            return taken


class SoundClock:
    """Places sound of a live source on the run's clock."""

    def __init__(self) -> None:
        self._offset: float | None = None

    def place(self, now: float, own: float | None, seconds: float) -> float:
        """Start, on the run's clock, of sound that arrived at `now`, lasts `seconds` and has the source's time `own`.

        Arrival times alone would jitter with the network; the source's clock smooths them.
        """
        begun = now - seconds
        if own is None:
            return begun
        if self._offset is None or abs(own + self._offset - begun) > _JUMP_SECONDS:
            self._offset = begun - own
        return own + self._offset


class Voice:
    """Sound stream of an encoded sink. Belongs to the thread of its container."""

    def __init__(self, container: OutputContainer, sound: SoundFormat) -> None:
        codec = _CODECS.get(container.format.name, "aac")
        stream = container.add_stream(codec, rate=_RATE, layout=sound.layout)
        assert isinstance(stream, AudioStream)
        stream.bit_rate = _BITS_PER_SECOND
        self._stream = stream
        self._layout = sound.layout
        self._resampler: AudioResampler | None = None
        self._taken: tuple[str, str, int] | None = None
        self._next = 0

    def encode(self, sound: Sound | None) -> list[av.Packet[AudioStream]]:
        """Packets that are ready; the remaining ones for None. Sound before the last written sample is skipped."""
        if sound is None:
            return self._stream.encode(None)
        begin = round(sound.pts * Fraction(_RATE, 1_000_000))
        if begin < self._next - _SLACK:
            return []
        if begin > self._next + _SLACK or not self._next:
            self._next = begin
        packets = []
        sound.samples.pts = None
        for samples in self._resampled(sound.samples):
            samples.pts, samples.time_base = self._next, Fraction(1, _RATE)
            self._next += samples.samples
            packets += self._stream.encode(samples)
        return packets

    def _resampled(self, samples: av.AudioFrame) -> list[av.AudioFrame]:
        """Resampled to the stream's format. A reopened source may have another format than before."""
        form = samples.format.name, samples.layout.name, samples.sample_rate
        if self._resampler is None or form != self._taken:
            self._resampler = AudioResampler(self._stream.format.name, self._layout, _RATE)
            self._taken = form
        return self._resampler.resample(samples)
