"""The sound stream of an encoded sink."""

from __future__ import annotations

from fractions import Fraction

import av
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import OutputContainer

from pipeline.live.sound import Sound, SoundFormat

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
