"""Encoding by NVIDIA cards: what their encoders take, their settings, and whether one is here.

They are quick and leave the processor to the rest; for the same quality their files are larger than those of x264 and
x265 at a slow preset. So nothing chooses them but the user.
"""

from __future__ import annotations

from fractions import Fraction
from typing import cast

import av
from av.video.codeccontext import VideoCodecContext

from configs import ConfigError

FORMATS = {
    "h264_nvenc": ("yuv420p", "yuv444p"),
    "hevc_nvenc": ("yuv420p", "p010le", "yuv444p"),
    "av1_nvenc": ("yuv420p", "p010le"),
}
"""Pixel formats by encoder: those that each generation of cards with the encoder takes, which are fewer than FFmpeg
lists. p010le is 10 bit 4:2:0."""

_PRESETS = {
    "ultrafast": "p1",
    "superfast": "p2",
    "veryfast": "p2",
    "faster": "p3",
    "fast": "p3",
    "medium": "p4",
    "slow": "p5",
    "slower": "p6",
    "veryslow": "p7",
}


def options(codec: str, crf: float, preset: str) -> dict[str, str]:
    """Settings of `codec` for a quality on H.264's scale (0 to 51) and x264's name of a preset."""
    # AV1 counts to 63. 0 would let the card choose, and is no more lossless here than 1.
    quality = max(1.0, crf * 63 / 51 if codec == "av1_nvenc" else crf)
    return {"preset": _PRESETS[preset], "tune": "hq", "rc": "vbr", "cq": f"{quality:g}", "b": "0"}


def check_encoder(codec: str, pixel_format: str, width: int, height: int, settings: dict[str, str]) -> None:
    """Opens `codec` once and lets go of it. Raises ConfigError where that fails."""
    try:
        context = cast(VideoCodecContext, av.CodecContext.create(codec, "w"))
        context.width, context.height, context.pix_fmt = width, height, pixel_format
        context.time_base = Fraction(1, 25)
        context.options = settings
        context.open()
    except av.error.FFmpegError as error:
        raise ConfigError(
            f"--codec {codec} does not open here for frames of {width}x{height} {pixel_format} "
            f"({(error.strerror or str(error)).lower()}): it needs an NVIDIA card with this encoder and its driver; "
            "use --codec auto"
        ) from error
    except ValueError as error:
        raise ConfigError(
            f"--codec {codec}: the FFmpeg inside PyAV is built without it; use --codec auto"
        ) from error
