"""Changes to aiortc, which has no settings for them; no other file patches it.

- Bit rate: aiortc allows 1.5 (VP8) or 3 (H.264) Mbit/s, starts with a third of that and follows the browser's estimate
  below. A restored face needs more; see `ServeConfig.least_kilobits`.
- Speed: x264 with aiortc's options takes longer than a frame interval. A faster preset with more bits is better in
  both speed and quality (`python -m pipeline.bench serve`).
- Delay: aiortc passes a picture on when the next one starts to arrive. RTP's marker bit names the last packet of a
  picture (RFC 6184, section 5.1; RFC 7741, section 4.1), so a picture need not wait.
- Addresses: aiortc opens a socket on each address except 127.0.0.1. Here 127.0.0.1 is added, and a page for this
  machine only ignores packets from others.
"""

from __future__ import annotations

import re
from fractions import Fraction
from functools import cache
from types import ModuleType
from typing import Any

import aioice.ice
import aiortc.codecs.h264
import aiortc.codecs.vpx
import aiortc.rtcrtpreceiver
import aiortc.rtcrtpsender
import av
from aiortc import RTCRtpCodecParameters
from aiortc.codecs import get_encoder
from aiortc.codecs.base import Encoder
from aiortc.codecs.h264 import H264Encoder
from aiortc.jitterbuffer import JitterBuffer, JitterFrame
from av.frame import Frame

LOOPBACK = "127.0.0.1"
_addresses_of_the_machine = aioice.ice.get_host_addresses
_Protocol = aioice.ice.StunProtocol


def prepare(*, least_kilobits: int, most_kilobits: int, local_only: bool) -> None:
    """Patches aiortc in this process."""
    for codec in (aiortc.codecs.h264, aiortc.codecs.vpx):
        _set(codec, MIN_BITRATE=1000 * least_kilobits, MAX_BITRATE=1000 * most_kilobits)
        _set(codec, DEFAULT_BITRATE=1000 * most_kilobits)
    _set(aiortc.rtcrtpsender, get_encoder=_encoder)
    _set(aiortc.rtcrtpreceiver, JitterBuffer=PromptBuffer)
    _set(aioice.ice, get_host_addresses=_addresses)
    _set(aioice.ice, StunProtocol=_LocalProtocol if local_only else _Protocol)


def _set(module: ModuleType, **values: object) -> None:
    for name, value in values.items():
        # A renamed attribute must not be patched silently in vain.
        if not hasattr(module, name):
            raise AttributeError(f"{module.__name__} has no {name}; pipeline/serve/wire.py must follow")
        setattr(module, name, value)


def widen(sdp: str, *, least_kilobits: int, most_kilobits: int) -> str:
    """The answer `sdp` with these bit rates for the browser's pictures, and VP8 preferred.

    `b=AS` is the limit of RFC 8866. The `x-google-` parameters are Chromium's, which otherwise starts at 0.3 Mbit/s and
    takes half a minute to reach what a face needs; other browsers ignore them. Browsers send the first codec of the
    answer; their H.264 does not use its full bit rate. The server sends the first codec of the offer.
    """
    bits = (
        f"x-google-min-bitrate={least_kilobits};x-google-start-bitrate={most_kilobits};"
        f"x-google-max-bitrate={most_kilobits}"
    )
    described = set(re.findall(r"^a=fmtp:(\d+) ", sdp, re.MULTILINE))
    lines: list[str] = []
    video = False
    for line in sdp.splitlines():
        if line.startswith("m="):
            video = line.startswith("m=video")
            line = _first(line, re.findall(r"^a=rtpmap:(\d+) VP8/", sdp, re.MULTILINE)) if video else line
        picture = re.match(r"a=(fmtp|rtpmap):(\d+) (?!rtx/|apt=)", line) if video else None
        lines.append(f"{line};{bits}" if picture and picture[1] == "fmtp" else line)
        if picture and picture[1] == "rtpmap" and picture[2] not in described:
            lines.append(f"a=fmtp:{picture[2]} {bits}")
        if video and line.startswith("c="):
            lines.append(f"b=AS:{most_kilobits}")
    return "\r\n".join(lines) + "\r\n"


def _first(media: str, wanted: list[str]) -> str:
    """A line `m=` with the payload types `wanted` first."""
    *head, types = media.split(" ", 3)
    return " ".join([*head, *sorted(types.split(), key=lambda each: each not in wanted)])


class QuickH264Encoder(H264Encoder):
    """H.264 with a faster preset."""

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """Payloads of `frame`, an `av.VideoFrame`, and its RTP timestamp."""
        assert isinstance(frame, av.VideoFrame)
        codec = self.codec
        if (
            codec is None
            or (codec.width, codec.height) != (frame.width, frame.height)
            # The condition of the class above, which would otherwise open its own codec.
            or abs(self.target_bitrate - (codec.bit_rate or 1)) > 0.1 * (codec.bit_rate or 1)
        ):
            self.codec = self._open(frame)
        return super().encode(frame, force_keyframe)

    def _open(self, first: av.VideoFrame) -> av.VideoCodecContext:
        codec = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = first.width, first.height, "yuv420p"
        # Browsers read untagged H.264 as BT.709, but their cameras are BT.601.
        codec.color_range, codec.colorspace = first.color_range, first.colorspace
        codec.color_primaries, codec.color_trc = first.color_primaries, first.color_trc
        codec.bit_rate = self.target_bitrate
        rate = aiortc.codecs.h264.MAX_FRAME_RATE
        codec.framerate, codec.time_base = Fraction(rate), Fraction(1, rate)
        codec.options = {"preset": "superfast", "tune": "zerolatency", "level": "31"}
        codec.profile = "Baseline"
        return codec


def _encoder(codec: RTCRtpCodecParameters) -> Encoder:
    return QuickH264Encoder() if codec.mimeType.lower() == "video/h264" else get_encoder(codec)


class PromptBuffer(JitterBuffer):
    """Passes a picture on as soon as its last packet has arrived."""

    def _remove_frame(self, sequence_number: int) -> JitterFrame | None:
        done = super()._remove_frame(sequence_number)
        # Each packet of sound is a frame; aiortc buffers those on purpose.
        return done if done is not None or not self._is_video else self._first_complete()

    def _first_complete(self) -> JitterFrame | None:
        assert self._origin is not None
        parts: list[bytes] = []
        first: Any = None
        for count in range(self.capacity):
            packet: Any = self._packets[(self._origin + count) % self.capacity]
            first = first or packet
            if packet is None or packet.timestamp != first.timestamp:
                return None
            parts.append(packet._data)
            if packet.marker:
                self.remove(count + 1)
                return JitterFrame(data=b"".join(parts), timestamp=packet.timestamp)
        return None


class _LocalProtocol(_Protocol):
    """Ignores packets from other machines."""

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        if str(addr[0]) in _local_addresses():
            super().datagram_received(data, addr)


def _addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    _local_addresses.cache_clear()
    others = _addresses_of_the_machine(use_ipv4, use_ipv6)
    return [LOOPBACK, *others] if use_ipv4 else others


@cache
def _local_addresses() -> frozenset[str]:
    """Addresses of this machine when sockets were last opened."""
    return frozenset((LOOPBACK, "::1", *_addresses_of_the_machine(True, True)))
