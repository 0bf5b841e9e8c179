"""The page of `python -m pipeline serve`, running in the test's own event loop."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

import configs
from pipeline.config import PipelineConfig
from pipeline.serve.command import listen, serve
from pipeline.serve.site import Settings
from pipeline.serve.uploads import PrivateFolder

UNHURRIED = ("live.most_delay_ms=20000", "live.ladder.tolerance=1e6")
"""Every frame is restored, however slow the machine."""


@dataclass(frozen=True)
class Served:
    """A running page."""

    address: str
    """URL with the token."""
    folder: Path
    """The private folder."""
    client: aiohttp.ClientSession
    closing: AsyncExitStack
    """Closed when the page ends."""

    @property
    def site(self) -> str:
        return self.address.partition("/#")[0]

    @property
    def token(self) -> str:
        return self.address.partition("/#")[2]

    async def ask(
        self,
        method: str,
        path: str,
        *,
        token: str | None = None,
        headers: dict[str, str] | None = None,
        **body: Any,
    ) -> tuple[int, dict[str, Any]]:
        """Status and JSON of the answer to a request like those of the page."""
        given = {"Authorization": f"Bearer {self.token if token is None else token}"} | (headers or {})
        async with self.client.request(method, self.site + path, headers=given, **body) as answer:
            return answer.status, await answer.json()

    def left(self) -> list[str]:
        """Paths in the private folder."""
        return sorted(str(p.relative_to(self.folder)) for p in self.folder.rglob("*") if p.name != "lock")


@asynccontextmanager
async def served(parent: Path, changes: Sequence[str] = ()) -> AsyncIterator[Served]:
    """Serves on a free port of this machine, with its private folder in `parent`."""
    settings = Settings(
        configs.load(PipelineConfig, configs.preset("live"), changes),
        configs.load(PipelineConfig, None, changes),
    )
    address: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    def tell(sentence: str) -> None:
        if not address.done():
            address.set_result(sentence)

    with PrivateFolder(parent) as folder:
        task = asyncio.create_task(serve(settings, folder, listen("127.0.0.1", 0), names=[], tell=tell))
        try:
            await asyncio.wait({task, address}, return_when=asyncio.FIRST_COMPLETED)
            async with aiohttp.ClientSession() as client, AsyncExitStack() as closing:
                yield Served(await address, folder.path, client, closing)
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
