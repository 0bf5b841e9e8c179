"""Sound, subtitles and all else of the input, carried into the output packet by packet."""

from __future__ import annotations

import io
from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer, OutputContainer
from av.packet import Packet
from av.stream import AttachmentStream, DataStream, Disposition, Stream

from pipeline.media.decode import open_input, read_packets

_OWN_TAGS = {"encoder", "duration", "number_of_frames", "number_of_bytes", "bps", "rotate"}
"""Tags that describe the input's own encoding and would lie about the output."""
_FILE_TAGS = {"major_brand", "minor_version", "compatible_brands", "encoder", "comment"}


class StreamCopier:
    """Copies the packets of every stream but the video that is restored, in step with it.

    What the output's container cannot hold is left out, with a sentence in `warnings`.
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
        """Gives the output a stream like `stream`; all must be added before the first packet."""
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
        """Cover art: in Matroska an attached file, where FFmpeg's muxer would make a video of it."""
        kind = "png" if _codec(stream) == "png" else "jpeg"
        name = stream.metadata.get("filename", f"cover.{kind.replace('e', '')}")
        with open_input(Path(self._input.name.removeprefix("file:"))) as source:
            still = next(read_packets(source, (source.streams[stream.index],)), None)
        if still is not None:
            self._output.add_attachment(name, stream.metadata.get("mimetype", f"image/{kind}"), bytes(still))

    def copy_until(self, seconds: Fraction | None) -> None:
        """Writes the packets that are due before `seconds` of the output; all that are left with None."""
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
                continue  # the muxer fills the gaps between subtitles itself
            if _is_still(packet.stream) or self._place(packet):
                packet.stream = self._targets[packet.stream_index]
                yield packet

    def _place(self, packet: Packet[Any]) -> bool:
        """Moves `packet` to its time in the output; whether it lies in the wanted stretch."""
        base, index = packet.time_base, packet.stream_index
        shift, last = round(self._offset / base), self._last_dts.get(index)
        following = None if last is None else last + 1 + shift
        pts, dts = packet.pts, packet.dts
        if pts is None:
            pts = dts if dts is not None else following or shift
            self._note_repair(packet)
        if dts is None:
            # Matroska keeps no decoding times; a few frames ahead of the first is early enough for B-frames.
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
                f"{_describe(packet.stream)} had times that did not grow; they were moved on"
            )


def _is_still(stream: Stream) -> bool:
    return bool(stream.disposition & Disposition.attached_pic)


def carried_tags(tags: dict[str, str]) -> dict[str, str]:
    """The tags of a stream that are as true of its copy."""
    return {
        name: value
        for name, value in tags.items()
        if name.lower().split("-")[0] not in _OWN_TAGS and not name.startswith("_STATISTICS")
    }


def file_tags(tags: dict[str, str], note: str) -> dict[str, str]:
    """The tags of the output file: those of the input, with `note` added to the comment."""
    carried = {name: value for name, value in tags.items() if name.lower() not in _FILE_TAGS}
    comments = [value for name, value in tags.items() if name.lower() == "comment" and value != note]
    return carried | {"comment": "; ".join([*comments, note])}


def _written_by_muxer(stream: Stream, container: str, source: InputContainer) -> bool:
    """Chapter texts and time codes of MP4 and MOV: made anew from chapters and tags."""
    if not isinstance(stream, DataStream) or "mov" not in source.format.name:
        return False
    chapters = stream.name == "bin_data" and bool(source.chapters())
    return chapters or ("timecode" in stream.metadata and container in ("mov", "mp4"))


def _refusal(stream: Stream, container: str) -> str | None:
    """Why a container cannot hold `stream`; None where it can."""
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
