"""How aiortc carries pictures here. It has no settings for this, so its modules are told otherwise, in this file alone.

- Bits: it allows 1.5 (VP8) or 3 (H.264) Mbit/s, starts with a third of that and follows the browser's estimate down
  to less. A restored face needs more; see `ServeConfig.least_kilobits`.
- Effort: x264 as it sets it up takes longer for a picture than there is between two. A quicker setting with more bits
  is better in every way (`python -m pipeline.bench serve`).
- Delay: it gives a picture on when the next one begins to arrive. The marker of RTP says which packet is the last of a
  picture (RFC 6184, section 5.1; RFC 7741, section 4.1), so a picture need not wait for the next.
- Reach: it opens a socket on each address of the machine, but not on 127.0.0.1. Here that one is opened too, and where
  the page is for this machine alone, what comes from another one is not even read.
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


def prepare(*, least_kilobits: int, most_kilobits: int, this_machine_alone: bool) -> None:
    """Sets aiortc up, for the whole process."""
    for codec in (aiortc.codecs.h264, aiortc.codecs.vpx):
        _set(codec, MIN_BITRATE=1000 * least_kilobits, MAX_BITRATE=1000 * most_kilobits)
        _set(codec, DEFAULT_BITRATE=1000 * most_kilobits)
    _set(aiortc.rtcrtpsender, get_encoder=_encoder)
    _set(aiortc.rtcrtpreceiver, JitterBuffer=PromptBuffer)
    _set(aioice.ice, get_host_addresses=_addresses)
    _set(aioice.ice, StunProtocol=_NearProtocol if this_machine_alone else _Protocol)


def _set(module: ModuleType, **values: object) -> None:
    for name, value in values.items():
        # A library that has changed must not be set up silently in vain.
        if not hasattr(module, name):
            raise AttributeError(
                f"{module.__name__} has no {name} any more; pipeline/serve/wire.py must follow"
            )
        setattr(module, name, value)


def widen(sdp: str, *, least_kilobits: int, most_kilobits: int) -> str:
    """The answer `sdp` with leave for the browser to send so many bits, in VP8 if it can.

    `b=AS` is the limit of RFC 8866; the `x-google-` parameters are those of Chromium's encoders, which would begin at
    0.3 Mbit/s and take half a minute to reach what a face needs. Others ignore them. Browsers send what the answer
    names first; their H.264 does not use all the bits it may. What is sent to them is what their offer named first.
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
    """A line `m=` with the payload types `wanted` before the others."""
    *head, types = media.split(" ", 3)
    return " ".join([*head, *sorted(types.split(), key=lambda each: each not in wanted)])


class QuickH264Encoder(H264Encoder):
    """H.264 in a fraction of the time."""

    def encode(self, frame: Frame, force_keyframe: bool = False) -> tuple[list[bytes], int]:
        """The payloads of `frame`, an `av.VideoFrame`, and its time in ticks of RTP."""
        assert isinstance(frame, av.VideoFrame)
        codec = self.codec
        if (
            codec is None
            or (codec.width, codec.height) != (frame.width, frame.height)
            # As the class above has it, which would put its own in the place of ours otherwise.
            or abs(self.target_bitrate - (codec.bit_rate or 1)) > 0.1 * (codec.bit_rate or 1)
        ):
            self.codec = self._open(frame)
        return super().encode(frame, force_keyframe)

    def _open(self, first: av.VideoFrame) -> av.VideoCodecContext:
        codec = av.CodecContext.create("libx264", "w")
        codec.width, codec.height, codec.pix_fmt = first.width, first.height, "yuv420p"
        # Browsers take H.264 that does not say for BT.709, which their cameras are not.
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
    """Gives a picture as soon as its last packet is there."""

    def _remove_frame(self, sequence_number: int) -> JitterFrame | None:
        done = super()._remove_frame(sequence_number)
        # The sound's packets are each a frame, and are gathered on purpose.
        return done if done is not None or not self._is_video else self._first_whole()

    def _first_whole(self) -> JitterFrame | None:
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


class _NearProtocol(_Protocol):
    """Hears this machine alone."""

    def datagram_received(self, data: bytes | str, addr: tuple[Any, ...]) -> None:
        if str(addr[0]) in _near():
            super().datagram_received(data, addr)


def _addresses(use_ipv4: bool, use_ipv6: bool) -> list[str]:
    _near.cache_clear()
    others = _addresses_of_the_machine(use_ipv4, use_ipv6)
    return [LOOPBACK, *others] if use_ipv4 else others


@cache
def _near() -> frozenset[str]:
    """This machine's addresses, as of the last time that sockets were opened."""
    return frozenset((LOOPBACK, "::1", *_addresses_of_the_machine(True, True)))
