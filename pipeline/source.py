"""Frames out of a video file: exact times, the decoder's own planes, and an account of what was damaged."""

from __future__ import annotations

from collections.abc import Generator, Iterable, Iterator
from dataclasses import replace
from fractions import Fraction
from pathlib import Path

import av

from pipeline.coding import Siting, planar_format, planes_of
from pipeline.colour import through_filters
from pipeline.containers import open_input
from pipeline.decode import Losses, decode, decode_sparsely
from pipeline.errors import SourceError
from pipeline.frames import Frame
from pipeline.probe import SourceInfo, probe

_MAX_SECONDS = 1e8
"""Three years: more cannot be counted in every file's ticks."""
_UNTIMED = {"h264", "hevc", "m4v", "mpegvideo", "obu"}
"""Formats of bare pictures, whose times are counted."""
_STREAMED = {"mpeg", "mpegts"}
"""Formats whose clock starts anywhere: their times are counted from the first one."""


class FileSource:
    """The frames of the first video stream of a file, in the order they are shown.

    Each has the source's own time; one without a time, or with one that does not grow, gets one between.
    May be iterated again; closing an iteration closes the file. With `start_seconds` the frames before are
    dropped and times are counted from there. What cannot be decoded is left out and told in `damage`; with
    `strict` it raises instead. Raises SourceError.
    """

    live = False

    def __init__(
        self,
        path: Path,
        *,
        start_seconds: float = 0,
        duration_seconds: float | None = None,
        strict: bool = False,
    ) -> None:
        length = 1 if duration_seconds is None else duration_seconds
        # In this form both are false for a number that is none.
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
        self.info: SourceInfo = replace(info, frame_count=_expected(info, start_seconds, duration_seconds))
        origin = begin if self.info.container in _STREAMED else Fraction(0)
        base = self.info.time_base
        self._zero = round((origin + Fraction(start_seconds)) / base)
        self._start = self._zero if start_seconds else None
        self._end: int | None = None
        if duration_seconds is not None:
            self._end = self._zero + max(1, round(Fraction(duration_seconds) / base))
        self._losses = Losses(path, strict=strict)
        self._untimed = 0

    @property
    def offset(self) -> Fraction:
        """Seconds that are taken off every time of the file, exact."""
        return self._zero * self.info.time_base

    @property
    def stretch(self) -> tuple[Fraction | None, Fraction | None]:
        """The seconds of the file that are wanted, half-open, by the file's own clock; None is open."""
        base = self.info.time_base
        return (
            None if self._start is None else self._start * base,
            None if self._end is None else self._end * base,
        )

    @property
    def damage(self) -> list[str]:
        """What was lost, in sentences; complete after an iteration."""
        return self._losses.sentences()

    @property
    def warnings(self) -> list[str]:
        """Those of `info`, and what was met while reading that is no loss."""
        if not self._untimed:
            return [*self.info.warnings]
        return [*self.info.warnings, f"{self._untimed} frames had no time that grows; it was filled in"]

    def __iter__(self) -> Generator[Frame]:
        self._losses, self._untimed = Losses(self.path, strict=self.strict), 0
        index = -1
        for index, (native, pts) in enumerate(self._wanted(self._losses, self._start)):
            yield self._frame(native, index, pts - self._zero)
        if index < 0:
            length = f" of {self.info.duration_seconds:.1f} s" if self.info.duration_seconds else ""
            raise SourceError(
                f"{self.path}: no frame lies in the wanted stretch, the video{length} is shorter"
            )

    def from_frame(self, first: int, pts: int) -> Generator[Frame]:
        """The frames from number `first` on, shown at `pts` ticks, reached by seeking; counts no damage.

        In a file with damage or without times they may be others than an iteration from the start gives.
        """
        losses = Losses(self.path, strict=False)
        for index, (native, shown) in enumerate(self._wanted(losses, pts + self._zero), first):
            yield self._frame(native, index, shown - self._zero)

    def sparse(self, every_seconds: float) -> Generator[Frame]:
        """A frame about every so many seconds, as quickly as the file allows; counts no damage.

        They are numbered one by one. In a file without times of its own all frames are decoded.
        """
        if self.info.container in _UNTIMED:
            natives = decode(self.path, self.info.video_index, Losses(self.path, strict=False), self._start)
        else:
            natives = decode_sparsely(self.path, self.info.video_index, every_seconds, self._start)
        step, index = max(1, round(every_seconds / self.info.time_base)), 0
        due: int | None = None
        for native, pts in self._timed(natives, self._start):
            due = pts if due is None else due
            # A little early is better than a whole key frame late.
            if pts >= due - step // 4:
                yield self._frame(native, index, pts - self._zero)
                index += 1
                while due <= pts + step // 4:
                    due += step

    def _frame(self, native: av.VideoFrame, index: int, pts: int) -> Frame:
        self._check_shape(native, index)
        planar = self._planar(native, index)
        # Where chroma lies; and the source's choice of I, P and B must not bind the encoder.
        planar.opaque = Siting(self.info.chroma_location or "left")
        planar.pict_type = 0
        planar.pts, planar.time_base = pts, self.info.time_base
        return Frame(index, pts, self.info.time_base, planar)

    def _wanted(self, losses: Losses, start: int | None) -> Iterator[tuple[av.VideoFrame, int]]:
        return self._timed(decode(self.path, self.info.video_index, losses, start), start)

    def _timed(
        self, natives: Iterable[av.VideoFrame], start: int | None
    ) -> Iterator[tuple[av.VideoFrame, int]]:
        """Frames from `start` to the end of the wanted stretch with times that strictly increase, by the file's
        own clock."""
        step = max(1, round(1 / self.info.average_rate / self.info.time_base))
        last: int | None = None
        for native in natives:
            pts = native.pts
            if pts is None:
                pts = self._zero if last is None else last + step
                self._untimed += 1
            elif last is not None and pts <= last:
                # Half a frame, so that the next frame's own time still lies behind.
                pts = last + max(1, step // 2)
                self._untimed += 1
            last = pts
            if self._end is not None and pts >= self._end:
                return
            if start is None or pts >= start:
                yield native, pts

    def _check_shape(self, native: av.VideoFrame, index: int) -> None:
        info = self.info
        size = native.width, native.height
        if size != (info.width, info.height) or planar_format(native.format.name) != info.pixel_format:
            raise SourceError(
                f"{self.path}: frame {index} is {size[0]}x{size[1]} {native.format.name}, those before are "
                f"{info.width}x{info.height} {info.pixel_format}; cut the video there and restore the parts"
            )

    def _planar(self, native: av.VideoFrame, index: int) -> av.VideoFrame:
        """`native` with the same samples in planes of their own."""
        if native.format.name == self.info.pixel_format and native.planes[0].line_size > 0:
            return native
        if not _opaque(native):
            raise SourceError(
                f"{self.path}: frame {index} is transparent, which no output here can be; "
                "put it on a background first"
            )
        return repack(native, self.info.pixel_format)


def _expected(info: SourceInfo, start_seconds: float, duration_seconds: float | None) -> int | None:
    """Frames of the wanted stretch, an estimate; None where nothing bounds it."""
    if not start_seconds and duration_seconds is None:
        return info.frame_count
    ends = [] if duration_seconds is None else [duration_seconds]
    if info.duration_seconds:
        ends.append(max(0.0, info.duration_seconds - start_seconds))
    if not ends:
        return None
    count = round(min(ends) * info.average_rate)
    return count if info.frame_count is None else min(count, info.frame_count)


def repack(native: av.VideoFrame, pixel_format: str) -> av.VideoFrame:
    """`native` in another pixel format, with its tags; no sample changes where both hold the same samples."""
    tags = native.color_range, native.colorspace, native.color_primaries, native.color_trc
    if not native.format.is_rgb:
        # Untagged, else the converter would squeeze full range into limited.
        native.color_range = 0
    result = through_filters(native, ("format", f"pix_fmts={pixel_format}"))
    native.color_range = tags[0]
    result.color_range, result.colorspace, result.color_primaries, result.color_trc = tags
    return result


def _opaque(native: av.VideoFrame) -> bool:
    components = native.format.components
    if not any(component.is_alpha for component in components) and not native.format.has_palette:
        return True
    depth = max(component.bits for component in components)
    alpha = through_filters(native, ("alphaextract", ""))
    top = (1 << min(depth, alpha.format.components[0].bits)) - 1
    return bool((planes_of(alpha)[0] >= top).all())
