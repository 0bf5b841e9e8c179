"""Encoded packets of a chunk: a closed group of pictures of its own in a file, joined without encoding again."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import av
from av.packet import Packet

from pipeline.errors import SinkError
from pipeline.media.encode import EncodeConfig, choose_encoding, kept_scheduling
from pipeline.media.files import WorkFolder
from pipeline.media.sink import FileSink, add_encoder, frame_size, ready
from pipeline.media.source import FileSource


@dataclass(frozen=True, slots=True)
class PacketIndex:
    """Where the packets of a file lie and when they are shown."""

    name: str
    sha256: str
    time_base: str
    """Seconds per tick, as a fraction."""
    packets: list[tuple[int, int, int, bool]]
    """Bytes, presentation time and duration in ticks, and whether it is a key frame, in the order of decoding."""

    def as_json(self) -> dict[str, Any]:
        """For `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, value: dict[str, Any]) -> Self:
        """Raises TypeError, ValueError or KeyError for anything else."""
        packets = [
            (int(size), int(pts), int(length), bool(key)) for size, pts, length, key in value["packets"]
        ]
        return cls(str(value["name"]), str(value["sha256"]), str(value["time_base"]), packets)


class PacketSink:
    """Encodes frames as a `FileSink` for `output` would, into the file `name` of a work folder.

    A context manager; `index` is there when the block ended well, else nothing is left. Raises SinkError.
    """

    index: PacketIndex

    def __init__(
        self,
        folder: WorkFolder,
        name: str,
        output: Path,
        source: FileSource,
        encode: EncodeConfig,
        columns: int,
    ) -> None:
        info = source.info
        size = frame_size(
            info.width, info.height, info.rotation, columns=columns, pixel_format=info.pixel_format
        )
        self._folder, self._name, self._info, self._size = folder, name, info, size
        self._encoding = choose_encoding(output, info, *size, encode)
        self._stack = ExitStack()
        self._packets: list[tuple[int, int, int, bool]] = []
        self._digest = hashlib.sha256()
        self._time_base = Fraction(0)

    def __enter__(self) -> Self:
        # Nothing is muxed: the container only decides, as it does for the output, where headers go.
        container = self._stack.enter_context(av.open(io.BytesIO(), "w", format=self._encoding.container))
        self._file = self._stack.enter_context(self._folder.growing(self._name))
        self._stream = add_encoder(container, self._encoding, self._info, *self._size)
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Encodes `native`, to be shown at `pts` ticks of the source's time base; times must increase."""
        self._encode(ready(native, self._encoding, pts, self._info.time_base))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if error is not None:
            self._stack.__exit__(kind, error, traceback)
            return
        with self._stack:
            self._encode(None)
        base = str(self._time_base)
        self.index = PacketIndex(self._name, self._digest.hexdigest(), base, self._packets)

    def _encode(self, native: av.VideoFrame | None) -> None:
        try:
            with kept_scheduling():
                encoded = self._stream.encode(native)
        except (av.error.FFmpegError, ValueError) as error:
            raise SinkError(
                f"{self._folder.path}: {self._encoding.codec} failed ({str(error).lower()}); try another --codec"
            ) from error
        for packet in encoded:
            assert packet.pts is not None
            content = bytes(packet)
            self._file.write(content)
            self._digest.update(content)
            self._time_base = packet.time_base
            self._packets.append((len(content), packet.pts, packet.duration or 0, packet.is_keyframe))


def join(indexes: Sequence[PacketIndex], folder: WorkFolder, sink: FileSink) -> None:
    """Writes the packets of all chunks, in their order, into `sink`."""
    order = decoding_times([pts for index in indexes for _, pts, _, _ in index.packets])
    times = iter(order)
    for index in indexes:
        for packet in _read(index, folder):
            packet.dts = next(times)
            sink.copy(packet)


def _read(index: PacketIndex, folder: WorkFolder) -> Iterator[Packet[Any]]:
    with (folder.path / index.name).open("rb") as file:
        for size, pts, duration, key in index.packets:
            packet: Packet[Any] = Packet(file.read(size))
            packet.pts, packet.duration, packet.time_base = pts, duration, Fraction(index.time_base)
            packet.is_keyframe = key
            yield packet


def decoding_times(shown: Sequence[int]) -> list[int]:
    """Decoding times of packets that are shown at these times: the same times in their order, so much earlier that
    none is shown before it is decoded (as x264 gives them).

    They are made anew for the whole film: those of two encoders can overlap where the frame rate varies.
    """
    ordered = sorted(shown)
    rank = {pts: place for place, pts in enumerate(ordered)}
    delay = max((place - rank[pts] for place, pts in enumerate(shown)), default=0)
    ahead = [pts - (ordered[delay] - ordered[0]) for pts in ordered[:delay]]
    return ahead + ordered[: len(ordered) - delay]
