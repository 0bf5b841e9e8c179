"""Opens files of pictures and sound that nobody vouches for.

Such a file may be a playlist in disguise that makes a player read other files or the network. So the protocol
and the formats are allow-lists, checked by FFmpeg before the format's own code reads a byte.
"""

from __future__ import annotations

import os
from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipeline.errors import SourceError, reason

FORMATS = "mov,matroska,avi,mpeg,mpegts,mpegvideo,flv,asf,mxf,ogg,dv,nut,ivf,h264,hevc,m4v,obu,yuv4mpegpipe"
"""FFmpeg's names of the formats that are read: none of them can refer to another file."""


def open_input(path: Path, hardware: HWAccel | None = None) -> InputContainer:
    """The container at `path`, which the caller closes; its video is decoded by `hardware`. Raises SourceError."""
    if not os.path.exists(path):
        hint = "; addresses are not read, download the video first" if ":/" in str(path) else ""
        raise SourceError(f"{path}: no such file{hint}")
    if not path.is_file():
        raise SourceError(f"{path}: not a regular file; give the path of a video")
    try:
        # The explicit protocol keeps names with a colon from being taken for one.
        return av.open(
            f"file:{path.resolve()}",
            container_options={"protocol_whitelist": "file", "format_whitelist": FORMATS},
            metadata_errors="replace",
            hwaccel=hardware,
        )
    except av.error.ArgumentError as error:
        raise SourceError(
            f"{path}: refused, its format is not one of those read here (MP4, MOV, MKV, WebM, AVI, MPEG, "
            "FLV, ASF, MXF, Ogg, DV); playlists and lists of files are never followed"
        ) from error
    except (av.error.FFmpegError, OSError) as error:
        raise SourceError(
            f"{path}: no video that can be read ({reason(error)}); the file is damaged, was not downloaded "
            "completely, or is of another kind"
        ) from error


def chroma_location(container: InputContainer, stream_index: int) -> str | None:
    """Where a stream's chroma samples lie, in FFmpeg's words ("left", "topleft", ...); None if untold."""
    # PyAV has no name for the field; FFmpeg's own description of the file tells it at this level of detail.
    level = av.logging.get_level()
    av.logging.set_level(av.logging.VERBOSE)
    av.logging.set_libav_level(av.logging.VERBOSE)
    try:
        description: str = container.dumps_format()  # type: ignore[attr-defined]
    finally:
        av.logging.set_libav_level(av.logging.INFO)
        av.logging.set_level(level)
    for line in description.splitlines():
        if line.strip().startswith(f"Stream #0:{stream_index}") and ": Video:" in line:
            words = line.replace(")", ",").replace("(", ",").replace(" ", "").split(",")
            return next((word for word in words if word in CHROMA_LOCATIONS), None)
    return None


def is_cut_short(path: Path) -> bool:
    """Whether the parts that an MP4, MOV, Matroska or AVI file announces reach beyond its end."""
    size = path.stat().st_size
    with path.open("rb") as file:
        head = file.read(64)
        if head[:4] == _EBML:
            return _end_of_segment(head) > size
        if head[:4] == b"RIFF":
            return int.from_bytes(head[4:8], "little") + 8 > size
        if head[4:8] != b"ftyp":
            return False
        position = 0
        while position + 8 <= size:
            file.seek(position)
            head = file.read(16)
            length = int.from_bytes(head[:4], "big")
            if length == 1:
                length = int.from_bytes(head[8:16], "big")
            if length < 8:
                return False  # the last part, of any length
            position += length
        return position != size


_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def _end_of_segment(head: bytes) -> int:
    """Where a Matroska file ends by its own account; 0 where it does not say."""
    length, used = _ebml_size(head[4:12])
    start = 4 + used + length
    if head[start : start + 4] != _SEGMENT:
        return 0
    length, used = _ebml_size(head[start + 4 : start + 12])
    unknown = (1 << (7 * used)) - 1
    return 0 if length == unknown else start + 4 + used + length


def _ebml_size(field: bytes) -> tuple[int, int]:
    """A length of Matroska and the number of bytes it takes (RFC 8794, section 4)."""
    used = 9 - field[0].bit_length()
    return int.from_bytes(field[:used], "big") & ((1 << (7 * used)) - 1), used


CHROMA_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")


_MAX_UNREADABLE = 100
"""So many failed reads in a row are the end of the file."""
_PROBED = 400
"""Packets by which the distance of key frames is judged."""
_ONE_PACKET_PER_FRAME = {"h264", "hevc", "mpeg1video", "mpeg2video"}


class Losses:
    """Counts what one pass over a file could not read. With `strict` the first loss raises SourceError."""

    def __init__(self, path: Path, *, strict: bool) -> None:
        self.path = path
        self.strict = strict
        self.read = 0
        """Packets read."""
        self.discarded = 0
        """Packets that an edit list hides; they give no frame."""
        self.expected = 0
        """Packets that the header promises, 0 where it does not."""
        self.frames = 0
        """Frames decoded."""
        self.packets = 0
        """Packets that the decoder refused, or that gave no frame."""
        self.corrupt = 0
        """Frames that were decoded with errors."""
        self.skipped = 0
        """Frames that a graphics card left out without a word."""
        self.truncated = False
        self._interlaced = False

    @property
    def missing(self) -> int:
        """Packets that have given no frame."""
        return self.read - self.discarded - self.frames

    def frame(self, native: av.VideoFrame) -> None:
        """One frame is decoded, perhaps with damaged areas."""
        self.frames += 1
        self._interlaced |= native.interlaced_frame
        if native.is_corrupt:
            self.corrupt += 1
            self._refuse(f"the frame at {native.time} s is damaged")

    def packet(self, error: av.error.FFmpegError) -> None:
        """One packet cannot be decoded."""
        self.packets += 1
        self._refuse(f"packet {self.read} cannot be decoded ({error.strerror or 'invalid data'})")

    def skip(self) -> None:
        """One frame that software decodes was left out by a graphics card, and its time is over."""
        self.skipped += 1
        self._refuse("the graphics card left out a frame")

    def settle(self, codec: str, *, whole: bool = True, cut: bool = False) -> None:
        """The end of the file is reached.

        `codec`: where each packet is one frame, what PyAV dropped without a word shows in the count (not for
        interlaced video, where it may be half a frame). `whole`: it was read from its beginning; behind a seek the
        first frames may lean on ones before it, which is no loss. `cut`: the file is shorter than it says.
        """
        if whole and codec in _ONE_PACKET_PER_FRAME and not self._interlaced:
            refused, self.packets = self.packets, max(0, self.missing)
            if self.packets > refused:
                self._refuse(f"{_count(self.packets, 'packet')} gave no frame")
        if cut or self.read < self.expected:
            self.cut_short()

    def cut_short(self) -> None:
        """The file ends before its time."""
        self.truncated = True
        self._refuse("the file ends before its time")

    def sentences(self) -> list[str]:
        """What was lost, for people."""
        found = []
        if self.packets:
            found.append(f"{_count(self.packets, 'frame')} could not be decoded and left out")
        if self.corrupt:
            found.append(f"{_count(self.corrupt, 'frame')} decoded with errors, kept as decoded")
        if self.skipped:
            found.append(
                f"{_count(self.skipped, 'frame')} left out by the graphics card; use decode.hardware=none"
            )
        if self.truncated:
            missing = self.expected - self.read
            count = f", {_count(missing, 'frame')} missing" if missing > 0 else ""
            found.append(f"the file ends before its time{count}; it was not copied or downloaded completely")
        return found

    def _refuse(self, what: str) -> None:
        if self.strict:
            raise SourceError(f"{self.path}: {what}; leave out --strict to keep what can be decoded")


def decode(
    path: Path, stream_index: int, losses: Losses, start_pts: int | None = None
) -> Generator[av.VideoFrame]:
    """The frames of a stream as they are shown, from a key frame at or before `start_pts` on."""
    last: int | None = None
    with open_input(path) as container:
        stream = video_stream(container, stream_index)
        stream.thread_type = "AUTO"
        begin(container, stream, losses, start_pts)
        for native in _frames_of_packets(container, stream, stream.codec_context, losses):
            last = native.pts
            yield native
        drained, codec = _drained(stream.codec_context, losses), stream.codec_context.name
    if last is not None and losses.missing > len(drained):
        # How many came out before the error depends on the threads' timing, so none of them is taken.
        drained = _tail(path, stream_index, last)
    for native in drained:
        losses.frame(native)
        yield native
    losses.settle(codec, whole=start_pts is None, cut=is_cut_short(path))


def decode_sparsely(
    path: Path, stream_index: int, every_seconds: float, start_pts: int | None = None
) -> Iterator[av.VideoFrame]:
    """Some frames of a stream, at least about one in `every_seconds` where the decoder can leave others out.

    From a key frame at or before `start_pts` on. What cannot be decoded is not told.
    """
    with open_input(path) as container:
        stream = video_stream(container, stream_index)
        are_dense = _keys_are_dense(container, stream, every_seconds)
        stream.thread_type = "AUTO"
        # Frames that no other one leans on are left out, half of those of most films, or all between key frames.
        stream.codec_context.skip_frame = "NONKEY" if are_dense else "NONREF"
        container.seek(0 if start_pts is None else start_pts, stream=stream, backward=True)
        yield from all_frames(container, stream, Losses(path, strict=False))


def _keys_are_dense(container: InputContainer, stream: VideoStream, every_seconds: float) -> bool:
    """Whether key frames alone come often enough, as far as the beginning of the file tells."""
    keys = []
    for count, packet in enumerate(read_packets(container, (stream,))):
        if packet.is_keyframe and packet.pts is not None:
            keys.append(float(packet.pts * packet.time_base))
        if count >= _PROBED:
            break
    gaps = [after - before for before, after in pairwise(sorted(keys))]
    return len(gaps) > 2 and max(gaps) <= every_seconds


def begin(container: InputContainer, stream: VideoStream, losses: Losses, pts: int | None) -> None:
    """Goes to a key frame from which the frame at `pts` can be decoded, None to the beginning."""
    if pts is None:
        losses.expected = stream.frames
        return
    far = round(10 / stream.time_base) if stream.time_base else 0
    # Some containers seek too far; then earlier, and at last from the start.
    for target in (pts, pts - far, min(0, stream.start_time or 0)):
        container.seek(target, stream=stream, backward=True)
        first = next(all_frames(container, stream, Losses(Path(), strict=False)), None)
        container.seek(target, stream=stream, backward=True)
        if first is not None and first.pts is not None and first.pts <= pts:
            return


def read_packets(
    container: InputContainer, streams: tuple[Any, ...], losses: Losses | None = None
) -> Iterator[Packet[Any]]:
    """Packets of `streams` in the order of the file, going on after read errors."""
    failed = 0
    packets = container.demux(*streams)
    while failed < _MAX_UNREADABLE:
        try:
            packet = next(packets)
        except StopIteration:
            return
        except av.error.FFmpegError:
            failed += 1
            packets = container.demux(*streams)
            continue
        if packet.size:
            failed = 0
            yield packet
    if losses is not None:
        losses.cut_short()


def all_frames(
    container: InputContainer, stream: VideoStream, losses: Losses, context: VideoCodecContext | None = None
) -> Iterator[av.VideoFrame]:
    """The frames of `stream` from where `container` stands, by its own decoder or by `context`."""
    context = context or stream.codec_context
    yield from _frames_of_packets(container, stream, context, losses)
    for native in _drained(context, losses):
        losses.frame(native)
        yield native


def _frames_of_packets(
    container: InputContainer, stream: VideoStream, context: VideoCodecContext, losses: Losses
) -> Iterator[av.VideoFrame]:
    """What the decoder `context` gives while it is fed with the packets of `stream`."""
    for packet in read_packets(container, (stream,), losses):
        losses.read += 1
        losses.discarded += packet.is_discard
        try:
            natives = context.decode(packet)
        except av.error.FFmpegError as error:
            losses.packet(error)
            continue
        for native in natives:
            losses.frame(native)
            yield native


def _drained(context: VideoCodecContext, losses: Losses) -> list[av.VideoFrame]:
    """What is still inside the decoder when all packets are in; not counted yet."""
    try:
        return list(context.decode(None))
    except av.error.FFmpegError as error:
        losses.packet(error)
        return []


def _tail(path: Path, stream_index: int, last: int) -> list[av.VideoFrame]:
    """Frames after the time `last`, decoded once more.

    An error while frame threads are drained ends the draining in PyAV, silently and with good frames still
    inside. Without frame threads an error comes with its own packet, and draining has none.
    """
    with open_input(path) as container:
        stream = video_stream(container, stream_index)
        container.seek(last, stream=stream, backward=True)
        stream.thread_type = "SLICE"
        natives = all_frames(container, stream, Losses(path, strict=False))
        return [native for native in natives if native.pts is not None and native.pts > last]


def video_stream(container: InputContainer, index: int) -> VideoStream:
    """The stream `index`, which is video."""
    stream = container.streams[index]
    assert isinstance(stream, VideoStream)
    return stream


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
