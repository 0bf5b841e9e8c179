"""Where a live run's pictures go. Every sink takes `write(picture, pts)`, times in ticks of a microsecond."""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable
from contextlib import suppress
from fractions import Fraction
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from configs import ConfigError
from pipeline.errors import SinkError
from pipeline.live import y4m
from pipeline.live.addresses import Address
from pipeline.live.capture import TICK
from pipeline.live.sound import Sound, SoundFormat
from pipeline.live.voice import Voice
from pipeline.media.encode import CONTAINERS, EncodeConfig
from pipeline.media.files import PartialFile
from pipeline.media.layout import repack

_STREAMED = {"rtmp": "flv", "rtsp": "rtsp", "udp": "mpegts", "srt": "mpegts"}
_NO_CAMERA = (
    "{address}: no virtual camera ({reason}); on Linux load v4l2loopback (`sudo modprobe v4l2loopback "
    "exclusive_caps=1`), on Windows and macOS install OBS and start its virtual camera once"
)


class NullSink:
    """Throws pictures away. The other sinks have its methods."""

    lost = 0
    """How often it was lost and opened anew."""

    def __enter__(self) -> Self:
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Shows or sends `native`, a planar picture, at `pts` microseconds; they increase. Raises SinkError."""

    def write_sound(self, sound: Sound) -> None:
        """The same for a piece of sound, after the picture of its moment; nothing where it cannot be held."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Nothing is left open."""


class PipeSink(NullSink):
    """YUV4MPEG2 onto the standard output. It knows a frame rate alone and no times."""

    def __init__(self, first: av.VideoFrame, rate: Fraction, file: BinaryIO | None = None) -> None:
        self._file, self._rate = file or sys.stdout.buffer, rate
        self._size = first.width, first.height
        self._format = first.format.name if first.format.name in y4m.FORMATS else "yuv420p"
        self._first = fitted(first, self._size, self._format)

    def __enter__(self) -> Self:
        self._file.write(y4m.header(self._first, self._rate))
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """A reader that has left raises BrokenPipeError."""
        y4m.write_frame(self._file, fitted(native, self._size, self._format))


class EncodedSink(NullSink):
    """H.264 into a file, or to an address that speaks RTMP, RTSP, UDP or SRT."""

    def __init__(
        self,
        address: Address,
        first: av.VideoFrame,
        rate: Fraction,
        encode: EncodeConfig,
        *,
        overwrite: bool = False,
        sound: SoundFormat | None = None,
    ) -> None:
        """`sound`: what it is like, where there is any."""
        self._format = sound
        self._voice: Voice | None = None
        self._address, self._first, self._rate, self._encode = address, first, rate, encode
        self._container: OutputContainer | None = None
        self._stream: VideoStream | None = None
        self._file: PartialFile | None = None
        if address.kind == "file":
            path = Path(address.place)
            if path.suffix.lower() not in CONTAINERS:
                raise SinkError(
                    f"{path}: files of this kind are not written; use one of {', '.join(CONTAINERS)}"
                )
            self._file = PartialFile(path, source=path.parent, overwrite=overwrite)

    def __enter__(self) -> Self:
        if self._file is not None:
            self._file.create()
        try:
            self._open(self._first)
        except (av.error.FFmpegError, OSError, ValueError) as error:
            self._leave()
            raise self._sentence(error) from error
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        assert self._stream is not None
        try:
            picture = fitted(native, (self._stream.width, self._stream.height), "yuv420p")
            picture.pts, picture.time_base = pts, TICK
            self._mux(self._stream.encode(picture))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._sentence(error) from error

    def write_sound(self, sound: Sound) -> None:
        if self._voice is None:
            return
        try:
            self._mux(self._voice.encode(sound))
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise self._sentence(error) from error

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        assert self._stream is not None
        assert self._container is not None
        try:
            if kind is None:
                self._mux(self._stream.encode(None))
                if self._voice is not None:
                    self._mux(self._voice.encode(None))
                self._container.close()
                if self._file is not None:
                    self._file.commit()
        except (av.error.FFmpegError, OSError, ValueError) as failure:
            raise self._sentence(failure) from failure
        finally:
            self._leave()

    def _leave(self) -> None:
        """Lets go of the file or the address, whatever state it is in."""
        if self._container is not None:
            with suppress(av.error.FFmpegError, OSError, ValueError):
                self._container.close()
        if self._file is not None:
            self._file.discard()

    def _open(self, native: av.VideoFrame) -> None:
        address = self._address
        if self._file is not None:
            container = CONTAINERS[Path(address.place).suffix.lower()]
            self._container = av.open(f"file:{self._file.path.resolve()}", "w", format=container)
        else:
            self._container = av.open(address.place, "w", format=_STREAMED[address.scheme], timeout=(5, 5))
        # Every frame leaves at once; what joins midway waits two seconds at most.
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": f"{max(self._encode.crf, 18):g}"}
        stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        # 4:2:0 has no odd sides.
        context.width, context.height = native.width // 2 * 2, native.height // 2 * 2
        context.pix_fmt = "yuv420p"
        context.time_base = stream.time_base = TICK
        context.gop_size = max(1, math.ceil(2 * self._rate))
        context.color_range, context.colorspace = native.color_range, native.colorspace
        context.color_primaries, context.color_trc = native.color_primaries, native.color_trc
        self._stream = stream
        if self._format is not None:
            self._voice = Voice(self._container, self._format)
        # Connects and writes the header: what is wrong shows now.
        self._container.start_encoding()

    def _mux(self, packets: Iterable[av.Packet[Any]]) -> None:
        assert self._container is not None
        for packet in packets:
            self._container.mux(packet)

    def _sentence(self, error: BaseException) -> SinkError:
        if isinstance(error, SinkError):
            return error
        reason = getattr(error, "strerror", None) or str(error)
        return SinkError(f"{self._address.shown}: cannot be written ({str(reason).rstrip('.').lower()})")


class VirtualCamera(NullSink):
    """A camera that meeting programs can choose, by pyvirtualcam."""

    def __init__(self, address: Address, first: av.VideoFrame, rate: Fraction) -> None:
        try:
            import pyvirtualcam
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"{address.text}: needs the package pyvirtualcam (GPL); install it with `pip install anchorface[live]`"
            ) from error
        self._library, self._address, self._rate = pyvirtualcam, address, rate
        self._size = first.width // 2 * 2, first.height // 2 * 2
        self._camera: Any = None

    def __enter__(self) -> Self:
        try:
            self._camera = self._library.Camera(
                width=self._size[0],
                height=self._size[1],
                fps=float(self._rate),
                fmt=self._library.PixelFormat.I420,
                device=self._address.place or None,
            )
        except (RuntimeError, OSError, ValueError) as error:
            reason = (str(error).splitlines() or ["no reason given"])[0].rstrip(".")
            raise SinkError(_NO_CAMERA.format(address=self._address.text, reason=reason)) from error
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        if native.color_range == 2:
            # Cameras that give full range are shown by programs that expect limited.
            native = native.reformat(format="yuv420p", dst_color_range=1)
        picture = fitted(native, self._size, "yuv420p")
        self._camera.send(picture.to_ndarray())

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._camera is not None:
            self._camera.close()


def holds_sound(address: Address) -> bool:
    """Whether a sink there has a place for sound."""
    return address.kind in ("file", "network")


def fitted(native: av.VideoFrame, size: tuple[int, int], pixel_format: str) -> av.VideoFrame:
    """`native` in the size and format that a sink began with; itself where it has both.

    A source that came back may have another size, and no encoder takes two.
    """
    if (native.width, native.height) != size:
        return native.reformat(*size, format=pixel_format)
    return native if native.format.name == pixel_format else repack(native, pixel_format)


def open_sink(
    address: Address,
    first: av.VideoFrame,
    rate: Fraction,
    encode: EncodeConfig,
    *,
    overwrite: bool,
    sound: SoundFormat | None = None,
) -> NullSink:
    """The sink at `address` for frames like `first`, `rate` a second; a context manager, which opens it.

    `sound` goes along where the sink `holds_sound`.
    Raises ConfigError, or SinkError where it must not be written.
    """
    if address.kind == "null":
        return NullSink()
    if address.kind == "pipe":
        return PipeSink(first, rate)
    if address.kind == "virtual":
        return VirtualCamera(address, first, rate)
    return EncodedSink(address, first, rate, encode, overwrite=overwrite, sound=sound)
