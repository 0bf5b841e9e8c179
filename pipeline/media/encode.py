"""The choice of the encoder, its settings, its availability, and its opening."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import cast

import av
import torch
from av.container import OutputContainer
from av.video.codeccontext import VideoCodecContext
from av.video.stream import VideoStream

from configs import ConfigError
from pipeline.errors import SinkError, reason
from pipeline.media.layout import repack
from pipeline.media.probe import SourceInfo

PRESETS = (
    "ultrafast", "superfast", "veryfast", "faster", "fast", "medium", "slow", "slower", "veryslow"
)  # fmt: skip
_NVENC_PRESETS = dict(zip(PRESETS, ("p1", "p2", "p2", "p3", "p3", "p4", "p5", "p6", "p7"), strict=True))

CONTAINERS = {
    ".mp4": "mp4", ".m4v": "mp4", ".mov": "mov", ".mkv": "matroska", ".webm": "webm", ".ts": "mpegts",
    ".m2ts": "mpegts", ".mpg": "mpeg", ".mpeg": "mpeg", ".vob": "vob",
}  # fmt: skip
"""FFmpeg's name of the format by extension; only containers that store a time for each frame."""

_NAMES = {
    "x264": "libx264", "h264": "libx264", "x265": "libx265", "h265": "libx265", "hevc": "libx265",
    "av1": "libsvtav1", "vp9": "libvpx-vp9", "mpeg2": "mpeg2video", "mpeg1": "mpeg1video",
}  # fmt: skip
NVENC_FORMATS = {
    "h264_nvenc": ("yuv420p", "yuv444p"),
    "hevc_nvenc": ("yuv420p", "p010le", "yuv444p"),
    "av1_nvenc": ("yuv420p", "p010le"),
}
"""Pixel formats by encoder that every generation of cards with the encoder takes; FFmpeg lists more. p010le is 10 bit
4:2:0. Hardware encoders are fast and spare the CPU, but make larger files than x264 and x265 at a slow preset for the
same quality. So only the user chooses them."""

_ENCODERS = (
    "libx264", "libx265", "libx264rgb", "libsvtav1", "libvpx-vp9", "ffv1", "mpeg2video", "mpeg1video", *NVENC_FORMATS
)  # fmt: skip
_ANY_SIZE = {"libsvtav1", "libvpx-vp9", "ffv1"}
_LOSSLESS = {"libx264", "libx264rgb", "libx265", "libvpx-vp9", "ffv1"}
"""Encoders with a lossless mode; that of hardware encoders is untested."""
_HDR_TRANSFERS = {16, 18}


@dataclass(frozen=True, slots=True)
class EncodeConfig:
    """How the video is compressed."""

    codec: str = "auto"
    """`auto`, or an encoder: h264, h265, av1, vp9, ffv1, mpeg2, or on an NVIDIA GPU h264_nvenc, hevc_nvenc, av1_nvenc.
    `auto` chooses by container and source, never a GPU encoder."""
    crf: float = 16
    """Quality on H.264's scale: 0 is best, 16 looks like the source, 23 is small."""
    preset: str = "medium"
    """Effort, ultrafast to veryslow: a slower preset makes smaller files of the same quality."""
    lossless: bool = False
    """Keep every sample; large files."""

    def __post_init__(self) -> None:
        if not 0 <= self.crf <= 51:
            raise ValueError(f"crf must be between 0 and 51, got {self.crf}")
        if self.preset not in PRESETS:
            raise ValueError(f"preset must be one of {', '.join(PRESETS)}, got {self.preset!r}")
        if self.codec != "auto" and _NAMES.get(self.codec, self.codec) not in _ENCODERS:
            known = ", ".join(["auto", *_NAMES, "ffv1", *NVENC_FORMATS])
            raise ValueError(f"codec must be one of {known}, got {self.codec!r}")
        if self.lossless and self.codec != "auto" and _NAMES.get(self.codec, self.codec) not in _LOSSLESS:
            raise ValueError(
                f"lossless needs a codec that keeps every sample (h264, h265, vp9, ffv1, or auto), got {self.codec!r}"
            )


@dataclass(frozen=True, slots=True)
class Encoding:
    """The choice of an encoder and its settings."""

    container: str
    codec: str
    pixel_format: str
    options: dict[str, str]
    warnings: tuple[str, ...]


def choose_encoding(path: Path, info: SourceInfo, width: int, height: int, config: EncodeConfig) -> Encoding:
    """The encoding of frames like those of `info`, of `width` x `height`, into `path`.

    Raises SinkError, and ConfigError if this machine lacks the requested encoder.
    """
    container = CONTAINERS.get(path.suffix.lower())
    if container is None:
        raise SinkError(
            f"{path}: files of the kind {path.suffix or '(no extension)'} are not written, they do not keep "
            f"the time of each frame; use one of {', '.join(CONTAINERS)}"
        )
    wanted = _candidates(container, info, config)
    if config.lossless and not _LOSSLESS.issuperset(wanted):
        raise SinkError(f"{path}: {' and '.join(wanted)} cannot keep every sample; use .mkv")
    able = [codec for codec in wanted if _holds(codec, info.pixel_format, width, height)]
    if not able:
        raise SinkError(
            f"{path}: {' and '.join(wanted)} cannot encode frames of {width}x{height} {info.pixel_format}"
            f"{' without loss' if config.lossless else ''}; use another --codec, or .mkv"
        )
    exact = [codec for codec in able if _target(codec, info.pixel_format)[1]]
    codec = (exact or able)[0]
    pixel_format, same = _target(codec, info.pixel_format)
    warnings = []
    if not same:
        if config.lossless:
            raise SinkError(f"{path}: {codec} cannot keep {info.pixel_format} without loss; use ffv1 in .mkv")
        warnings.append(f"{codec} cannot hold {info.pixel_format}: the video is written as {pixel_format}")
    if config.codec == "auto" and codec != wanted[0]:
        warnings.append(f"{wanted[0]} cannot hold {width}x{height} {info.pixel_format}: {codec} is used")
    if info.interlaced and codec not in ("libx264", "mpeg2video", "ffv1"):
        warnings.append(f"{codec} keeps no mark of interlacing: players will not deinterlace the output")
    options = _options(codec, info, config)
    if codec in NVENC_FORMATS:
        if info.mastering_display or info.content_light:
            warnings.append(f"{codec} writes no mastering data and light levels into the video")
        check_encoder(codec, pixel_format, width, height, options)
    return Encoding(container, codec, pixel_format, options, tuple(warnings))


def _candidates(container: str, info: SourceInfo, config: EncodeConfig) -> list[str]:
    """Possible encoders, best first."""
    if config.codec != "auto":
        return [_NAMES.get(config.codec, config.codec)]
    if container in ("mpeg", "vob"):
        return ["mpeg1video" if info.codec == "mpeg1video" else "mpeg2video"]
    if container == "webm":
        return ["libvpx-vp9"] if config.lossless else ["libsvtav1", "libvpx-vp9"]
    if config.lossless and container == "matroska":
        return ["ffv1", "libx264", "libx265"]
    deep = info.bit_depth > 8 and not config.lossless
    # 10 bit H.264 plays on few devices: only where the source is that already.
    first = ["libx265", "libx264"] if deep and info.codec != "h264" else ["libx264", "libx265"]
    if info.color_transfer in _HDR_TRANSFERS:
        first = ["libx265", "libx264"]
    odd = [] if container == "mpegts" else ["libvpx-vp9"]
    return [first[0], "libx264rgb", first[1], *odd]


def _holds(codec: str, pixel_format: str, width: int, height: int) -> bool:
    """Whether `codec` takes frames of this size and of this or a similar format."""
    target = _Samples.of(_target(codec, pixel_format)[0])
    if target.rgb != _Samples.of(pixel_format).rgb:
        return False
    if codec in _ANY_SIZE:
        return codec != "libsvtav1" or min(width, height) >= 64
    step_x, step_y = 64 // (target.chroma_x or 64), 64 // (target.chroma_y or 64)
    return width % step_x == 0 and height % step_y == 0


def _target(codec: str, pixel_format: str) -> tuple[str, bool]:
    """The pixel format in which `codec` encodes `pixel_format`, and whether it keeps every sample."""
    formats = _formats(codec)
    if pixel_format in formats:
        return pixel_format, True
    plain = pixel_format.replace("yuvj", "yuv")
    if plain in formats:
        return plain, True
    if pixel_format == "gbrp" and "bgr24" in formats:
        return "bgr24", True
    wanted = _Samples.of(pixel_format)

    def badness(name: str) -> tuple[bool, int, int, int]:
        """In order: another colour family, lost depth, lost chroma, excess samples."""
        given = _Samples.of(name)
        lost = max(0, wanted.chroma_x - given.chroma_x) + max(0, wanted.chroma_y - given.chroma_y)
        excess = given.depth + given.chroma_x + given.chroma_y
        return given.rgb != wanted.rgb, max(0, wanted.depth - given.depth), lost, excess

    usable = [name for name in formats if not name.startswith("yuvj") and not _Samples.of(name).alpha]
    best = min(usable, key=badness)
    given = _Samples.of(best)
    same = (given.rgb, given.chroma_x, given.chroma_y) == (wanted.rgb, wanted.chroma_x, wanted.chroma_y)
    return best, same and given.depth >= wanted.depth


@dataclass(frozen=True, slots=True)
class _Samples:
    """The samples of 64 x 64 pixels in a pixel format."""

    rgb: bool
    alpha: bool
    depth: int
    chroma_x: int
    chroma_y: int

    @classmethod
    def of(cls, name: str) -> _Samples:
        layout = av.VideoFormat(name, 64, 64)
        alpha = any(component.is_alpha for component in layout.components)
        chroma = layout.components[1] if len(layout.components) > 1 else None
        width, height = (chroma.width, chroma.height) if chroma else (0, 0)
        return cls(layout.is_rgb, alpha, layout.components[0].bits, width, height)


def _formats(codec: str) -> list[str]:
    if codec in NVENC_FORMATS:
        return list(NVENC_FORMATS[codec])
    return [layout.name for layout in av.Codec(codec, "w").video_formats or ()]


def _options(codec: str, info: SourceInfo, config: EncodeConfig) -> dict[str, str]:
    crf, speed = f"{config.crf:g}", PRESETS.index(config.preset)
    options: dict[str, str] = {}
    if info.chroma_location and codec not in ("mpeg1video", "mpeg2video"):
        options["chroma_sample_location"] = info.chroma_location
    interlaced = "+ildct+ilme" if info.interlaced else ""
    if codec in ("libx264", "libx264rgb"):
        options |= {"preset": config.preset} | ({"qp": "0"} if config.lossless else {"crf": crf})
        parameters = []
        if torch.backends.cpu.get_cpu_capability() == "AVX512":
            # With AVX-512 its macroblock trees are not reproducible: equal input gave different streams.
            parameters.append("asm=avx2")
        if info.mastering_display:
            parameters.append(f"mastering-display={info.mastering_display}")
        if info.content_light:
            parameters.append("cll={},{}".format(*info.content_light))
        if parameters:
            options["x264-params"] = ":".join(parameters)
        if interlaced:
            options["flags"] = interlaced
    elif codec == "libx265":
        options |= {"preset": config.preset} | ({} if config.lossless else {"crf": crf})
        parameters = ["log-level=error"]
        if config.lossless:
            parameters.append("lossless=1")
        if info.mastering_display:
            parameters.append(f"master-display={info.mastering_display}")
        if info.content_light:
            parameters.append("max-cll={},{}".format(*info.content_light))
        options["x265-params"] = ":".join(parameters)
    elif codec == "libsvtav1":
        # AV1's quality scale ends at 63, H.264's at 51; its speed scale runs upwards.
        options |= {"crf": str(round(config.crf * 63 / 51)), "preset": str(max(2, 12 - speed))}
        parameters = []
        if info.mastering_display:
            parameters.append(f"mastering-display={_decimal(info.mastering_display)}")
        if info.content_light:
            parameters.append("content-light={},{}".format(*info.content_light))
        if parameters:
            options["svtav1-params"] = ":".join(parameters)
    elif codec == "libvpx-vp9":
        options |= {"deadline": "good", "cpu-used": str(max(0, min(5, 8 - speed))), "row-mt": "1", "b": "0"}
        options |= {"lossless": "1"} if config.lossless else {"crf": str(round(config.crf * 63 / 51))}
    elif codec in NVENC_FORMATS:
        options |= nvenc_options(codec, config.crf, config.preset)
    elif codec == "ffv1":
        options |= {"level": "3", "slices": "4"}
    else:
        # MPEG-1 and 2: the quantiser with about the same quality.
        quantiser = max(1, min(31, round(2 ** ((config.crf - 12) / 6))))
        options |= {"flags": f"+qscale{interlaced}", "global_quality": str(118 * quantiser)}
    return options


def _decimal(mastering_display: str) -> str:
    """x265's mastering display in the units of SVT-AV1."""
    head, light = mastering_display.split("L(")
    head = re.sub(r"(\d+),(\d+)", lambda m: f"{int(m[1]) / 50000:.5f},{int(m[2]) / 50000:.5f}", head)
    brightest, darkest = (int(value) / 10000 for value in light.rstrip(")").split(","))
    return f"{head}L({brightest:.4f},{darkest:.4f})"


def nvenc_options(codec: str, crf: float, preset: str) -> dict[str, str]:
    """Settings of a hardware `codec` for a quality on H.264's scale (0 to 51) and x264's name of a preset."""
    # AV1's scale ends at 63. 0 would let the card choose, and is no more lossless than 1.
    quality = max(1.0, crf * 63 / 51 if codec == "av1_nvenc" else crf)
    return {"preset": _NVENC_PRESETS[preset], "tune": "hq", "rc": "vbr", "cq": f"{quality:g}", "b": "0"}


def check_encoder(codec: str, pixel_format: str, width: int, height: int, settings: dict[str, str]) -> None:
    """Opens `codec` once as a test. Raises ConfigError if that fails."""
    try:
        context = cast(VideoCodecContext, av.CodecContext.create(codec, "w"))
        context.width, context.height, context.pix_fmt = width, height, pixel_format
        context.time_base = Fraction(1, 25)
        context.options = settings
        context.open()
    except av.error.FFmpegError as error:
        raise ConfigError(
            f"--codec {codec} does not open here for frames of {width}x{height} {pixel_format} "
            f"({reason(error)}): it needs an NVIDIA card with this encoder and its driver; "
            "use --codec auto"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"--codec {codec}: the FFmpeg inside PyAV is built without it; use --codec auto"
        ) from error


@contextmanager
def kept_scheduling() -> Iterator[None]:
    """Restores the scheduling of all threads to that of the calling thread at entry.

    Under root, SVT-AV1 gives its own threads and the calling one the highest real-time priority. Threads started later
    inherit it, and a few busy ones starve the machine.
    """
    if not hasattr(os, "sched_getscheduler"):  # Linux only
        yield
        return
    policy, parameters = os.sched_getscheduler(0), os.sched_getparam(0)
    try:
        yield
    finally:
        if os.sched_getscheduler(0) != policy:
            for thread in os.listdir("/proc/self/task"):
                with suppress(ProcessLookupError):  # it has ended
                    os.sched_setscheduler(int(thread), policy, parameters)


def add_encoder(
    output: OutputContainer, encoding: Encoding, info: SourceInfo, width: int, height: int
) -> VideoStream:
    """A stream of `output` that encodes frames of `width` x `height` like those of `info`."""
    if encoding.codec == "libsvtav1":
        # It writes its settings to stderr, whatever FFmpeg's log level.
        os.environ.setdefault("SVT_LOG", "1")
    stream = output.add_stream(encoding.codec, rate=info.average_rate, options=dict(encoding.options))
    assert isinstance(stream, VideoStream)
    context = stream.codec_context
    context.width, context.height = width, height
    context.pix_fmt = encoding.pixel_format
    # MPEG-1 and 2 store a frame rate only: their frames are put on its grid.
    gridded = encoding.codec in ("mpeg1video", "mpeg2video")
    context.time_base = stream.time_base = 1 / info.average_rate if gridded else info.time_base
    context.thread_type = "AUTO"
    context.flags |= av.codec.context.Flags.frame_duration
    context.color_range = info.color_range
    context.color_primaries = info.color_primaries
    context.color_trc = info.color_transfer
    context.colorspace = info.color_matrix
    if info.sample_aspect_ratio:
        context.sample_aspect_ratio = info.sample_aspect_ratio
    if encoding.codec in ("libx265", "hevc_nvenc") and encoding.container in ("mp4", "mov"):
        context.codec_tag = "hvc1"
    return stream


def prepare(native: av.VideoFrame, encoding: Encoding, pts: int, time_base: Fraction) -> av.VideoFrame:
    """`native` in the encoder's pixel format, with presentation time `pts` in ticks of `time_base`."""
    if native.format.name != encoding.pixel_format:
        native = repack(native, encoding.pixel_format)
    native.pict_type = 0
    native.pts, native.time_base = pts, time_base
    return native
