"""Cameras by number or name, as the system's own library knows them."""

from __future__ import annotations

import sys
from dataclasses import dataclass

import av

from pipeline.errors import SourceError

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
