"""What SOURCE and SINK of a live run may be, told apart by their form."""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from configs import ConfigError

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
