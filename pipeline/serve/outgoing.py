"""The picture that goes back to the browser: always the newest."""

from __future__ import annotations

import asyncio
import time
from collections import deque
from statistics import median

import av
from aiortc.mediastreams import VIDEO_CLOCK_RATE, VIDEO_TIME_BASE, MediaStreamError, MediaStreamTrack

_RECENT = 30


class NewestPictures(MediaStreamTrack):
    """A track of pictures that are put in; one that was not sent yet gives way to the next. For one event loop."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0
        """Pictures that were not sent in time."""
        self._sent: deque[float] = deque(maxlen=_RECENT)
        self._sending: float | None = None
        self._zero: float | None = None
        self._last = -1
        self._newest: tuple[av.VideoFrame, float] | None = None
        self._there = asyncio.Event()

    def put(self, picture: av.VideoFrame, came: float) -> None:
        """Offers a picture with the moment, of `time.monotonic`, at which the camera's picture came."""
        self.replaced += self._newest is not None
        self._newest = (picture, came)
        self._there.set()

    @property
    def sent_ms(self) -> float | None:
        """Milliseconds from a picture's coming until it is coded and sent, the median of late; None before any was."""
        return 1000 * median(self._sent) if self._sent else None

    async def recv(self) -> av.VideoFrame:
        """The next picture, as soon as there is one. Asked for when the one before is coded and sent."""
        if self._sending is not None:
            self._sent.append(time.monotonic() - self._sending)
            self._sending = None
        await self._there.wait()
        self._there.clear()
        if self._newest is None or self.readyState != "live":
            raise MediaStreamError
        (picture, came), self._newest = self._newest, None
        self._sending = came
        self._zero = came if self._zero is None else self._zero
        # Receivers refuse times that do not grow.
        self._last = max(round((came - self._zero) * VIDEO_CLOCK_RATE), self._last + 1)
        picture.pts, picture.time_base = self._last, VIDEO_TIME_BASE
        return picture

    def stop(self) -> None:
        """Ends the track, and whoever waits for its next picture."""
        super().stop()
        self._newest = None
        self._there.set()
