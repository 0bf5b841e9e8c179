"""Sound of a live run: it goes along with the picture of its moment, and so is late by what the picture is late.

The capturing thread puts it in, the writing thread takes it out after each picture. Times are ticks of a microsecond
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


_RATE = 48000
_CODECS = {"mpeg": "mp2", "vob": "mp2"}
"""Where it is not AAC."""
_BITS_PER_SECOND = 128_000
_SLACK = _RATE // 12
"""Samples by which pieces of sound may seem to overlap or to lie apart, as clocks are read: they follow on."""


class Voice:
    """Encodes pieces of sound, one after the other. Belongs to the thread of its container."""

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
        """Packets that are ready; those that are left for None. What would lie before the last sound is left out."""
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
        """In the form of the stream. A source that came back may give another form than before."""
        form = samples.format.name, samples.layout.name, samples.sample_rate
        if self._resampler is None or form != self._taken:
            self._resampler = AudioResampler(self._stream.format.name, self._layout, _RATE)
            self._taken = form
        return self._resampler.resample(samples)
