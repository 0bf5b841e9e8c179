"""A browser whose camera is restored: pictures both ways, and a data channel for choices and status."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import time
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from fractions import Fraction
from statistics import median
from typing import Any

import av
from aiortc import RTCConfiguration, RTCDataChannel, RTCPeerConnection, RTCSessionDescription
from aiortc.mediastreams import VIDEO_CLOCK_RATE, VIDEO_TIME_BASE, MediaStreamError, MediaStreamTrack

from configs import ConfigError
from pipeline.config import PipelineConfig
from pipeline.serve.call import Call
from pipeline.serve.choice import Choice, Wish, restorer_of, strength_of
from pipeline.serve.wire import widen

_RECENT = 30


logger = logging.getLogger(__name__)
Photos = Callable[[object], Choice]
"""Gives the photo of an id, as a choice without a restorer. Raises ConfigError."""
_STATUS_SECONDS = 0.5
_MOST_MESSAGE = 2000
"""Maximum characters of a message."""
_CLOSE_SECONDS = 5.0


class NewestPictures(MediaStreamTrack):
    """Outgoing video track; a new picture replaces one that was not sent. Belongs to the event loop."""

    kind = "video"

    def __init__(self) -> None:
        super().__init__()
        self.replaced = 0
        """Pictures replaced before they were sent."""
        self._sent: deque[float] = deque(maxlen=_RECENT)
        self._sending: float | None = None
        self._zero: float | None = None
        self._last = -1
        self._newest: tuple[av.VideoFrame, float] | None = None
        self._there = asyncio.Event()

    def put(self, picture: av.VideoFrame, came: float) -> None:
        """Offers a picture; `came`: arrival of the camera's picture on `time.monotonic`."""
        self.replaced += self._newest is not None
        self._newest = (picture, came)
        self._there.set()

    @property
    def sent_ms(self) -> float | None:
        """Recent median time in milliseconds from arrival until a picture was encoded and sent; None without any."""
        return 1000 * median(self._sent) if self._sent else None

    async def recv(self) -> av.VideoFrame:
        """Waits for the next picture. aiortc calls this after it has encoded and sent the one before."""
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
        # Receivers require increasing times.
        self._last = max(round((came - self._zero) * VIDEO_CLOCK_RATE), self._last + 1)
        picture.pts, picture.time_base = self._last, VIDEO_TIME_BASE
        return picture

    def stop(self) -> None:
        """Ends the track and a waiting `recv`."""
        super().stop()
        self._newest = None
        self._there.set()


@dataclass(frozen=True, slots=True)
class Offer:
    """Request of a browser to restore its camera."""

    sdp: str
    rate: Fraction
    """Frames per second of its camera."""
    choice: Choice
    wish: Wish


class Peer:
    """One browser. Belongs to the event loop."""

    def __init__(self, config: PipelineConfig, offer: Offer, photos: Photos) -> None:
        self.id = secrets.token_urlsafe(16)
        self.heard = time.monotonic()
        """Arrival of the last picture, initially the start."""
        self._config, self._photos = config, photos
        # Without ICE servers nothing outside the local network is contacted.
        self._connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self._track = NewestPictures()
        self._loop = asyncio.get_running_loop()
        self._call = Call(config, offer.choice, offer.wish, self._show, offer.rate)
        self._tasks: list[asyncio.Task[None]] = []
        self._problem = ""
        self._connection.on("track", self._take)
        self._connection.on("datachannel", self._listen)

    async def answer(self, sdp: str) -> str:
        """The answer to an offer. Raises ConfigError."""
        try:
            await self._connection.setRemoteDescription(RTCSessionDescription(sdp, "offer"))
            if [one.kind for one in self._connection.getTransceivers()] != ["video"]:
                raise ConfigError("an offer must have one picture and no sound")
            self._connection.getTransceivers()[0].sender.replaceTrack(self._track)
            self._connection.getTransceivers()[0].direction = "sendrecv"
            answer = await self._connection.createAnswer()
            assert answer is not None
            await self._connection.setLocalDescription(answer)
        except ConfigError:
            raise
        except Exception as error:  # the parser may raise anything on an invalid text
            logger.info("an offer was refused: %r", error)
            raise ConfigError("this is not an offer that can be answered") from error
        serve = self._config.serve
        sdp = self._connection.localDescription.sdp
        return widen(sdp, least_kilobits=serve.least_kilobits, most_kilobits=serve.most_kilobits)

    @property
    def is_lost(self) -> bool:
        """Whether it has left, with or without notice."""
        silent = time.monotonic() - self.heard > self._config.serve.silent_seconds
        return silent or self._connection.connectionState in ("failed", "closed")

    async def close(self) -> None:
        """Releases sockets, threads and networks."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        with suppress(TimeoutError):
            await asyncio.wait_for(self._connection.close(), _CLOSE_SECONDS)
        self._track.stop()
        await asyncio.to_thread(self._call.close)

    def _show(self, picture: av.VideoFrame, came: float) -> None:
        # The loop may have ended.
        with suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._track.put, picture, came)

    def _take(self, track: MediaStreamTrack) -> None:
        if track.kind == "video":
            self._tasks.append(asyncio.create_task(self._read(track)))

    async def _read(self, track: MediaStreamTrack) -> None:
        with suppress(MediaStreamError):
            while True:
                picture = await track.recv()
                assert isinstance(picture, av.VideoFrame)
                self.heard = time.monotonic()
                self._call.feed(picture)

    def _listen(self, channel: RTCDataChannel) -> None:
        channel.on("message", self._hear)
        self._tasks.append(asyncio.create_task(self._send_status(channel)))

    async def _send_status(self, channel: RTCDataChannel) -> None:
        while channel.readyState == "open":
            status = self._call.status()
            status["problem"] = self._problem or status["problem"]
            sent = self._track.sent_ms
            status |= {"unsent": self._track.replaced, "sent_ms": None if sent is None else round(sent)}
            channel.send(json.dumps(status))
            await asyncio.sleep(_STATUS_SECONDS)

    def _hear(self, message: object) -> None:
        try:
            self._apply(_read_wish(message))
            self._problem = ""
        except ConfigError as error:
            self._problem = str(error)

    def _apply(self, values: dict[str, Any]) -> None:
        """Applies a message: any of strength, bypass, restorer and photo."""
        wish, choice = self._call.wish, self._call.choice
        if "strength" in values:
            wish = replace(wish, strength=strength_of(values, 1.0))
        if "bypass" in values:
            wish = replace(wish, bypass=values["bypass"] is True)
        self._call.wish = wish
        if "restorer" in values:
            choice = replace(choice, restorer=restorer_of(values, self._config))
        if "photo" in values:
            found = self._photos(values["photo"])
            choice = replace(choice, photo=found.photo, photo_name=found.photo_name)
        self._call.choose(choice)


def read_offer(values: dict[str, Any], config: PipelineConfig, photos: Photos) -> Offer:
    """Validates a request. Raises ConfigError."""
    sdp, rate = values.get("sdp"), values.get("rate", 30)
    if not isinstance(sdp, str):
        raise ConfigError("sdp must be the text of an offer")
    if not isinstance(rate, int | float) or not 1 <= rate <= 120:
        raise ConfigError("rate must be between 1 and 120 frames per second")
    found = photos(values.get("photo"))
    choice = replace(found, restorer=restorer_of(values, config))
    wish = Wish(strength_of(values, config.blend.strength), values.get("bypass") is True)
    return Offer(sdp, Fraction(rate).limit_denominator(1001), choice, wish)


def _read_wish(message: object) -> dict[str, Any]:
    if isinstance(message, str) and len(message) <= _MOST_MESSAGE:
        with suppress(ValueError):
            values = json.loads(message)
            if isinstance(values, dict):
                return values
    raise ConfigError("a message must be a small JSON object")


class Peers:
    """All connected browsers. Belongs to the event loop."""

    def __init__(self, config: PipelineConfig, photos: Photos) -> None:
        self._config, self._photos = config, photos
        self._peers: dict[str, Peer] = {}
        self._closing: set[asyncio.Task[None]] = set()

    @property
    def count(self) -> int:
        """Connected browsers."""
        return len(self._peers)

    @property
    def is_full(self) -> bool:
        """Whether further cameras are refused."""
        return self.count >= self._config.serve.most_peers

    async def join(self, values: dict[str, Any]) -> dict[str, str]:
        """Connects a browser; returns the answer and its id. Raises ConfigError."""
        offer = read_offer(values, self._config, self._photos)
        peer = Peer(self._config, offer, self._photos)
        # Before any await, so that simultaneous requests cannot share one place.
        self._peers[peer.id] = peer
        try:
            return {"sdp": await peer.answer(offer.sdp), "type": "answer", "peer": peer.id}
        except BaseException:
            self.leave(peer.id)
            raise

    def leave(self, id: str) -> bool:
        """Disconnects a browser; False for an unknown id."""
        peer = self._peers.pop(id, None)
        if peer is None:
            return False
        task = asyncio.create_task(peer.close())
        self._closing.add(task)
        task.add_done_callback(self._closing.discard)
        return True

    async def watch(self) -> None:
        """Disconnects browsers that left without notice, until cancelled."""
        while True:
            await asyncio.sleep(min(self._config.serve.silent_seconds / 4, 1.0))
            for peer in [peer for peer in self._peers.values() if peer.is_lost]:
                self.leave(peer.id)

    async def close(self) -> None:
        """Disconnects all browsers."""
        for id in list(self._peers):
            self.leave(id)
        await asyncio.gather(*self._closing, return_exceptions=True)
