"""The frames of a video file with exact times, in the decoder's own planes, and an account of losses."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import replace
from fractions import Fraction
from functools import cached_property
from itertools import islice
from pathlib import Path

import av

from pipeline.errors import SourceError
from pipeline.frames import Frame
from pipeline.media.coding import Siting, planar_format
from pipeline.media.decode import Losses, decode, decode_sparsely, open_input
from pipeline.media.fields import Fields, deinterlaced, look_at_fields, on_fields
from pipeline.media.hardware import HardwareDecoder
from pipeline.media.layout import is_opaque, repack
from pipeline.media.probe import SourceInfo, probe

_MAX_SECONDS = 1e8
"""Three years: the limit of 64-bit ticks in every time base."""
_UNTIMED = {"h264", "hevc", "m4v", "mpegvideo", "obu"}
"""Raw formats without times."""
_STREAMED = {"mpeg", "mpegts"}
"""Formats whose clock starts anywhere: times count from the first."""
_STRETCH, _STRETCHES = 25, 3
"""Successive frames per sample, and samples per video, to detect interlacing."""


class FileSource:
    """The frames of the first video stream of a file, in presentation order.

    Frames keep their times; a missing or non-increasing time is replaced. Can be iterated repeatedly; closing an
    iteration closes the file. `start_seconds` drops the frames before and becomes time 0. Undecodable packets are
    skipped and reported in `damage`; with `strict` they raise. `deinterlace`: "none", "frame" or "field", see
    `deinterlaced`; `hardware`: see `DecodeConfig`. Raises SourceError.
    """

    live = False

    def __init__(
        self,
        path: Path,
        *,
        start_seconds: float = 0,
        duration_seconds: float | None = None,
        strict: bool = False,
        deinterlace: str = "none",
        hardware: str = "none",
    ) -> None:
        length = 1 if duration_seconds is None else duration_seconds
        # In this form both are false for NaN.
        if not (0 <= start_seconds <= _MAX_SECONDS and 0 < length <= _MAX_SECONDS):
            raise SourceError(
                f"{path}: the start must not be negative and the duration must be above 0 seconds, both at "
                f"most {_MAX_SECONDS:.0f}, got {start_seconds} and {duration_seconds}"
            )
        self.path = path
        self.strict = strict
        with open_input(path) as container:
            info = probe(container, path)
            begin = Fraction(container.start_time or 0, av.time_base)
        self._deinterlace, self._shown = deinterlace, 2 if deinterlace == "field" else 1
        self.info: SourceInfo = replace(
            info,
            frame_count=_expected(info, start_seconds, duration_seconds, self._shown),
            average_rate=info.average_rate * self._shown,
            time_base=info.time_base / self._shown,
            interlaced=info.interlaced and deinterlace == "none",
        )
        self._marked = info.interlaced
        origin = begin if self.info.container in _STREAMED else Fraction(0)
        base = self.info.time_base
        self._zero = round((origin + Fraction(start_seconds)) / base)
        self._start = self._zero if start_seconds else None
        self._end: int | None = None
        if duration_seconds is not None:
            self._end = self._zero + max(1, round(Fraction(duration_seconds) / base))
        self._losses = Losses(path, strict=strict)
        self._decoder = HardwareDecoder(path, info.video_index, hardware)
        self._untimed = 0

    @property
    def offset(self) -> Fraction:
        """Exact seconds subtracted from every time of the file."""
        return self._zero * self.info.time_base

    @property
    def stretch(self) -> tuple[Fraction | None, Fraction | None]:
        """The requested half-open range in seconds by the file's own clock; None = unbounded."""
        base = self.info.time_base
        return (
            None if self._start is None else self._start * base,
            None if self._end is None else self._end * base,
        )

    @property
    def damage(self) -> list[str]:
        """Losses, one sentence each; complete after an iteration."""
        return self._losses.sentences()

    @property
    def warnings(self) -> list[str]:
        """Warnings from probing, about interlacing, and from reading, without losses."""
        found = [*self.info.warnings, *on_fields(self.fields, self._marked, self._deinterlace)]
        found += self._decoder.warnings
        if self._untimed:
            found.append(f"{self._untimed} frames had a missing or non-increasing time; it was filled in")
        return found

    @cached_property
    def fields(self) -> Fields:
        """Interlacing and telecine, measured on some samples of the video."""
        info = self.info
        step = 1 / (info.average_rate * info.time_base)
        count, length = (info.frame_count or 0), _STRETCH
        first = self._zero
        if count < 2 * _STRETCHES * _STRETCH:
            starts, length = [self._start], _STRETCHES * _STRETCH
        else:
            starts = [
                self._start,
                *(first + round(step * count * n / _STRETCHES) for n in range(1, _STRETCHES)),
            ]
        return look_at_fields(self._stretch(start, length) for start in starts)

    def _stretch(self, start: int | None, length: int) -> Iterator[av.VideoFrame]:
        losses = Losses(self.path, strict=False)
        at = None if start is None else start // self._shown
        with closing(decode(self.path, self.info.video_index, losses, at)) as natives:
            for native in islice(natives, length):
                if (native.width, native.height) != (self.info.width, self.info.height):
                    return
                yield native

    def __iter__(self) -> Generator[Frame]:
        self._losses, self._untimed = Losses(self.path, strict=self.strict), 0
        index = -1
        for index, native in enumerate(self._wanted(self._losses, self._start)):
            yield self._frame(native, index)
        if index < 0:
            length = f" of {self.info.duration_seconds:.1f} s" if self.info.duration_seconds else ""
            raise SourceError(
                f"{self.path}: no frame lies in the wanted stretch, the video{length} is shorter"
            )

    def from_frame(self, first: int, pts: int) -> Generator[Frame]:
        """The frames from index `first`, with time `pts` in ticks, on, by seeking; counts no losses.

        In a file with damage or without times they may differ from an iteration from the start.
        """
        losses = Losses(self.path, strict=False)
        for index, native in enumerate(self._wanted(losses, pts + self._zero), first):
            yield self._frame(native, index)

    def sparse(self, every_seconds: float) -> Generator[Frame]:
        """About one frame per `every_seconds`, as fast as the file allows, indexed one by one.

        Counts no losses and does not deinterlace. In a file without times all frames are decoded.
        """
        start = self._reach(self._start)
        natives: Iterator[av.VideoFrame]
        if self.info.container in _UNTIMED:
            natives = decode(self.path, self.info.video_index, Losses(self.path, strict=False), start)
        else:
            natives = decode_sparsely(self.path, self.info.video_index, every_seconds, start)
        step, index = max(1, round(every_seconds / self.info.time_base)), 0
        due: int | None = None
        for native in self._within(self._by_our_clock(self._timed(natives)), self._start):
            assert native.pts is not None
            due = native.pts if due is None else due
            # Slightly early is better than a whole key frame late.
            if native.pts >= due - step // 4:
                while due <= native.pts + step // 4:
                    due += step
                yield self._frame(native, index)
                index += 1

    def _frame(self, native: av.VideoFrame, index: int) -> Frame:
        native = self._planar(native, index)
        # The source's choice of I, P and B must not bind the encoder.
        native.opaque = Siting(self.info.chroma_location or "left")
        native.pict_type = 0
        assert native.pts is not None
        native.pts, native.time_base = native.pts - self._zero, self.info.time_base
        return Frame(index, native.pts, self.info.time_base, native)

    def _wanted(self, losses: Losses, start: int | None) -> Iterator[av.VideoFrame]:
        """Frames from `start` to the end of the range, with strictly increasing times in ticks of `info.time_base`."""
        frames = self._timed(self._decoder.frames(losses, self._reach(start)))
        if self._deinterlace != "none":
            whole = (self._planar(native, index) for index, native in enumerate(frames))
            base = self.info.time_base * self._shown
            frames = deinterlaced(self.path, whole, base, self._deinterlace, self.fields.first)
        yield from self._within(frames, start)

    def _within(self, frames: Iterable[av.VideoFrame], start: int | None) -> Iterator[av.VideoFrame]:
        """The `frames` between `start` and the end of the range."""
        for native in frames:
            assert native.pts is not None
            if self._end is not None and native.pts >= self._end:
                return
            if start is None or native.pts >= start:
                yield native

    def _by_our_clock(self, frames: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        for native in frames:
            assert native.pts is not None
            native.pts *= self._shown
            yield native

    @property
    def _step(self) -> int:
        """Mean distance of frames in ticks of the file."""
        return max(1, round(1 / (self.info.average_rate * self.info.time_base)))

    def _reach(self, start: int | None) -> int | None:
        """Where decoding must begin for frames from `start` on, in ticks of the file."""
        if start is None:
            return None
        # Deinterlacing needs the neighbouring frames.
        return start // self._shown - (0 if self._deinterlace == "none" else 3 * self._step)

    def _timed(self, natives: Iterable[av.VideoFrame]) -> Iterator[av.VideoFrame]:
        """`natives` with strictly increasing times in ticks of the file."""
        step, zero = self._step, self._zero // self._shown
        last: int | None = None
        for native in natives:
            pts = native.pts
            if pts is None:
                pts = zero if last is None else last + step
                self._untimed += 1
            elif last is not None and pts <= last:
                # Half a frame, so that the next frame can keep its time.
                pts = last + max(1, step // 2)
                self._untimed += 1
            last = native.pts = pts
            yield native

    def _planar(self, native: av.VideoFrame, index: int) -> av.VideoFrame:
        """`native` in a planar format with the same samples and time."""
        info = self.info
        size = native.width, native.height
        if size != (info.width, info.height) or planar_format(native.format.name) != info.pixel_format:
            raise SourceError(
                f"{self.path}: frame {index} is {size[0]}x{size[1]} {native.format.name}, those before are "
                f"{info.width}x{info.height} {info.pixel_format}; cut the video there and restore the parts"
            )
        if native.format.name == info.pixel_format and native.planes[0].line_size > 0:
            return native
        if not is_opaque(native):
            raise SourceError(
                f"{self.path}: frame {index} is transparent, which no output supports; "
                "put it on a background first"
            )
        planar = repack(native, info.pixel_format)
        planar.pts = native.pts
        return planar


def _expected(
    info: SourceInfo, start_seconds: float, duration_seconds: float | None, shown: int
) -> int | None:
    """Estimated frames of the range, `shown` per frame of the file; None if unknown."""
    if not start_seconds and duration_seconds is None:
        return None if info.frame_count is None else info.frame_count * shown
    ends = [] if duration_seconds is None else [duration_seconds]
    if info.duration_seconds:
        ends.append(max(0.0, info.duration_seconds - start_seconds))
    if not ends:
        return None
    count = round(min(ends) * info.average_rate)
    return shown * (count if info.frame_count is None else min(count, info.frame_count))
