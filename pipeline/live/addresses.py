"""SOURCE and SINK of a live run, recognised by their form, and the cameras of this machine."""

from __future__ import annotations

import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import av

from configs import ConfigError
from pipeline.errors import SourceError

Kind = Literal["camera", "network", "file", "pipe", "virtual", "null"]

_SOURCES = ("rtsp", "rtsps", "rtmp", "http", "https", "udp", "tcp", "srt")
_SINKS = ("rtmp", "rtsp", "udp", "srt")
_SCHEME = re.compile(r"([A-Za-z][A-Za-z0-9+.-]+):")


_LIBRARIES = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True, slots=True)
class Address:
    """One end of a live run."""

    kind: Kind
    text: str
    """Text given by the user."""
    place: str
    """Path, URL, or number or name of a camera."""

    @property
    def scheme(self) -> str:
        """Scheme of a network address in lower case, such as rtsp."""
        return self.place.partition(":")[0].lower()

    @property
    def shown(self) -> str:
        """Text for messages, with the password masked."""
        return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", self.text)


def source_address(text: str) -> Address:
    """Parses SOURCE. Raises ConfigError."""
    scheme, rest = _split(text)
    if text == "-":
        return Address("pipe", text, text)
    if scheme == "camera":
        if not rest:
            raise ConfigError(f"{text}: the camera is missing; camera:0 is the first, --list shows all")
        return Address("camera", text, rest)
    if scheme in _SOURCES and rest.startswith("//"):
        return Address("network", text, text)
    if scheme and rest.startswith("//"):
        raise ConfigError(f"{text}: {scheme}:// is not read; use {_schemes(_SOURCES)}, camera:, - or a file")
    # os.path, as Path.exists raises for a name that is too long.
    if os.path.exists(text) and Path(text).is_char_device():
        return Address("camera", text, text)
    if os.path.exists(text) or Path(text).suffix or os.path.dirname(text) not in ("", "/dev"):
        return Address("file", text, text)
    # Neither a file, a folder nor an extension: the name of a camera.
    return Address("camera", text, text)


def sink_address(text: str) -> Address:
    """Parses SINK. Raises ConfigError."""
    scheme, rest = _split(text)
    if text == "-":
        return Address("pipe", text, text)
    if scheme == "null":
        return Address("null", text, rest)
    if scheme == "vcam":
        return Address("virtual", text, rest)
    if scheme in _SINKS and rest.startswith("//"):
        return Address("network", text, text)
    if scheme and rest.startswith("//"):
        raise ConfigError(
            f"{text}: {scheme}:// is not written; use {_schemes(_SINKS)}, vcam:, null:, - or a file"
        )
    return Address("file", text, text)


def _split(text: str) -> tuple[str, str]:
    match = _SCHEME.match(text)
    return (match[1].lower(), text[match.end() :]) if match else ("", text)


def _schemes(schemes: tuple[str, ...]) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)


@dataclass(frozen=True, slots=True)
class Camera:
    """A camera of this machine."""

    device: str
    """Device that FFmpeg opens."""
    name: str
    """Name for users."""


def library(platform: str = sys.platform) -> str:
    """FFmpeg's input format for cameras on `platform`. Raises SourceError where there is none."""
    if platform not in _LIBRARIES:
        raise SourceError(f"cameras are not read on {platform}, only on Linux, macOS and Windows")
    return _LIBRARIES[platform]


def cameras() -> list[Camera]:
    """All cameras of this machine."""
    try:
        found = av.enumerate_input_devices(library())
    except (ValueError, av.error.FFmpegError):
        return []
    # DirectShow and AVFoundation list microphones beside cameras.
    return [
        Camera(device.name, device.description or device.name)
        for device in found
        if not device.media_types or "video" in device.media_types
    ]


def find_camera(wanted: str, present: list[Camera], platform: str = sys.platform) -> str:
    """The device of the camera with this number, device path or part of a name.

    Raises SourceError unless exactly one matches.
    """
    if wanted.startswith("/"):
        return wanted
    if wanted.isdecimal():
        if platform == "linux":
            return f"/dev/video{wanted}"
        if int(wanted) < len(present):
            return _opened(present[int(wanted)].device, platform)
        raise SourceError(f"camera {wanted}: not found, {_listed(present)}")
    fitting = [camera for camera in present if wanted.lower() in camera.name.lower()]
    exact = [camera for camera in fitting if wanted.lower() == camera.name.lower()]
    chosen = exact or fitting
    if not chosen:
        raise SourceError(f"{wanted}: neither a file nor a camera, {_listed(present)}")
    if len(chosen) > 1:
        raise SourceError(f"{wanted}: matches several cameras, {_listed(present)}")
    return _opened(chosen[0].device, platform)


def _opened(device: str, platform: str) -> str:
    return f"video={device}" if platform == "win32" else device


def _listed(present: list[Camera]) -> str:
    if not present:
        return "this machine has no camera"
    return "present: " + ", ".join(f"camera:{n} ({c.name})" for n, c in enumerate(present))
