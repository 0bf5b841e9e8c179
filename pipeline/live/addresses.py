"""What SOURCE and SINK of a live run may be, told apart by their form."""

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


@dataclass(frozen=True, slots=True)
class Address:
    """One end of a live run."""

    kind: Kind
    text: str
    """As the user wrote it."""
    place: str
    """What is opened: a path, an address, or the number or name of a camera."""

    @property
    def scheme(self) -> str:
        """Of an address of the network, in lower case: rtsp, http, ..."""
        return self.place.partition(":")[0].lower()

    @property
    def shown(self) -> str:
        """As it may be printed: without a password."""
        return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1:***@", self.text)


def source_address(text: str) -> Address:
    """The source that `text` names. Raises ConfigError for a form that is none."""
    scheme, rest = _split(text)
    if text == "-":
        return Address("pipe", text, text)
    if scheme == "camera":
        if not rest:
            raise ConfigError(f"{text}: which camera? camera:0 is the first, --list shows all")
        return Address("camera", text, rest)
    if scheme in _SOURCES and rest.startswith("//"):
        return Address("network", text, text)
    if scheme and rest.startswith("//"):
        raise ConfigError(
            f"{text}: {scheme}:// is not read; there are {_listed(_SOURCES)}, camera:, - and files"
        )
    # os.path, as Path.exists raises for a name that is too long.
    if os.path.exists(text) and Path(text).is_char_device():
        return Address("camera", text, text)
    if os.path.exists(text) or Path(text).suffix or os.path.dirname(text) not in ("", "/dev"):
        return Address("file", text, text)
    # A name without an extension or a folder, and no file: a camera's.
    return Address("camera", text, text)


def sink_address(text: str) -> Address:
    """The sink that `text` names. Raises ConfigError for a form that is none."""
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
            f"{text}: {scheme}:// is not written; there are {_listed(_SINKS)}, vcam:, null:, - and files"
        )
    return Address("file", text, text)


def _split(text: str) -> tuple[str, str]:
    match = _SCHEME.match(text)
    return (match[1].lower(), text[match.end() :]) if match else ("", text)


def _listed(schemes: tuple[str, ...]) -> str:
    return ", ".join(f"{scheme}://" for scheme in schemes)


_LIBRARIES = {"linux": "v4l2", "darwin": "avfoundation", "win32": "dshow"}


@dataclass(frozen=True, slots=True)
class Camera:
    """One camera of this machine."""

    device: str
    """What FFmpeg opens."""
    name: str
    """What people call it."""


def library(platform: str = sys.platform) -> str:
    """FFmpeg's name of the library that reads cameras here. Raises SourceError where there is none."""
    if platform not in _LIBRARIES:
        raise SourceError(f"cameras are not read on {platform}, only on Linux, macOS and Windows")
    return _LIBRARIES[platform]


def cameras() -> list[Camera]:
    """All cameras of this machine; empty where none is found."""
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
    """What FFmpeg opens for the camera of this number, device path or part of a name.

    Raises SourceError where none or more than one fits.
    """
    if wanted.startswith("/"):
        return wanted
    if wanted.isdecimal():
        if platform == "linux":
            return f"/dev/video{wanted}"
        if int(wanted) < len(present):
            return _opened(present[int(wanted)].device, platform)
        raise SourceError(f"camera {wanted}: there is none, {_listed(present)}")
    fitting = [camera for camera in present if wanted.lower() in camera.name.lower()]
    exact = [camera for camera in fitting if wanted.lower() == camera.name.lower()]
    chosen = exact or fitting
    if not chosen:
        raise SourceError(f"{wanted}: no such file and no camera of that name, {_listed(present)}")
    if len(chosen) > 1:
        raise SourceError(f"{wanted}: more than one camera has this in its name, {_listed(present)}")
    return _opened(chosen[0].device, platform)


def _opened(device: str, platform: str) -> str:
    return f"video={device}" if platform == "win32" else device


def _listed(present: list[Camera]) -> str:
    if not present:
        return "this machine shows no camera"
    return "there are: " + ", ".join(f"camera:{n} ({c.name})" for n, c in enumerate(present))
