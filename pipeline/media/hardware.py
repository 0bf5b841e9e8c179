"""Hardware decoding, checked against software decoding, which takes over at the first problem.

H.264, HEVC, VP9 and AV1 define every sample, but drivers, cropping and film grain can differ. So the first frames of
every pass are decoded twice and compared. Hardware does not report damage inside a picture: a damaged file, or any
error, is left to software, which counts the losses. Software then decodes again from the start of the pass and skips
the frames already given; that takes time, but needs no index for seeking.
"""

from __future__ import annotations

from collections.abc import Generator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn, cast

import av
import cv2
from av.codec.hwaccel import HWAccel, hwdevices_available
from av.container import InputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from pipeline.errors import SourceError, reason
from pipeline.media.coding import planar_format, planes_of
from pipeline.media.decode import Losses, all_frames, begin, decode, is_cut_short, open_input, video_stream
from pipeline.media.layout import repack

KINDS = ("cuda", "vaapi", "videotoolbox", "d3d11va")
"""FFmpeg's names of decoding devices, in the order of `auto`: NVIDIA, Linux, Apple, Windows."""
_PROVEN = 8
"""Frames decoded by both and compared: at least one group of B-frames."""
_MOST_APART = 1
"""Maximum difference of a sample in code values."""

Opened = tuple[InputContainer, VideoStream, VideoCodecContext]


@dataclass(frozen=True, slots=True)
class DecodeConfig:
    """How the video is decoded."""

    hardware: str = "none"
    """`none` = in software, which alone reports all damage; `cuda`, `vaapi`, `videotoolbox`, `d3d11va` = on a GPU, a
    certain one as in `cuda:1`; `auto` = on any available GPU. Software decodes what the GPU cannot."""

    def __post_init__(self) -> None:
        kind, colon, device = self.hardware.partition(":")
        if kind not in ("auto", "none", *KINDS) or (colon and not (device and kind in KINDS)):
            raise ValueError(
                f"hardware must be one of auto, none, {', '.join(KINDS)}, or a kind of card with a device as in "
                f"cuda:1, got {self.hardware!r}"
            )
        if kind == "cuda" and device and not device.isdecimal():
            raise ValueError(
                f"hardware must name a card of cuda by its number as in cuda:1, got {self.hardware!r}"
            )


class HardwareDecoder:
    """Decodes one stream repeatedly; after the first problem only in software."""

    def __init__(self, path: Path, stream_index: int, hardware: str) -> None:
        self._path, self._index, self._wish = path, stream_index, hardware
        self._in_software = hardware == "none"
        self.warnings: list[str] = []
        """Why software took over; nothing if `auto` finds no device."""

    def frames(self, losses: Losses, start_pts: int | None = None) -> Generator[av.VideoFrame]:
        """The frames of `decode`, with its account in `losses`."""
        given, last, before = 0, None, None
        if not self._in_software:
            try:
                with closing(self._by_hardware(start_pts)) as natives:
                    for native in natives:
                        given, last = given + 1, native.pts
                        yield native
                return
            except _TroubleError as trouble:
                self._give_up(str(trouble), given)
        for number, native in enumerate(decode(self._path, self._index, losses, start_pts)):
            if number < given:
                before = native.pts
            elif given and _is_past(native.pts, last, before):
                losses.skip()
            else:
                yield native

    def _by_hardware(self, start_pts: int | None) -> Generator[av.VideoFrame]:
        """Raises _TroubleError in place of the first frame that is not known to be correct."""
        path, losses, number = self._path, _Unforgiving(self._path, strict=True), -1
        if is_cut_short(path):
            raise _TroubleError("the file ends before its time")
        software = decode(path, self._index, Losses(path, strict=False), start_pts)
        container, stream, context = self._open()
        with container, closing(software):
            begin(container, stream, losses, start_pts)
            for number, native in enumerate(all_frames(container, stream, losses, context)):
                if number < _PROVEN:
                    expected = next(software, None)
                    if expected is None:
                        raise _TroubleError(f"it gives more than the {number} frames of the video")
                    layout = expected.format.name
                    native = _in_layout(native, layout)
                    _compare(native, expected, number)
                else:
                    software.close()
                    native = _in_layout(native, layout)
                yield native
            if number + 1 < _PROVEN and next(software, None) is not None:
                raise _TroubleError(f"it gives only {number + 1} frames")
        losses.settle(context.name, whole=start_pts is None)

    def _open(self) -> Opened:
        """Opens the file with a decoder on the first working device."""
        kind, _, device = self._wish.partition(":")
        built = hwdevices_available()
        why = f"the FFmpeg inside PyAV is built without it, and with {', '.join(built) or 'nothing of the kind'}"
        for name in KINDS if kind == "auto" else (kind,):
            if name not in built:
                continue
            try:
                return open_decoder(
                    self._path, self._index, HWAccel(name, device or None, allow_software_fallback=False)
                )
            except NotImplementedError:
                why = f"{name} does not decode this kind of video"
            except (av.error.FFmpegError, SourceError) as error:
                why = f"no such device opens here ({reason(error)})"
        # A device requested by name must not be missing silently.
        raise _TroubleError(why if kind != "auto" else "")

    def _give_up(self, trouble: str, given: int) -> None:
        self._in_software = True
        if trouble:
            place = f" from its frame {given + 1} on" if given else ""
            self.warnings.append(
                f"decode.hardware={self._wish}: {trouble}; the video is decoded in software{place}"
            )


def open_decoder(path: Path, stream_index: int, hardware: HWAccel) -> Opened:
    """The file at `path`, its video stream and a decoder on `hardware`. The caller closes the file.

    Raises NotImplementedError if the device does not decode the codec, FFmpegError if it does not open.
    """
    with open_input(path) as container:
        own = video_stream(container, stream_index).codec_context.codec
    # FFmpeg's default for AV1 is a library without hardware support.
    is_library = own.name == "libdav1d"
    codec = av.Codec("av1", "r") if is_library else own
    hardware.create(codec)  # raises errors of the device, not of the file
    container = open_input(path, None if is_library else hardware)
    stream = video_stream(container, stream_index)
    context = stream.codec_context
    if is_library:
        # Size, colours and depth are in the stream's own headers.
        context = cast(VideoCodecContext, av.CodecContext.create(codec, "r", hardware))
        context.extradata = stream.codec_context.extradata
    # Reports an error with its own packet.
    context.thread_type = "SLICE"
    return container, stream, context


class _TroubleError(Exception):
    """Why hardware decoding stops, in words."""


class _Unforgiving(Losses):
    """Raises _TroubleError at the first loss."""

    def _refuse(self, what: str) -> NoReturn:
        raise _TroubleError(what)


def _in_layout(native: av.VideoFrame, layout: str) -> av.VideoFrame:
    """`native` in the pixel format of software decoding; hardware interleaves the chroma planes."""
    name = native.format.name
    if name == layout:
        return native
    try:
        if planar_format(name).replace("yuvj", "yuv") == planar_format(layout).replace("yuvj", "yuv"):
            return repack(native, layout)
        raise _TroubleError(f"it gives {name} where software gives {layout}")
    except (SourceError, av.error.FFmpegError) as error:
        raise _TroubleError(f"it gives {name}, which cannot be used") from error


def _compare(native: av.VideoFrame, expected: av.VideoFrame, number: int) -> None:
    """Raises _TroubleError if the two frames differ."""
    for what, ours, theirs in (
        ("time", native.pts, expected.pts),
        ("size", (native.width, native.height), (expected.width, expected.height)),
        ("range", native.color_range, expected.color_range),
        ("matrix", native.colorspace, expected.colorspace),
        ("primaries", native.color_primaries, expected.color_primaries),
        ("transfer", native.color_trc, expected.color_trc),
    ):
        if ours != theirs:
            raise _TroubleError(
                f"frame {number + 1} has another {what} than in software ({ours}, not {theirs})"
            )
    pairs = zip(planes_of(native), planes_of(expected), strict=True)
    apart = max(int(cv2.norm(ours, theirs, cv2.NORM_INF)) for ours, theirs in pairs)
    if apart > _MOST_APART:
        raise _TroubleError(f"frame {number + 1} is up to {apart} code values away from software's")


def _is_past(pts: int | None, last: int | None, before: int | None) -> bool:
    """Whether a frame at `pts` belongs before the last hardware frame, at `last`; software has `before` there."""
    return last is not None and pts is not None and before != last and pts <= last
