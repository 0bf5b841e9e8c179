"""Facts about a video from its headers and its first frame."""

from __future__ import annotations

import math
import struct
from dataclasses import asdict, dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import av
from av.container import InputContainer
from av.sidedata.sidedata import Type
from av.stream import Disposition
from av.video.stream import VideoStream

from pipeline.errors import SourceError
from pipeline.media.coding import check_matrix, planar_format
from pipeline.media.decode import chroma_location, read_packets

_MAX_PIXELS = 1 << 27
_STILL = Disposition.attached_pic | Disposition.timed_thumbnails | Disposition.still_image


@dataclass(frozen=True, slots=True)
class SourceInfo:
    """Facts about a video from its headers and its first frame."""

    path: Path
    container: str
    """FFmpeg's name of the format."""
    codec: str
    width: int
    height: int
    """Pixels of a decoded frame, before rotation and aspect ratio."""
    rotation: int
    """Degrees counter-clockwise that players rotate the picture, to the nearest multiple of 90."""
    display_matrix: tuple[int, ...] | None
    """The exact matrix behind `rotation`, nine numbers in FFmpeg's layout; None if absent."""
    sample_aspect_ratio: Fraction | None
    average_rate: Fraction
    """Frames per second; a hint for encoders and progress, never a clock."""
    time_base: Fraction
    """Seconds per tick."""
    frame_count: int | None
    """Estimate."""
    duration_seconds: float | None
    pixel_format: str
    """Of the delivered frames; planar."""
    bit_depth: int
    color_range: int
    color_primaries: int
    color_transfer: int
    color_matrix: int
    """FFmpeg's numbers, those of ITU-T H.273 (range: 1 limited, 2 full)."""
    chroma_location: str | None
    interlaced: bool
    """Whether frames are marked as interlaced; `FileSource.fields` measures it."""
    mastering_display: str | None
    """Primaries and luminance of the mastering display in x265's notation."""
    content_light: tuple[int, int] | None
    """Maximum content and frame-average light level in cd/m²."""
    video_index: int
    """Index of the stream in the file."""
    warnings: tuple[str, ...]

    def as_dict(self) -> dict[str, Any]:
        """The fields by name."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Display:
    """How players display a frame: rotated, then possibly mirrored."""

    matrix: tuple[int, ...] | None = None
    """Nine numbers in FFmpeg's layout; None if absent."""
    angle: float = 0
    """Degrees counter-clockwise."""
    mirrored: bool = False
    """Left and right are swapped after the rotation."""

    @property
    def rotation(self) -> int:
        """`angle` to the nearest multiple of 90."""
        return round(self.angle / 90) * 90


def display_of(native: av.VideoFrame) -> Display:
    """How players display `native`, by its display matrix."""
    matrix = _numbers("9i", _side_data(native).get(Type.DISPLAYMATRIX))
    if matrix is None:
        return Display()
    # x' = (a x + c y) / w and y' = (b x + d y) / w, with y downwards.
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    mirrored = a * d < b * c
    if mirrored:
        a, c = -a, -c
    across, down = math.hypot(a, c) or 1, math.hypot(b, d) or 1
    return Display(matrix, -math.degrees(math.atan2(b / down, a / across)), mirrored)


def probe(container: InputContainer, path: Path) -> SourceInfo:
    """Reads `container` up to its first frame. Raises SourceError without a usable video."""
    stream, warnings = _choose(container, path)
    context = stream.codec_context
    location = chroma_location(container, stream.index)
    first = _first_frame(container, stream, path)
    if first.width * first.height > _MAX_PIXELS:
        raise SourceError(
            f"{path}: frames of {first.width}x{first.height} are larger than {_MAX_PIXELS} pixels"
        )
    try:
        pixel_format = planar_format(first.format.name)
        check_matrix(first.colorspace)
    except SourceError as error:
        raise SourceError(f"{path}: {error}") from error
    side_data = _side_data(first)
    for kind, name in ((Type.DOVI_METADATA, "Dolby Vision"), (Type.DYNAMIC_HDR_PLUS, "HDR10+")):
        if kind in side_data:
            warnings.append(
                f"{name} metadata are dropped, they do not fit changed pictures; static HDR stays"
            )
    display = display_of(first)
    if abs(display.angle - display.rotation) > 1:
        warnings.append(
            f"players rotate the video by {display.angle:.0f} degrees, not a multiple of 90: faces are "
            f"detected at {display.rotation} degrees; the rotation itself is kept"
        )
    rate = stream.average_rate or stream.guessed_rate or Fraction(25)
    base = stream.time_base or Fraction(1, av.time_base)
    duration = _duration(container, stream)
    return SourceInfo(
        path=path,
        container=container.format.name,
        codec=context.name,
        width=first.width,
        height=first.height,
        rotation=display.rotation,
        display_matrix=display.matrix,
        sample_aspect_ratio=stream.sample_aspect_ratio or None,
        average_rate=rate,
        time_base=base,
        frame_count=stream.frames or (round(duration * rate) if duration else None),
        duration_seconds=float(duration) if duration else None,
        pixel_format=pixel_format,
        bit_depth=av.VideoFormat(pixel_format).components[0].bits,
        color_range=first.color_range,
        color_primaries=first.color_primaries,
        color_transfer=first.color_trc,
        color_matrix=first.colorspace,
        chroma_location=location,
        interlaced=first.interlaced_frame,
        mastering_display=_mastering_display(side_data.get(Type.MASTERING_DISPLAY_METADATA)),
        content_light=_content_light(side_data.get(Type.CONTENT_LIGHT_LEVEL)),
        video_index=stream.index,
        warnings=tuple(warnings),
    )


def _choose(container: InputContainer, path: Path) -> tuple[VideoStream, list[str]]:
    """The first video stream that is not a still, and warnings about the others."""
    videos = [
        stream
        for stream in container.streams.video
        if not stream.disposition & _STILL and stream.codec_context is not None
    ]
    if not videos:
        found = [
            "cover art" if stream.type == "video" and stream.disposition & _STILL else str(stream.type)
            for stream in container.streams
        ]
        raise SourceError(f"{path}: no video stream (found: {', '.join(found) or 'nothing'})")
    others = [f"stream {stream.index} is another video: its faces are not restored" for stream in videos[1:]]
    return videos[0], others


def _first_frame(container: InputContainer, stream: VideoStream, path: Path) -> av.VideoFrame:
    context = stream.codec_context
    for packet in read_packets(container, (stream,)):
        try:
            frames = context.decode(packet)
        except av.error.FFmpegError:
            continue  # counted in the real pass
        if frames:
            return frames[0]
    try:
        frames = context.decode(None)
    except av.error.FFmpegError:
        frames = []
    if not frames:
        raise SourceError(
            f"{path}: not one frame of its {context.name} video can be decoded; the file is damaged"
        )
    return frames[0]


def _duration(container: InputContainer, stream: VideoStream) -> Fraction | None:
    if stream.duration and stream.time_base:
        return stream.duration * stream.time_base
    return Fraction(container.duration, av.time_base) if container.duration else None


def _side_data(native: av.VideoFrame) -> dict[Type, bytes]:
    # The stubs type the side data as a dict; it is also a sequence.
    entries = [native.side_data[index] for index in range(len(native.side_data))]  # type: ignore[literal-required]
    return {entry.type: bytes(entry) for entry in entries}


def _numbers(layout: str, data: bytes | None) -> tuple[int, ...] | None:
    return struct.unpack(layout, data[: struct.calcsize(layout)]) if data else None


def _mastering_display(data: bytes | None) -> str | None:
    # AVMasteringDisplayMetadata: rationals r, g, b, white point (x, y each), darkest, brightest; two flags.
    numbers = _numbers("22i", data)
    if numbers is None or not (numbers[20] and numbers[21]):
        return None
    values = [Fraction(numbers[i], numbers[i + 1] or 1) for i in range(0, 20, 2)]
    red, green, blue, white = (
        "({},{})".format(*(round(v * 50000) for v in values[i : i + 2])) for i in range(0, 8, 2)
    )
    darkest, brightest = (round(value * 10000) for value in values[8:10])
    return f"G{green}B{blue}R{red}WP{white}L({brightest},{darkest})"


def _content_light(data: bytes | None) -> tuple[int, int] | None:
    numbers = _numbers("2I", data)
    return (numbers[0], numbers[1]) if numbers else None
