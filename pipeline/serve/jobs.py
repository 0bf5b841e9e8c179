"""Queue of uploaded files, each restored by the ordinary command in a process of its own."""

from __future__ import annotations

import asyncio
import json
import logging
import secrets
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import configs
from pipeline.config import PipelineConfig
from pipeline.errors import DAMAGED
from pipeline.serve.child import Facts, child_command, child_environment

logger = logging.getLogger(__name__)

State = Literal["waiting", "running", "done", "failed"]

_LINE_BYTES = 1 << 24
_CANCEL_SECONDS = 10.0


@dataclass(slots=True, eq=False)
class Job:
    """One file; owned by the queue."""

    name: str
    """Name of the uploaded file."""
    folder: Path
    """Folder of this job alone."""
    input: Path
    facts: Facts
    config: PipelineConfig
    hidden: dict[str, str] = field(default_factory=dict)
    """Private paths, each with its replacement in messages."""
    id: str = field(default_factory=lambda: secrets.token_urlsafe(16))
    key: str = field(default_factory=lambda: secrets.token_urlsafe(24))
    """Key in the link to the result."""
    state: State = "waiting"
    frames: int = 0
    total: int | None = None
    frames_per_second: float = 0.0
    sentence: str = ""
    """Reason of a failure."""
    report: dict[str, Any] = field(default_factory=dict)
    ended: float = 0.0
    """On `time.monotonic`."""

    @property
    def output(self) -> Path:
        """Path of the result."""
        return self.folder / f"output{self.facts.extension}"

    @property
    def result_name(self) -> str:
        """Name under which the result is saved."""
        return f"{Path(self.name).stem} restored{self.facts.extension}"

    def as_dict(self, place: int) -> dict[str, Any]:
        """Status for the page; `place` in the queue, 0 = next or running."""
        report = self.report
        left = (self.total or 0) - self.frames
        return {
            "job": self.id,
            "name": self.name,
            "state": self.state,
            "place": place,
            "frames": self.frames,
            "total": self.total,
            "frames_per_second": self.frames_per_second,
            "seconds_left": round(left / self.frames_per_second)
            if left > 0 and self.frames_per_second
            else None,
            "width": self.facts.width,
            "height": self.facts.height,
            "seconds": self.facts.seconds,
            "is_photo": self.facts.is_photo,
            "error": self.sentence,
            "result": f"/api/jobs/{self.id}/result?key={self.key}" if self.state == "done" else None,
            "result_name": self.result_name,
            "result_bytes": self.output.stat().st_size if self.state == "done" else None,
            "people": len(report.get("people", ())),
            "restored": report.get("restored", 0),
            "faces": report.get("faces", 0),
            "held_back": report.get("held_back", 0),
            "warnings": report.get("warnings", []),
        }


class Jobs:
    """The queue. Belongs to the event loop."""

    def __init__(self, most_waiting: int, keep_seconds: float) -> None:
        self._most_waiting, self._keep_seconds = most_waiting, keep_seconds
        self._jobs: dict[str, Job] = {}
        self._running: tuple[Job, asyncio.Task[None]] | None = None
        self._news = asyncio.Event()
        self.expected = 0
        """Uploads in progress, which hold a place in the queue."""

    @property
    def is_full(self) -> bool:
        """Whether further files are refused."""
        unfinished = sum(job.state in ("waiting", "running") for job in self._jobs.values())
        return unfinished + self.expected > self._most_waiting

    def get(self, id: str) -> Job | None:
        """The job with this id."""
        return self._jobs.get(id)

    def add(self, job: Job) -> None:
        """Appends a job to the queue."""
        self._jobs[job.id] = job
        self._news.set()

    def status(self, job: Job) -> dict[str, Any]:
        """Status of `job` for the page."""
        waiting = [other for other in self._jobs.values() if other.state == "waiting"]
        place = waiting.index(job) + (self._running is not None) if job in waiting else 0
        return job.as_dict(place)

    async def remove(self, job: Job) -> None:
        """Cancels an unfinished job and removes its files."""
        self._jobs.pop(job.id, None)
        if self._running is not None and self._running[0] is job:
            task = self._running[1]
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
        await asyncio.to_thread(shutil.rmtree, job.folder, ignore_errors=True)

    async def work(self) -> None:
        """Restores the jobs in order and removes old ones, until cancelled."""
        while True:
            for job in [job for job in self._jobs.values() if self._is_old(job)]:
                await self.remove(job)
            following = next((job for job in self._jobs.values() if job.state == "waiting"), None)
            if following is None:
                self._news.clear()
                with suppress(TimeoutError):
                    await asyncio.wait_for(self._news.wait(), min(self._keep_seconds / 4, 30.0))
                continue
            task = asyncio.create_task(_restore(following))
            self._running = (following, task)
            try:
                await asyncio.wait({task})
            finally:
                task.cancel()
                [error] = await asyncio.gather(task, return_exceptions=True)
                self._running = None
                if isinstance(error, Exception):
                    logger.error("a file could not be restored", exc_info=error)
                    _fail(following, "restoration could not be started; see the terminal for details")

    def _is_old(self, job: Job) -> bool:
        return job.state in ("done", "failed") and time.monotonic() - job.ended > self._keep_seconds


async def _restore(job: Job) -> None:
    """Runs the command for `job`; ends the command when cancelled."""
    job.state = "running"
    settings, log = job.folder / "settings.toml", job.folder / "log"
    settings.write_text(configs.dump(job.config), encoding="utf-8")
    with log.open("wb") as errors:
        process = await asyncio.create_subprocess_exec(
            *child_command("restore", str(job.input), str(job.output)),
            *("--config", str(settings), "--progress", "json"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=errors,
            env=child_environment(),
            limit=_LINE_BYTES,
            # Ctrl-C in the terminal reaches the server alone, which then ends this process.
            start_new_session=True,
        )
    try:
        assert process.stdout is not None
        async for line in process.stdout:
            _hear(job, line)
        code = await process.wait()
    finally:
        await _end(process)
    if code in (0, DAMAGED) and job.output.exists():
        job.state, job.ended = "done", time.monotonic()
    else:
        _fail(job, _last_sentence(job, log))
    job.input.unlink(missing_ok=True)


def _fail(job: Job, sentence: str) -> None:
    job.state, job.sentence, job.ended = "failed", sentence, time.monotonic()


def _hear(job: Job, line: bytes) -> None:
    with suppress(ValueError, KeyError, TypeError):
        event = json.loads(line)
        if event["event"] == "progress":
            job.frames, job.total = event["frame"], event["total"]
            job.frames_per_second = event["frames_per_second"]
        elif event["event"] == "done":
            job.frames = event["frames"]
            warnings = [*event["warnings"], *event["damage"]]
            job.report = event | {"warnings": [_without_paths(job, sentence) for sentence in warnings]}


async def _end(process: asyncio.subprocess.Process) -> None:
    """Closes the input of a process, which makes it end; kills it after a time-out."""
    if process.returncode is not None:
        return
    assert process.stdin is not None
    process.stdin.close()
    try:
        await asyncio.wait_for(process.wait(), _CANCEL_SECONDS)
    except TimeoutError:
        process.kill()
        await process.wait()


def _last_sentence(job: Job, log: Path) -> str:
    """Last message of the command, with private paths replaced."""
    lines = log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
    messages = [line.removeprefix("anchorface: ") for line in lines if line.startswith("anchorface: ")]
    if not messages:
        return "restoration failed; this is a bug, please report it"
    return _without_paths(job, messages[-1])


def _without_paths(job: Job, text: str) -> str:
    hidden = {str(job.input): job.name, str(job.output): job.result_name} | job.hidden
    for path, name in hidden.items():
        text = text.replace(path, name)
    return text
