"""A restored video into a file: same times and tags as the source, all its other streams, whole or none."""

from __future__ import annotations

import errno
import math
import os
from contextlib import ExitStack, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Self

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.video.stream import VideoStream

from pipeline.errors import MediaError, SinkError
from pipeline.media.decode import open_input
from pipeline.media.encode import EncodeConfig, Encoding, choose_encoding, kept_scheduling
from pipeline.media.files import PartialFile
from pipeline.media.layout import cell_size, grid_size, repack
from pipeline.media.probe import SourceInfo
from pipeline.media.source import FileSource
from pipeline.media.streams import StreamCopier, carried_tags, file_tags

if TYPE_CHECKING:
    from av.container.core import Chapter

__all__ = ["EncodeConfig", "FileSink"]

# What MP4 and MOV keep as classic tags; others need the newer way of writing, which fewer players read.
_CLASSIC_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright",
    "grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords",
    "creation_time", "language",
}  # fmt: skip


class FileSink:
    """Encodes frames into `path` beside the copied streams of `source`.

    A context manager: the file gets its name when the block ends well, else nothing of it is left. `columns`
    frames stand side by side (for comparisons), or frames have another `size`; `note` says in the file's comment what
    was done to it; `folder` takes the unfinished file. Raises SinkError: at once where `path` must not be written,
    later where encoding or the disk fails.
    """

    def __init__(
        self,
        path: Path,
        source: FileSource,
        encode: EncodeConfig | None = None,
        *,
        overwrite: bool = False,
        columns: int = 1,
        size: tuple[int, int] | None = None,
        note: str = "faces restored by anchorface",
        folder: Path | None = None,
    ) -> None:
        info = source.info
        self.path = path
        self.width, self.height = size or frame_size(
            info.width, info.height, info.rotation, columns=columns, pixel_format=info.pixel_format
        )
        self._source = source
        self._note = note
        self._file = PartialFile(path, source=source.path, overwrite=overwrite, folder=folder)
        self._encoding = choose_encoding(path, info, self.width, self.height, encode or EncodeConfig())
        self._warnings = list(self._encoding.warnings)
        self._written = 0
        self._encodes = True
        self._stack = ExitStack()

    @property
    def unfinished(self) -> Path:
        """The file that gets the name in the end."""
        return self._file.path

    @property
    def warnings(self) -> list[str]:
        """What could not be carried and what was changed, in sentences."""
        return [*self._warnings, *(self._copier.warnings if hasattr(self, "_copier") else [])]

    def __enter__(self) -> Self:
        try:
            self._file.create()
            self._open()
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._abandon()
            raise self._sentence(error) from error
        except BaseException:
            # An interrupt too, which may come at any moment from the making of the file on.
            self._abandon()
            raise
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Encodes `native`, to be shown at `pts` ticks of the source's time base; times must increase."""
        try:
            self._mux(ready(native, self._encoding, pts, self._source.info.time_base))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._sentence(error) from error
        self._written += 1

    def copy(self, packet: Packet[VideoStream]) -> None:
        """Writes a packet of an encoder like this one's (`add_encoder`), in place of encoding a frame."""
        self._encodes = False
        packet.stream = self._stream
        try:
            self._mux_packet(packet)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._sentence(error) from error
        self._written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon()
            return
        try:
            if self._encodes:
                self._mux(None)
            self._copier.copy_until(None)
            self._output.close()
            self._stack.close()
            self._file.commit()
        except (av.error.FFmpegError, OSError, ValueError) as failure:
            self._abandon()
            raise self._sentence(failure) from failure
        except BaseException:
            self._abandon()
            raise

    def _open(self) -> None:
        source = self._stack.enter_context(open_input(self._source.path))
        index = self._source.info.video_index
        self._output = av.open(
            f"file:{self._file.path.resolve()}",
            "w",
            format=self._encoding.container,
            container_options=_container_options(self._encoding.container, source, index),
        )
        self._copier = StreamCopier(
            source, self._output, offset=self._source.offset, stretch=self._source.stretch
        )
        for stream in source.streams:
            if stream.index == index:
                assert isinstance(stream, VideoStream)
                self._add_video(stream)
            else:
                self._copier.add(stream)
        self._output.metadata.update(file_tags(source.metadata, self._note))
        self._output.set_chapters(self._chapters(source))

    def _add_video(self, template: VideoStream) -> None:
        stream = add_encoder(self._output, self._encoding, self._source.info, self.width, self.height)
        if self._source.info.display_matrix:
            stream.set_display_matrix(self._source.info.display_matrix)
        stream.metadata.update(carried_tags(template.metadata))
        stream.disposition = template.disposition
        self._stream = stream

    def _mux(self, native: av.VideoFrame | None) -> None:
        with kept_scheduling():
            packets = self._stream.encode(native)
        for packet in packets:
            self._mux_packet(packet)

    def _mux_packet(self, packet: Packet[VideoStream]) -> None:
        if packet.dts is not None:
            self._copier.copy_until(packet.dts * packet.time_base)
        self._output.mux(packet)

    def _chapters(self, source: InputContainer) -> list[Chapter]:
        offset, (start, end) = self._source.offset, self._source.stretch
        chapters: list[Chapter] = []
        for chapter in source.chapters():
            base = chapter["time_base"] or Fraction(1, av.time_base)
            first, last = chapter["start"] * base, chapter["end"] * base
            if (end is not None and first >= end) or (start is not None and last <= start):
                continue
            shift = round(offset / base)
            chapters.append(
                {**chapter, "start": max(0, chapter["start"] - shift), "end": max(0, chapter["end"] - shift)}
            )
        return chapters

    def _abandon(self) -> None:
        # The muxer may complain while it is closed about the very failure that is being reported.
        with suppress(av.error.FFmpegError, OSError, ValueError):
            if hasattr(self, "_output"):
                self._output.close()
        self._stack.close()
        self._file.discard()

    def _sentence(self, error: Exception) -> MediaError:
        """What the encoder, the muxer or the disk complained about, for people."""
        if isinstance(error, MediaError):
            return error
        if getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            return SinkError(
                f"{self.path}: the disk is full after {self._written} frames; free some space and run again"
            )
        return SinkError(
            f"{self.path}: {self._encoding.codec} in {self._encoding.container} failed after {self._written} "
            f"frames ({str(error).lower()}); try another container or --codec"
        )


def add_encoder(
    output: OutputContainer, encoding: Encoding, info: SourceInfo, width: int, height: int
) -> VideoStream:
    """A stream of `output` that encodes frames of `width` x `height` like those of `info`."""
    if encoding.codec == "libsvtav1":
        # It writes its settings to stderr, past every log level but its own.
        os.environ.setdefault("SVT_LOG", "1")
    stream = output.add_stream(encoding.codec, rate=info.average_rate, options=dict(encoding.options))
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    context.width, context.height = width, height
    context.pix_fmt = encoding.pixel_format
    # MPEG-1 and 2 know nothing but a frame rate: their frames are put on its grid.
    gridded = encoding.codec in ("mpeg1video", "mpeg2video")
    context.time_base = stream.time_base = 1 / info.average_rate if gridded else info.time_base
    context.thread_type = "AUTO"
    context.flags |= av.codec.context.Flags.frame_duration
    context.color_range = info.color_range
    context.color_primaries = info.color_primaries
    context.color_trc = info.color_transfer
    context.colorspace = info.color_matrix
    if info.sample_aspect_ratio:
        context.sample_aspect_ratio = info.sample_aspect_ratio
    if encoding.codec in ("libx265", "hevc_nvenc") and encoding.container in ("mp4", "mov"):
        context.codec_tag = "hvc1"
    return stream


def ready(native: av.VideoFrame, encoding: Encoding, pts: int, time_base: Fraction) -> av.VideoFrame:
    """`native` as the encoder takes it, to be shown at `pts` ticks of `time_base`."""
    if native.format.name != encoding.pixel_format:
        native = repack(native, encoding.pixel_format)
    native.pict_type = 0
    native.pts, native.time_base = pts, time_base
    return native


def frame_size(width: int, height: int, rotation: int, *, columns: int, pixel_format: str) -> tuple[int, int]:
    """Size of a coded frame that shows `columns` frames side by side after `rotation` degrees.

    Frames stand beside each other on whole chroma samples; so several of them are cut to whole ones.
    """
    size = cell_size(width, height, pixel_format) if columns > 1 else (width, height)
    return grid_size(size, columns, 1, rotation)


def _container_options(container: str, source: InputContainer, video_index: int) -> dict[str, str]:
    if container in ("mp4", "mov"):
        # Start times are written in ticks of the movie: they are exact when these divide every track's.
        bases = [s.time_base for s in source.streams if s.type in ("video", "audio") and s.time_base]
        scale = math.lcm(*(base.denominator for base in bases))
        if scale >= 1 << 31:
            base = source.streams[video_index].time_base
            assert base is not None
            scale = base.denominator
        options = {"movie_timescale": str(scale)}
        if any(name.lower() not in _CLASSIC_TAGS for name in file_tags(source.metadata, "")):
            options["movflags"] = "use_metadata_tags"
        return options
    if container in ("matroska", "webm"):
        # Decoding times before 0 are no reason to move all times; and who is default is told by the source.
        return {"avoid_negative_ts": "disabled", "default_mode": "passthrough"}
    return {}
