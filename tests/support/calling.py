"""aiortc as the browser of the page of `serve`."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from contextlib import suppress
from typing import Any

import aiohttp
import av
from aiortc import RTCConfiguration, RTCPeerConnection, RTCSessionDescription, VideoStreamTrack
from aiortc.mediastreams import MediaStreamError

from support.clips import native_frame


class Pictures(VideoStreamTrack):
    """A camera that shows the astronaut at a given frame rate."""

    def __init__(self, rate: float = 10.0) -> None:
        super().__init__()
        self.rate, self.sent = rate, 0
        self.holds = asyncio.Event()
        self.frames = [native_frame(2 * index, 320, 240) for index in range(20)]

    async def recv(self) -> av.VideoFrame:
        if self.holds.is_set():
            await asyncio.sleep(3600)
        await asyncio.sleep(1 / self.rate)
        picture = self.frames[self.sent % len(self.frames)]
        picture.pts, picture.time_base = await self.next_timestamp()
        self.sent += 1
        return picture


class Caller:
    """A camera that is restored."""

    def __init__(self, rate: float = 10.0) -> None:
        self.connection = RTCPeerConnection(RTCConfiguration(iceServers=[]))
        self.camera = Pictures(rate)
        self.came: list[float] = []
        self.last: av.VideoFrame | None = None
        self.status: dict[str, Any] = {}
        self.answer: dict[str, Any] = {}
        self.channel = self.connection.createDataChannel("wishes")
        self.channel.on("message", self._hear)
        self.connection.on("track", lambda track: self._tasks.append(asyncio.create_task(self._watch(track))))
        self._tasks: list[asyncio.Task[None]] = []

    async def call(self, client: aiohttp.ClientSession, site: str, token: str, **wish: object) -> int:
        """Requests a place; returns the status of the answer."""
        self.connection.addTrack(self.camera)
        await self.connection.setLocalDescription(await self.connection.createOffer())
        body = {"sdp": self.connection.localDescription.sdp, "rate": self.camera.rate, **wish}
        headers = {"Authorization": f"Bearer {token}"}
        async with client.post(f"{site}/api/peers", json=body, headers=headers) as answer:
            self.answer = await answer.json()
            if answer.status == 200:
                await self.connection.setRemoteDescription(
                    RTCSessionDescription(self.answer["sdp"], "answer")
                )
            return answer.status

    def wish(self, **values: object) -> None:
        self.channel.send(json.dumps(values))

    async def until(self, condition: Any, seconds: float = 100) -> None:
        """Waits until `condition(self)` holds."""
        end = time.monotonic() + seconds
        while not condition(self):
            assert time.monotonic() < end, f"{self.status}, {len(self.came)} pictures came"
            await asyncio.sleep(0.05)

    async def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self.connection.close()

    async def _watch(self, track: Any) -> None:
        with suppress(MediaStreamError):
            while True:
                self.last = await track.recv()
                self.came.append(time.monotonic())

    def _hear(self, message: str) -> None:
        self.status = json.loads(message)


async def _main(site: str, token: str) -> None:
    """Connects, prints a line when pictures arrive, and continues until it is killed."""
    caller = Caller()
    async with aiohttp.ClientSession() as client:
        assert await caller.call(client, site, token, restorer="none") == 200
        await caller.until(lambda one: len(one.came) > 3)
        print("pictures come", flush=True)
        await asyncio.sleep(3600)


if __name__ == "__main__":
    asyncio.run(_main(*sys.argv[1:]))
