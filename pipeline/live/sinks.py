"""Sinks of a live run: file, network stream, pipe (YUV4MPEG2), virtual camera, and a thread that reopens lost ones.

Every sink has `write(picture, pts)`; `pts` in ticks of a microsecond.
"""

from __future__ import annotations

import math
import sys
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from fractions import Fraction
from pathlib import Path
from typing import Any, BinaryIO, Self

import av
from av.container import OutputContainer
from av.video.stream import VideoStream

from configs import ConfigError
from pipeline.errors import SinkError, reason
from pipeline.live.addresses import Address
from pipeline.live.capture import TICK, Newest, reopened
from pipeline.live.settings import LiveConfig
from pipeline.live.sound import Sound, SoundFormat, SoundQueue, Voice
from pipeline.media.coding import planes_of
from pipeline.media.encode import CONTAINERS, EncodeConfig
from pipeline.media.files import PartialFile
from pipeline.media.layout import repack

_STREAMED = {"rtmp": "flv", "rtsp": "rtsp", "udp": "mpegts", "srt": "mpegts"}
_NO_CAMERA = (
    "{address}: no virtual camera ({reason}); on Linux load v4l2loopback (`sudo modprobe v4l2loopback "
    "exclusive_caps=1`), on Windows and macOS install OBS and start its virtual camera once"
)


_Y4M_CHROMA = {
    "gray": "mono",
    "yuv411p": "411",
    "yuv420p": "420mpeg2",
    "yuvj420p": "420jpeg",
    "yuv422p": "422",
    "yuvj422p": "422",
    "yuv444p": "444",
    "yuvj444p": "444",
    "yuv420p10le": "420p10",
    "yuv422p10le": "422p10",
    "yuv444p10le": "444p10",
}
"""Chroma names of YUV4MPEG2 by pixel format. Source: yuv4mpeg(5) of mjpegtools, with FFmpeg's additions."""
_FULL = 2


class NullSink:
    """Discards pictures. The other sinks have its methods."""

    lost = 0
    """Times that the sink was lost."""

    def __enter__(self) -> Self:
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Shows or sends `native`, a planar picture, at `pts`, which increases. Raises SinkError."""

    def write_sound(self, sound: Sound) -> None:
        """Writes a piece of sound after the picture of its moment. A sink without sound ignores it."""

    def __exit__(self, kind: type[BaseException] | None = None, *error: object) -> None:
        """Closes the sink."""


class PipeSink(NullSink):
    """YUV4MPEG2 on the standard output. The format has a frame rate, but no times."""

    def __init__(self, first: av.VideoFrame, rate: Fraction, file: BinaryIO | None = None) -> None:
        self._file, self._rate = file or sys.stdout.buffer, rate
        self._size = first.width, first.height
        self._format = first.format.name if first.format.name in _Y4M_CHROMA else "yuv420p"
        self._first = fitted(first, self._size, self._format)

    def __enter__(self) -> Self:
        self._file.write(y4m_header(self._first, self._rate))
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Raises BrokenPipeError when the reader has gone."""
        write_y4m_frame(self._file, fitted(native, self._size, self._format))


class EncodedSink(NullSink):
    """H.264 into a file or an RTMP, RTSP, UDP or SRT stream."""

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
        """`sound`: format of the source's sound, if any."""
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
            with self._sink_errors():
                self._open(self._first)
        except SinkError:
            self._release()
            raise
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        assert self._stream is not None
        with self._sink_errors():
            picture = fitted(native, (self._stream.width, self._stream.height), "yuv420p")
            picture.pts, picture.time_base = pts, TICK
            self._mux(self._stream.encode(picture))

    def write_sound(self, sound: Sound) -> None:
        if self._voice is not None:
            with self._sink_errors():
                self._mux(self._voice.encode(sound))

    def __exit__(self, kind: type[BaseException] | None = None, *error: object) -> None:
        assert self._stream is not None
        assert self._container is not None
        try:
            if kind is None:
                with self._sink_errors():
                    self._mux(self._stream.encode(None))
                    if self._voice is not None:
                        self._mux(self._voice.encode(None))
                    self._container.close()
                    if self._file is not None:
                        self._file.commit()
        finally:
            self._release()

    def _release(self) -> None:
        """Closes the container and discards an unfinished file."""
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
        # No delay in the encoder; a viewer who joins waits two seconds at most for a keyframe.
        options = {"preset": "veryfast", "tune": "zerolatency", "crf": f"{max(self._encode.crf, 18):g}"}
        stream = self._container.add_stream("libx264", rate=self._rate, options=options)
        assert isinstance(stream, VideoStream)
        context = stream.codec_context
        # 4:2:0 needs even sides.
        context.width, context.height = native.width // 2 * 2, native.height // 2 * 2
        context.pix_fmt = "yuv420p"
        context.time_base = stream.time_base = TICK
        context.gop_size = max(1, math.ceil(2 * self._rate))
        context.color_range, context.colorspace = native.color_range, native.colorspace
        context.color_primaries, context.color_trc = native.color_primaries, native.color_trc
        self._stream = stream
        if self._format is not None:
            self._voice = Voice(self._container, self._format)
        # Connects and writes the header, so that errors appear now.
        self._container.start_encoding()

    def _mux(self, packets: Iterable[av.Packet[Any]]) -> None:
        assert self._container is not None
        for packet in packets:
            self._container.mux(packet)

    @contextmanager
    def _sink_errors(self) -> Iterator[None]:
        """Turns errors of the container into SinkError."""
        try:
            yield
        except SinkError:
            raise
        except (av.error.FFmpegError, OSError, ValueError) as error:
            raise SinkError(f"{self._address.shown}: cannot be written ({reason(error)})") from error


class VirtualCamera(NullSink):
    """Virtual camera for video calls, through pyvirtualcam."""

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
            line = (str(error).splitlines() or ["no reason given"])[0].rstrip(".")
            raise SinkError(_NO_CAMERA.format(address=self._address.text, reason=line)) from error
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        if native.color_range == 2:
            # Programs expect limited range from a camera.
            native = native.reformat(format="yuv420p", dst_color_range=1)
        picture = fitted(native, self._size, "yuv420p")
        self._camera.send(picture.to_ndarray())

    def __exit__(self, kind: type[BaseException] | None = None, *error: object) -> None:
        if self._camera is not None:
            self._camera.close()


def holds_sound(address: Address) -> bool:
    """Whether a sink at `address` takes sound."""
    return address.kind in ("file", "network")


def fitted(native: av.VideoFrame, size: tuple[int, int], pixel_format: str) -> av.VideoFrame:
    """`native` in the size and format that a sink started with; `native` itself if it has both.

    A reopened source may have another size, which the encoder would refuse.
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
    """The sink at `address` for frames like `first` at `rate` frames per second; entering it opens it.

    `sound`: format of the sound, used where the sink `holds_sound`. Raises ConfigError or SinkError.
    """
    if address.kind == "null":
        return NullSink()
    if address.kind == "pipe":
        return PipeSink(first, rate)
    if address.kind == "virtual":
        return VirtualCamera(address, first, rate)
    return EncodedSink(address, first, rate, encode, overwrite=overwrite, sound=sound)


def y4m_header(native: av.VideoFrame, rate: Fraction) -> bytes:
    """First line of YUV4MPEG2 for frames like `native`, whose format is a key of `_Y4M_CHROMA`."""
    colours = _Y4M_CHROMA[native.format.name]
    if native.format.name == "yuv420p" and native.color_range == _FULL:
        colours = "420jpeg"
    span = "FULL" if native.color_range == _FULL or "yuvj" in native.format.name else "LIMITED"
    return (
        f"YUV4MPEG2 W{native.width} H{native.height} F{rate.numerator}:{rate.denominator} Ip A1:1 "
        f"C{colours} XCOLORRANGE={span}\n"
    ).encode()


def write_y4m_frame(file: BinaryIO, native: av.VideoFrame) -> None:
    """Writes the planes of `native` as one YUV4MPEG2 frame."""
    file.write(b"FRAME\n")
    for plane in planes_of(native):
        file.write(plane.tobytes())
    file.flush()


class Outlet(NullSink):
    """Writes to the sink of `make` in a thread of its own and reopens a lost one: a slow network delays no frame.

    Only the newest picture waits, with the sound up to it.
    """

    def __init__(
        self,
        make: Callable[[], NullSink],
        config: LiveConfig,
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        """`tell` is called with messages in the writing thread."""
        self.lost = 0
        self._make, self._config, self._tell = make, config, tell
        self._sound = SoundQueue()
        self._newest = Newest[tuple[av.VideoFrame, int]]()
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="outlet", daemon=True)

    def __enter__(self) -> Self:
        # Opened first in the caller's thread, so that a wrong address fails at once.
        self._sink = self._opened()
        self._thread.start()
        return self

    def write(self, native: av.VideoFrame, pts: int) -> None:
        self._newest.put((native, pts))

    def write_sound(self, sound: Sound) -> None:
        self._sound.put(sound)

    def __exit__(self, kind: type[BaseException] | None = None, *error: object) -> None:
        self._stop.set()
        self._newest.end()
        self._thread.join(self._config.stall_seconds + 1)

    def _opened(self) -> NullSink:
        sink = self._make()
        sink.__enter__()
        return sink

    def _run(self) -> None:
        while not self._stop.is_set():
            try:
                self._write_all()
            except SinkError as error:
                self.lost += 1
                self._tell(f"{error}; trying to reopen it")
                self._sink.__exit__(SinkError, error, None)
                if (sink := reopened(self._opened, SinkError, self._stop, self._config)) is None:
                    return
                self._sink = sink
                self._tell("the sink is back")
        try:
            self._sink.__exit__(None, None, None)
        except SinkError as error:
            self._tell(str(error))

    def _write_all(self) -> None:
        while True:
            try:
                item = self._newest.get(1.0)
            except StopIteration:
                return
            if item is not None:
                self._sink.write(*item)
                for sound in self._sound.until(item[1]):
                    self._sink.write_sound(sound)
