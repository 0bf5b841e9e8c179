"""Sources of a live run: cameras, streams, files and pipes, opened and decoded as frames arrive."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.video.stream import VideoStream

from pipeline.errors import SourceError, reason
from pipeline.live.addresses import Address, cameras, find_camera, library
from pipeline.live.sound import SoundFormat
from pipeline.media.coding import Siting, check_matrix, planar_format
from pipeline.media.decode import FORMATS, open_input
from pipeline.media.layout import repack
from pipeline.media.probe import display_of

_FORMATS = f"{FORMATS},rtsp,rtp,sdp,mpjpeg,mjpeg"
"""Formats of files and network cameras; no playlists, which may refer to any address."""
_PROTOCOLS = {
    "rtsp": "rtsp,rtp,rtcp,tcp,udp",
    "rtsps": "rtsp,rtp,rtcp,tcp,udp,tls",
    "rtmp": "rtmp,tcp",
    "http": "http,tcp",
    "https": "https,http,tls,tcp",
    "udp": "udp",
    "tcp": "tcp",
    "srt": "srt",
}
_OPEN_SECONDS = 10.0


Heard = Callable[[av.AudioFrame, float | None], None]
"""Takes a piece of sound and its time in seconds on the source's clock, None if unknown."""


@dataclass(frozen=True, slots=True)
class LiveInfo:
    """Facts about a live source, known from its first frame."""

    rate: Fraction
    """Frames per second, as declared by the source."""
    rotation: int
    """Degrees counter-clockwise by which players rotate the picture."""
    sample_aspect_ratio: Fraction | None
    paced: bool
    """Whether frames are due at the source's own times; otherwise on arrival."""
    ends: bool
    """Whether the end of the source ends the run; otherwise the source is reopened."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Mode requested from a camera; None leaves the choice to the camera."""

    size: str | None = None
    """Width and height, such as 1280x720."""
    rate: float | None = None
    """Frames per second."""


class Opened:
    """An open source: a context manager that iterates over all decoded frames."""

    def __init__(self, address: Address, stall_seconds: float, wanted: Wanted | None = None) -> None:
        """Raises SourceError without an answer, and for anything but a video that can be restored."""
        self._address, self._stall_seconds = address, stall_seconds
        self._heard: Heard | None = None
        self._container = _open(address, stall_seconds, wanted or Wanted())
        try:
            self._stream = self._video()
            self._sound = next(iter(self._container.streams.audio), None)
            self._decoded = self._decode()
            self._first: av.VideoFrame | None = next(self._decoded, None)
            if self._first is None:
                raise SourceError(f"{address.shown}: no frame of its video can be decoded")
            self.first = planar(self._first, address)
            """The first frame."""
            self.info = self._info()
            """Facts about it."""
        except (av.error.FFmpegError, OSError) as error:
            self._container.close()
            raise error if isinstance(error, SourceError) else _sentence(address, error) from error
        except BaseException:
            self._container.close()
            raise

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *error: object) -> None:
        self._container.close()

    def __iter__(self) -> Iterator[av.VideoFrame]:
        """Raises SourceError when the source is lost."""
        if self._first is not None:
            self._first = None
            yield self.first
        try:
            for native in self._decoded:
                yield planar(native, self._address)
        except (av.error.FFmpegError, OSError) as error:
            raise error if isinstance(error, SourceError) else _sentence(self._address, error) from error

    @property
    def sound(self) -> SoundFormat | None:
        """Format of its sound; None without sound."""
        if self._sound is None or not self._sound.rate or not self._sound.layout.nb_channels:
            return None
        return SoundFormat(self._sound.rate, "mono" if self._sound.layout.nb_channels == 1 else "stereo")

    def listen(self, heard: Heard) -> None:
        """Calls `heard` with the sound from now on, in the thread that iterates over the pictures."""
        self._heard = heard

    def seconds(self, native: av.VideoFrame) -> float | None:
        """Time of `native` on the source's clock; None if unknown."""
        return None if native.pts is None else float(native.pts * (self._stream.time_base or Fraction(1)))

    def _video(self) -> VideoStream:
        if not self._container.streams.video:
            raise SourceError(f"{self._address.shown}: no video stream")
        stream = self._container.streams.video[0]
        # Frame threads would delay by one frame per thread.
        stream.thread_type = "SLICE"
        stream.codec_context.flags |= av.codec.context.Flags.low_delay
        return stream

    def _decode(self) -> Iterator[av.VideoFrame]:
        seen = time.monotonic()
        for packet in self._container.demux(*(s for s in (self._stream, self._sound) if s is not None)):
            try:
                frames = packet.decode() if packet.stream is self._stream or self._heard else []
            except av.error.InvalidDataError:
                continue  # joined in the middle of a group of pictures, or damaged in transit
            for frame in frames:
                if isinstance(frame, av.VideoFrame):
                    yield frame
                    seen = time.monotonic()
                elif isinstance(frame, av.AudioFrame) and self._heard is not None and frame.samples:
                    self._heard(
                        frame, None if frame.pts is None else float(frame.pts * (frame.time_base or 1))
                    )
            if time.monotonic() - seen > self._stall_seconds and not self._is_complete:
                raise SourceError(f"{self._address.shown}: sends sound but no pictures")

    @property
    def _is_complete(self) -> bool:
        """Whether it has an end and can be read faster than real time."""
        kind = self._address.kind
        return kind in ("file", "pipe") or (kind == "network" and self._container.duration is not None)

    def _info(self) -> LiveInfo:
        stream = self._stream
        assert self._first is not None
        rate = stream.average_rate or stream.guessed_rate or Fraction(25)
        return LiveInfo(
            # Cameras and damaged streams may declare any rate.
            rate=rate if 1 <= rate <= 240 else Fraction(25),
            rotation=display_of(self._first).rotation,
            sample_aspect_ratio=stream.sample_aspect_ratio or None,
            paced=self._is_complete,
            ends=self._is_complete,
        )


def planar(native: av.VideoFrame, address: Address) -> av.VideoFrame:
    """`native` in a planar format, ready for the stages; `native` itself if it is planar."""
    try:
        wanted = planar_format(native.format.name)
        check_matrix(native.colorspace)
    except SourceError as error:
        raise SourceError(f"{address.shown}: {error}") from error
    pts, base = native.pts, native.time_base
    if native.format.name != wanted or native.planes[0].line_size < 0:
        native = repack(native, wanted)
    native.opaque = Siting("left")
    native.pict_type = 0
    native.pts = pts
    if base:
        native.time_base = base
    return native


def _open(address: Address, stall_seconds: float, wanted: Wanted) -> InputContainer:
    if address.kind == "file":
        return open_input(Path(address.place))
    try:
        if address.kind == "pipe":
            return av.open(sys.stdin.buffer, "r", format="yuv4mpegpipe")
        if address.kind == "camera":
            return _open_camera(address, stall_seconds, wanted)
        return av.open(
            address.place,
            "r",
            timeout=(_OPEN_SECONDS, stall_seconds),
            container_options=_network_options(address),
        )
    except av.error.ArgumentError as error:
        raise SourceError(f"{address.shown}: not a supported format; playlists are never followed") from error
    except SourceError:
        raise
    except (av.error.FFmpegError, OSError) as error:
        raise _sentence(address, error) from error


def _open_camera(address: Address, stall_seconds: float, wanted: Wanted) -> InputContainer:
    device = find_camera(address.place, cameras())
    options = {"video_size": wanted.size} if wanted.size else {}
    if wanted.rate:
        options["framerate"] = f"{wanted.rate:g}"
    return av.open(
        device, "r", format=library(), container_options=options, timeout=(_OPEN_SECONDS, stall_seconds)
    )


def _network_options(address: Address) -> dict[str, str]:
    options: dict[str, Any] = {
        "protocol_whitelist": _PROTOCOLS[address.scheme],
        "format_whitelist": _FORMATS,
        # Longer probing would delay the start.
        "probesize": "500000",
        "analyzeduration": "500000",
        "fflags": "nobuffer",
    }
    if address.scheme in ("rtsp", "rtsps"):
        options["rtsp_transport"] = "tcp"  # UDP packets that are lost would leave grey blocks in faces
    return options


def _sentence(address: Address, error: Exception) -> SourceError:
    if isinstance(error, av.error.ExitError):
        return SourceError(
            f"{address.shown}: no answer; check that it is switched on and that the address is right"
        )
    if isinstance(error, av.error.EOFError):
        return SourceError(f"{address.shown}: ended before its first frame")
    what = "the camera cannot be opened" if address.kind == "camera" else "cannot be read"
    return SourceError(f"{address.shown}: {what} ({reason(error)})")
