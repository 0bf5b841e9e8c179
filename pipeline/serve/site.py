"""Routes of the page and their handlers."""

from __future__ import annotations

import asyncio
import json
import shutil
from collections.abc import AsyncIterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from aiohttp import web

from configs import ConfigError
from pipeline import __version__
from pipeline.config import PipelineConfig
from pipeline.serve.access import Access, RequestError, same
from pipeline.serve.choice import Photos, chosen, restorer_of, restorers, strength_of
from pipeline.serve.jobs import Job, Jobs
from pipeline.serve.peer import Peers
from pipeline.serve.uploads import PrivateFolder, inspected, name_of, receive

_STATIC = Path(__file__).with_name("static")
_KINDS = {".html": "text/html", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml"}
_MOST_JSON = 1 << 18
_JSON_SECONDS = 10.0


@dataclass(frozen=True, slots=True)
class Settings:
    """Settings for cameras and for files, which may take more time."""

    live: PipelineConfig
    file: PipelineConfig


class Site:
    """The page and its API. Belongs to the event loop."""

    def __init__(self, settings: Settings, folder: PrivateFolder, access: Access) -> None:
        self._settings, self._folder = settings, folder
        serve = settings.live.serve
        self._serve = serve
        self.photos = Photos(60 * serve.keep_minutes)
        self.peers = Peers(settings.live, self.photos.choice)
        self.jobs = Jobs(serve.most_waiting, 60 * serve.keep_minutes)
        self.application = web.Application(middlewares=[access.guard], client_max_size=_MOST_JSON)
        self.application.on_response_prepare.append(access.add_headers)
        self.application.cleanup_ctx.append(self._work)
        self._add_routes(self.application.router)

    def _add_routes(self, router: web.UrlDispatcher) -> None:
        for path in _STATIC.iterdir():
            # Read once, so that requests cannot name files.
            router.add_get("/" if path.name == "index.html" else f"/{path.name}", _page(path))
        router.add_get("/api/about", self._about)
        router.add_post("/api/peers", self._join)
        router.add_delete("/api/peers/{id}", self._leave)
        router.add_post("/api/photos", self._take_photo)
        router.add_post("/api/jobs", self._take_file)
        router.add_get("/api/jobs/{id}", self._job)
        router.add_delete("/api/jobs/{id}", self._remove_job)
        router.add_get("/api/jobs/{id}/result", self._result)

    async def _work(self, application: web.Application) -> AsyncIterator[None]:
        tasks = [asyncio.create_task(one) for one in (self.peers.watch(), self.jobs.work(), self._tidy())]
        yield
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await self.peers.close()

    async def _tidy(self) -> None:
        while True:
            await asyncio.sleep(30)
            self.photos.remove_old()

    async def _about(self, request: web.Request) -> web.Response:
        serve = self._serve
        return web.json_response(
            {
                "version": __version__,
                "restorers": restorers(self._settings.live),
                "strength": self._settings.file.blend.strength,
                "most_upload_bytes": serve.most_upload_mib << 20,
                "most_photo_bytes": serve.most_photo_mib << 20,
                "most_kilobits": serve.most_kilobits,
                "most_delay_ms": self._settings.live.live.most_delay_ms,
                "keep_minutes": serve.keep_minutes,
            }
        )

    async def _join(self, request: web.Request) -> web.Response:
        if self.peers.is_full:
            raise RequestError(
                503, f"{self.peers.count} cameras are restored here already; wait until one has stopped"
            )
        try:
            return web.json_response(await self.peers.join(await _values(request)))
        except ConfigError as error:
            raise RequestError(400, str(error)) from error

    async def _leave(self, request: web.Request) -> web.Response:
        if not self.peers.leave(request.match_info["id"]):
            raise RequestError(404, "this camera is not connected")
        return web.json_response({})

    async def _take_photo(self, request: web.Request) -> web.Response:
        path, name = await self._receive(request, self._serve.most_photo_mib)
        try:
            facts = await inspected(path, name)
            if not facts.is_photo:
                raise RequestError(415, f"{name}: is a video; the reference must be a photo")
            photo = path.rename(path.with_name(f"photo{facts.extension}"))
        except BaseException:
            shutil.rmtree(path.parent, ignore_errors=True)
            raise
        return web.json_response({"photo": self.photos.add(photo, name), "name": name}, status=201)

    async def _take_file(self, request: web.Request) -> web.Response:
        if self.jobs.is_full:
            raise RequestError(503, "the queue is full: other files wait for their turn; try again later")
        self.jobs.expected += 1
        try:
            config, hidden = self._config_of(request.query)
            path, name = await self._receive(request, self._serve.most_upload_mib)
            try:
                facts = await inspected(path, name)
                if facts.is_photo and config.output.compare:
                    raise RequestError(400, "before and after side by side works for videos only")
                file = path.rename(path.with_name(f"input{facts.extension}"))
            except BaseException:
                shutil.rmtree(path.parent, ignore_errors=True)
                raise
        finally:
            self.jobs.expected -= 1
        job = Job(name, path.parent, file, facts, config, hidden)
        self.jobs.add(job)
        return web.json_response(self.jobs.status(job), status=201)

    def _config_of(self, query: Mapping[str, str]) -> tuple[PipelineConfig, dict[str, str]]:
        """The settings of a job's query, and its private paths, each with its replacement in messages."""
        config = self._settings.file
        try:
            values: dict[str, Any] = dict(query)
            if "strength" in values:
                with suppress(ValueError):
                    values["strength"] = float(values["strength"])
            choice = self.photos.choice(values.get("photo"), restorer_of(values, config))
            blend = replace(config.blend, strength=strength_of(values, config.blend.strength))
        except ConfigError as error:
            raise RequestError(400, str(error)) from error
        output = replace(config.output, compare=values.get("compare") == "true")
        hidden = {} if choice.photo is None else {str(choice.photo): choice.photo_name}
        return replace(chosen(config, choice), blend=blend, output=output), hidden

    async def _receive(self, request: web.Request, most_mib: int) -> tuple[Path, str]:
        """Receives a file into a folder of its own; returns its path and name."""
        name = name_of(request)
        place = self._folder.place()
        try:
            path = place / "upload"
            await receive(
                request, path, self._folder, most_mib=most_mib, stall_seconds=self._serve.stall_seconds
            )
        except BaseException:
            shutil.rmtree(place, ignore_errors=True)
            raise
        return path, name

    async def _job(self, request: web.Request) -> web.Response:
        return web.json_response(self.jobs.status(self._found(request)))

    async def _remove_job(self, request: web.Request) -> web.Response:
        await self.jobs.remove(self._found(request))
        return web.json_response({})

    async def _result(self, request: web.Request) -> web.StreamResponse:
        job = self._found(request)
        if not same(request.query.get("key", ""), job.key):
            raise RequestError(401, "this link to a result is incomplete")
        if job.state != "done":
            raise RequestError(404, "this file is not restored yet")
        named = f"attachment; filename*=UTF-8''{quote(job.result_name, safe='')}"
        shown = "inline" if "inline" in request.query else named
        return web.FileResponse(job.output, headers={"Content-Disposition": shown})

    def _found(self, request: web.Request) -> Job:
        job = self.jobs.get(request.match_info["id"])
        if job is None:
            raise RequestError(404, "this file has been removed")
        return job


async def _values(request: web.Request) -> dict[str, Any]:
    """The JSON object of a request. Raises RequestError."""
    try:
        values = json.loads(await asyncio.wait_for(request.read(), _JSON_SECONDS))
    except (ValueError, TimeoutError, RecursionError) as error:
        raise RequestError(400, "the request is not JSON") from error
    if not isinstance(values, dict):
        raise RequestError(400, "the request is not a JSON object")
    return values


def _page(path: Path) -> Any:
    content, kind = path.read_bytes(), _KINDS[path.suffix]

    async def answer(request: web.Request) -> web.Response:
        return web.Response(body=content, content_type=kind, charset="utf-8")

    return answer
