"""Writes a restored video with the times, tags and other streams of the source; the file appears when complete."""

from __future__ import annotations

import io
import math
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, DataStream, Disposition, Stream
from av.video.stream import VideoStream

from pipeline.errors import MediaError, SinkError
from pipeline.media.decode import open_input, read_packets
from pipeline.media.encode import EncodeConfig, add_encoder, choose_encoding, kept_scheduling, prepare
from pipeline.media.files import DISK_FULL, PartialFile
from pipeline.media.layout import frame_size
from pipeline.media.source import FileSource

if TYPE_CHECKING:
    from av.container.core import Chapter

# Classic tags of MP4 and MOV; other tags need the newer metadata format, which fewer players read.
_CLASSIC_TAGS = {
    "title", "artist", "album_artist", "composer", "album", "date", "comment", "genre", "copyright",
    "grouping", "lyrics", "description", "synopsis", "show", "episode_id", "network", "keywords",
    "creation_time", "language",
}  # fmt: skip


class FileSink:
    """Encodes frames into `path` and copies the other streams of `source`.

    A context manager: the file gets its name when the block ends without an error, else nothing is left. `columns`:
    frames side by side, or `size`: another size of frames; `note`: added to the file's comment; `folder`: takes the
    unfinished file. Raises SinkError: at once if `path` must not be written, later if encoding or the disk fails.
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
        """The file before it gets its name."""
        return self._file.path

    @property
    def warnings(self) -> list[str]:
        """Streams left out and changes made, one sentence each."""
        return [*self._warnings, *(self._copier.warnings if hasattr(self, "_copier") else [])]

    def __enter__(self) -> Self:
        with self._whole_or_nothing(), self._explained():
            self._file.create()
            self._open()
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Encodes `native` at time `pts` in ticks of the source's time base; times must increase."""
        with self._explained():
            self._mux(prepare(native, self._encoding, pts, self._source.info.time_base))
        self._written += 1

    def copy(self, packet: Packet[VideoStream]) -> None:
        """Writes a packet of an equal encoder (`add_encoder`) in place of encoding a frame."""
        self._encodes = False
        packet.stream = self._stream
        with self._explained():
            self._mux_packet(packet)
        self._written += 1

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._abandon()
            return
        with self._whole_or_nothing(), self._explained():
            if self._encodes:
                self._mux(None)
            self._copier.copy_until(None)
            self._output.close()
            self._stack.close()
            self._file.commit()

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
        # Closing the muxer may repeat the failure that is being reported.
        with suppress(av.error.FFmpegError, OSError, ValueError):
            if hasattr(self, "_output"):
                self._output.close()
        self._stack.close()
        self._file.discard()

    @contextmanager
    def _whole_or_nothing(self) -> Iterator[None]:
        """Discards the file at any error, interrupts included, which may come at any moment."""
        try:
            yield
        except BaseException:
            self._abandon()
            raise

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turns errors of the encoder, the muxer and the disk into SinkError."""
        try:
            yield
        except MediaError:
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            if getattr(error, "errno", None) in DISK_FULL:
                raise SinkError(
                    f"{self.path}: the disk is full after {self._written} frames; free some space and run again"
                ) from error
            raise SinkError(
                f"{self.path}: {self._encoding.codec} in {self._encoding.container} failed after {self._written} "
                f"frames ({str(error).lower()}); try another container or --codec"
            ) from error


def _container_options(container: str, source: InputContainer, video_index: int) -> dict[str, str]:
    if container in ("mp4", "mov"):
        # Start times are stored in movie ticks: exact if every track's time base divides them.
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
        # Do not shift all times because of negative decoding times; keep the source's default flags.
        return {"avoid_negative_ts": "disabled", "default_mode": "passthrough"}
    return {}


_OWN_TAGS = {"encoder", "duration", "number_of_frames", "number_of_bytes", "bps", "rotate"}
"""Tags about the input's own encoding, wrong for the output."""
_FILE_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "comment"}


class StreamCopier:
    """Copies the packets of all streams but the restored video, in step with it.

    Streams that the output's container cannot hold are left out, with a sentence in `warnings`.
    """

    def __init__(
        self,
        container: InputContainer,
        output: OutputContainer,
        *,
        offset: Fraction,
        stretch: tuple[Fraction | None, Fraction | None],
    ) -> None:
        self.warnings: list[str] = []
        self._input = container
        self._output = output
        self._offset = offset
        self._start, self._end = stretch
        self._targets: dict[int, Any] = {}
        self._last_dts: dict[int, int] = {}
        self._repaired: set[int] = set()
        self._packets: Iterator[Packet[Any]] | None = None
        self._waiting: Packet[Any] | None = None

    def add(self, stream: Stream) -> None:
        """Adds a stream like `stream` to the output; call before the first packet."""
        container = self._output.format.name
        if _written_by_muxer(stream, container, self._input):
            return
        if _is_still(stream) and container == "matroska":
            self._attach(stream)
            return
        reason = _refusal(stream, container)
        if reason:
            other = "" if _refusal(stream, "matroska") else "; an .mkv output can hold it"
            self.warnings.append(f"{_describe(stream)} is left out: {reason}{other}")
            return
        target = self._output.add_stream_from_template(stream, opaque=True)
        target.metadata.update(carried_tags(stream.metadata))
        target.disposition = stream.disposition
        if not isinstance(stream, AttachmentStream):
            self._targets[stream.index] = target

    def _attach(self, stream: Stream) -> None:
        """Adds cover art to Matroska as an attached file: FFmpeg's muxer would make it a video."""
        kind = "png" if _codec(stream) == "png" else "jpeg"
        name = stream.metadata.get("filename", f"cover.{kind.replace('e', '')}")
        with open_input(Path(self._input.name.removeprefix("file:"))) as source:
            still = next(read_packets(source, (source.streams[stream.index],)), None)
        if still is not None:
            self._output.add_attachment(name, stream.metadata.get("mimetype", f"image/{kind}"), bytes(still))

    def copy_until(self, seconds: Fraction | None) -> None:
        """Writes the packets due before `seconds` of the output; None = all."""
        if self._packets is None:
            self._packets = self._wanted()
            self._waiting = next(self._packets, None)
        while self._waiting is not None:
            packet = self._waiting
            due = packet.dts if packet.dts is not None else packet.pts
            if seconds is not None and due is not None and due * packet.time_base > seconds:
                return
            self._output.mux(packet)
            self._waiting = next(self._packets, None)

    def _wanted(self) -> Iterator[Packet[Any]]:
        streams = tuple(self._input.streams[index] for index in self._targets)
        if not streams:
            return
        if self._start is not None:
            self._input.seek(int(self._start * av.time_base), backward=True)
        for packet in read_packets(self._input, streams):
            gap = packet.size == 2 and _codec(packet.stream) == "mov_text"
            if gap and self._output.format.name in ("mp4", "mov"):
                continue  # the muxer fills gaps between subtitles
            if _is_still(packet.stream) or self._place(packet):
                packet.stream = self._targets[packet.stream_index]
                yield packet

    def _place(self, packet: Packet[Any]) -> bool:
        """Shifts `packet` to its time in the output. Returns whether it lies in the requested range."""
        base, index = packet.time_base, packet.stream_index
        shift, last = round(self._offset / base), self._last_dts.get(index)
        following = None if last is None else last + 1 + shift
        pts, dts = packet.pts, packet.dts
        if pts is None:
            pts = dts if dts is not None else following or shift
            self._note_repair(packet)
        if dts is None:
            # Matroska stores no decoding times; a few frames before the first suffice for B-frames.
            ahead = packet.stream.type == "video" and packet.stream.average_rate
            early = pts - (round(3 / packet.stream.average_rate / base) if ahead else 0)
            dts = early if following is None else min(pts, following)
        if self._end is not None and pts * base >= self._end:
            return False
        if self._start is not None and (pts + (packet.duration or 0)) * base <= self._start:
            return False
        pts, dts = pts - shift, dts - shift
        if last is not None and dts <= last and packet.stream.type in ("audio", "video"):
            dts = last + 1
            pts = max(pts, dts)
            self._note_repair(packet)
        self._last_dts[index] = dts
        packet.pts, packet.dts = pts, dts
        return True

    def _note_repair(self, packet: Packet[Any]) -> None:
        if packet.stream_index not in self._repaired:
            self._repaired.add(packet.stream_index)
            self.warnings.append(
                f"{_describe(packet.stream)} had times that did not increase; they were moved"
            )


def _is_still(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def carried_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags of a stream that hold for its copy."""
    return {
        name: value
        for name, value in tags.items()
        if name.lower().split("-")[0] not in _OWN_TAGS and not name.startswith("_STATISTICS")
    }


def file_tags(tags: dict[str, str], note: str) -> dict[str, str]:
    """The tags of the output file: the input's, with `note` added to the comment."""
    carried = {name: value for name, value in tags.items() if name.lower() not in _FILE_TAGS}
    comments = [value for name, value in tags.items() if name.lower() == "comment" and value != note]
    return carried | {"comment": "; ".join([*comments, note])}


def _written_by_muxer(stream: Stream, container: str, source: InputContainer) -> bool:
    """Whether `stream` holds chapter texts or time codes of MP4 and MOV, which the muxer writes itself."""
    if not isinstance(stream, DataStream) or "mov" not in source.format.name:
        return False
    chapters = stream.name == "bin_data" and bool(source.chapters())
    return chapters or ("timecode" in stream.metadata and container in ("mov", "mp4"))


def _refusal(stream: Stream, container: str) -> str | None:
    """Why a container cannot hold `stream`; None if it can."""
    name = {"matroska": "Matroska", "mpeg": "MPEG-PS", "mpegts": "MPEG-TS"}.get(container, container.upper())
    try:
        with av.open(io.BytesIO(), "w", format=container) as trial:
            target = trial.add_stream_from_template(stream, opaque=True)
            target.metadata.update(stream.metadata)
            trial.start_encoding()
    except (ValueError, av.error.FFmpegError):
        return f"{name} cannot hold {_codec(stream)}"
    return None


def _describe(stream: Stream) -> str:
    language = stream.metadata.get("language", "und")
    spoken = "" if language == "und" else f" ({language})"
    return f"stream {stream.index}, {stream.type}{spoken},"


def _codec(stream: Stream) -> str:
    if stream.codec_context is not None:
        return stream.codec_context.codec.canonical_name
    return getattr(stream, "name", None) or "a stream of unknown kind"
