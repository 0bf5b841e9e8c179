"""Packets and frames out of a container, with an account of everything that could not be had."""

from __future__ import annotations

from collections.abc import Generator, Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.packet import Packet
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipeline.errors import SourceError
from pipeline.media.containers import is_cut_short, open_input

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
