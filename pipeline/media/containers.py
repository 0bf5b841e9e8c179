"""Opens files of pictures and sound that nobody vouches for.

Such a file may be a playlist in disguise that makes a player read other files or the network. So the protocol
and the formats are allow-lists, checked by FFmpeg before the format's own code reads a byte.
"""

from __future__ import annotations

import os
from pathlib import Path

import av
from av.codec.hwaccel import HWAccel
from av.container import InputContainer

from pipeline.errors import SourceError

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
            f"{path}: no video that can be read ({_reason(error)}); the file is damaged, was not downloaded "
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


def _reason(error: av.error.FFmpegError | OSError) -> str:
    return (error.strerror or str(error)).rstrip(".").lower()
