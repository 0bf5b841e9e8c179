"""Opens untrusted media files, and gives their packets and frames with an account of every loss.

A file may be a disguised playlist that makes a player read other files or the network. So protocols and formats are
allow-lists, which FFmpeg checks before any code of a format reads a byte.
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
"""FFmpeg's names of the accepted formats: none of them can refer to another file."""


def open_input(path: Path, hardware: HWAccel | None = None) -> InputContainer:
    """The container at `path`, to be closed by the caller; `hardware` decodes its video. Raises SourceError."""
    if not os.path.exists(path):
        hint = "; addresses are not read, download the video first" if ":/" in str(path) else ""
        raise SourceError(f"{path}: no such file{hint}")
    if not path.is_file():
        raise SourceError(f"{path}: not a regular file; give the path of a video")
    try:
        # Without an explicit protocol a name with a colon would be parsed as one.
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
    """Chroma siting of a stream in FFmpeg's terms ("left", "topleft", ...); None if unspecified."""
    # PyAV does not expose the field; FFmpeg's verbose dump of the file contains it.
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
    """Whether an MP4, MOV, Matroska or AVI file is shorter than its headers say."""
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
                return False  # the last box, of any length
            position += length
        return position != size


_EBML, _SEGMENT = b"\x1a\x45\xdf\xa3", b"\x18\x53\x80\x67"


def _end_of_segment(head: bytes) -> int:
    """End of a Matroska file according to its header; 0 if unknown."""
    length, used = _ebml_size(head[4:12])
    start = 4 + used + length
    if head[start : start + 4] != _SEGMENT:
        return 0
    length, used = _ebml_size(head[start + 4 : start + 12])
    unknown = (1 << (7 * used)) - 1
    return 0 if length == unknown else start + 4 + used + length


def _ebml_size(field: bytes) -> tuple[int, int]:
    """A length in EBML and the number of bytes that code it (RFC 8794, section 4)."""
    used = 9 - field[0].bit_length()
    return int.from_bytes(field[:used], "big") & ((1 << (7 * used)) - 1), used


CHROMA_LOCATIONS = ("left", "center", "topleft", "top", "bottomleft", "bottom")


_MAX_UNREADABLE = 100
"""Failed reads in a row that end the file."""
_PROBED = 400
"""Packets from which the distance of key frames is estimated."""
_ONE_PACKET_PER_FRAME = {"h264", "hevc", "mpeg1video", "mpeg2video"}


class Losses:
    """Counts the losses of one pass over a file. With `strict` the first loss raises SourceError."""

    def __init__(self, path: Path, *, strict: bool) -> None:
        self.path = path
        self.strict = strict
        self.read = 0
        """Packets read."""
        self.discarded = 0
        """Packets hidden by an edit list; they give no frame."""
        self.expected = 0
        """Packets according to the header; 0 if unknown."""
        self.frames = 0
        """Frames decoded."""
        self.packets = 0
        """Packets that the decoder refused or that gave no frame."""
        self.corrupt = 0
        """Frames decoded with errors."""
        self.skipped = 0
        """Frames that a hardware decoder left out silently."""
        self.truncated = False
        self._interlaced = False

    @property
    def missing(self) -> int:
        """Packets without a frame so far."""
        return self.read - self.discarded - self.frames

    def frame(self, native: av.VideoFrame) -> None:
        """Counts a decoded frame, perhaps with damaged areas."""
        self.frames += 1
        self._interlaced |= native.interlaced_frame
        if native.is_corrupt:
            self.corrupt += 1
            self._refuse(f"the frame at {native.time} s is damaged")

    def packet(self, error: av.error.FFmpegError) -> None:
        """Counts a packet that cannot be decoded."""
        self.packets += 1
        self._refuse(f"packet {self.read} cannot be decoded ({error.strerror or 'invalid data'})")

    def skip(self) -> None:
        """Counts a frame that the hardware decoder left out and whose time has passed."""
        self.skipped += 1
        self._refuse("the graphics card left out a frame")

    def settle(self, codec: str, *, whole: bool = True, cut: bool = False) -> None:
        """Completes the account at the end of the file.

        `codec`: if each packet is one frame, the count shows what PyAV dropped silently (not for interlaced video:
        a packet may be half a frame). `whole`: read from the start; after a seek the first frames may depend on earlier
        ones, which is no loss. `cut`: the file is shorter than its header says.
        """
        if whole and codec in _ONE_PACKET_PER_FRAME and not self._interlaced:
            refused, self.packets = self.packets, max(0, self.missing)
            if self.packets > refused:
                self._refuse(f"{_count(self.packets, 'packet')} gave no frame")
        if cut or self.read < self.expected:
            self.cut_short()

    def cut_short(self) -> None:
        """Counts a truncated file."""
        self.truncated = True
        self._refuse("the file ends before its time")

    def sentences(self) -> list[str]:
        """The losses, one sentence each."""
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
    """The frames of a stream in presentation order, from a key frame at or before `start_pts` on."""
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
        # The number of frames before the error depends on thread timing, so they are decoded again.
        drained = _tail(path, stream_index, last)
    for native in drained:
        losses.frame(native)
        yield native
    losses.settle(codec, whole=start_pts is None, cut=is_cut_short(path))


def decode_sparsely(
    path: Path, stream_index: int, every_seconds: float, start_pts: int | None = None
) -> Iterator[av.VideoFrame]:
    """A subset of a stream's frames, at least about one per `every_seconds`, as far as the decoder can skip others.

    From a key frame at or before `start_pts` on. Losses are not reported.
    """
    with open_input(path) as container:
        stream = video_stream(container, stream_index)
        are_dense = _keys_are_dense(container, stream, every_seconds)
        stream.thread_type = "AUTO"
        # Skips frames that no other depends on (half of most films), or all but key frames.
        stream.codec_context.skip_frame = "NONKEY" if are_dense else "NONREF"
        container.seek(0 if start_pts is None else start_pts, stream=stream, backward=True)
        yield from all_frames(container, stream, Losses(path, strict=False))


def _keys_are_dense(container: InputContainer, stream: VideoStream, every_seconds: float) -> bool:
    """Whether key frames alone are frequent enough, judged by the start of the file."""
    keys = []
    for count, packet in enumerate(read_packets(container, (stream,))):
        if packet.is_keyframe and packet.pts is not None:
            keys.append(float(packet.pts * packet.time_base))
        if count >= _PROBED:
            break
    gaps = [after - before for before, after in pairwise(sorted(keys))]
    return len(gaps) > 2 and max(gaps) <= every_seconds


def begin(container: InputContainer, stream: VideoStream, losses: Losses, pts: int | None) -> None:
    """Seeks to a key frame from which the frame at `pts` can be decoded; None = the start."""
    if pts is None:
        losses.expected = stream.frames
        return
    far = round(10 / stream.time_base) if stream.time_base else 0
    # Some containers seek too far: try earlier, and finally the start.
    for target in (pts, pts - far, min(0, stream.start_time or 0)):
        container.seek(target, stream=stream, backward=True)
        first = next(all_frames(container, stream, Losses(Path(), strict=False)), None)
        container.seek(target, stream=stream, backward=True)
        if first is not None and first.pts is not None and first.pts <= pts:
            return


def read_packets(
    container: InputContainer, streams: tuple[Any, ...], losses: Losses | None = None
) -> Iterator[Packet[Any]]:
    """Packets of `streams` in file order; continues after read errors."""
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
    """The frames of `stream` from the current position of `container`, by its own decoder or `context`."""
    context = context or stream.codec_context
    yield from _frames_of_packets(container, stream, context, losses)
    for native in _drained(context, losses):
        losses.frame(native)
        yield native


def _frames_of_packets(
    container: InputContainer, stream: VideoStream, context: VideoCodecContext, losses: Losses
) -> Iterator[av.VideoFrame]:
    """The frames that the decoder `context` returns for the packets of `stream`, without the final drain."""
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
    """The frames left in the decoder after the last packet; not counted yet."""
    try:
        return list(context.decode(None))
    except av.error.FFmpegError as error:
        losses.packet(error)
        return []


def _tail(path: Path, stream_index: int, last: int) -> list[av.VideoFrame]:
    """Frames after the time `last`, decoded again without frame threads.

    With frame threads, an error during draining silently ends it in PyAV while good frames are left. Without them an
    error comes with its own packet.
    """
    with open_input(path) as container:
        stream = video_stream(container, stream_index)
        container.seek(last, stream=stream, backward=True)
        stream.thread_type = "SLICE"
        natives = all_frames(container, stream, Losses(path, strict=False))
        return [native for native in natives if native.pts is not None and native.pts > last]


def video_stream(container: InputContainer, index: int) -> VideoStream:
    """The video stream `index`."""
    stream = container.streams[index]
    assert isinstance(stream, VideoStream)
    return stream


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}" if number == 1 else f"{number} {noun}s"
