"""Restores chunks in several processes: on this machine, or on a Ray cluster (the one file that imports ray).

Only descriptions of chunks and counts cross between processes; frames, packets and weights never do. On a cluster the
film, the output and the files of the settings must have the same paths, and anchorface the same version, on every node.
"""

from __future__ import annotations

import multiprocessing
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import torch

from configs import ConfigError
from pipeline.config import PipelineConfig
from pipeline.errors import SinkError, SourceError, reason
from pipeline.media.files import WorkFolder
from pipeline.media.source import FileSource
from pipeline.report.counts import Report
from pipeline.report.provenance import difference, fingerprint
from pipeline.runs.assembly import build, open_source
from pipeline.runs.chunks.chunk import ChunkRunner, Done, for_chunks
from pipeline.runs.chunks.first_pass import Chunk, Plan

AUTO = "auto"
"""The cluster of RAY_ADDRESS or of this machine; without one, a cluster started for this run."""
LOCAL = "local"
"""A cluster started on this machine for this run."""
MOST_ATTEMPTS = 3
"""Maximum attempts at a chunk whose workers are lost."""
_ANSWER_SECONDS = 5.0
_CPUS = 4
"""Cores per worker without a GPU and without a given number of workers."""

_runner: ChunkRunner
"""Of this process; set by `_start`."""
_stop: Event
"""Set when the chunks are no longer wanted."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every worker of a run needs to know."""

    input: Path
    output: Path
    config: PipelineConfig
    plan: Plan
    threads: int = field(default_factory=torch.get_num_threads)
    """CPU threads of torch, as in the parent: the last bit of a sum may depend on the number."""

    def make_runner(self) -> ChunkRunner:
        """Loads the networks in this process."""
        torch.set_num_threads(self.threads)
        config = for_chunks(self.config)
        source = open_source(self.input, config)
        assert isinstance(source, FileSource)
        parts = build(config, source)
        return ChunkRunner(source, self.output, config, parts, WorkFolder(self.output), self.plan)


def run_in_workers(
    scenes: Sequence[Sequence[Chunk]], job: Job, finish: Callable[[Chunk, Done], None]
) -> None:
    """Restores the chunks of `scenes`, those of one scene in order; calls `finish` for each.

    Raises the error of a worker, and SinkError if one was killed; the others then abandon their chunks.
    """
    count = min(job.config.chunks.workers, len(scenes))
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    numbers = context.SimpleQueue()
    for number in range(count):
        numbers.put(number)
    pool = ProcessPoolExecutor(count, context, _start, (stop, numbers, job))
    try:
        waiting = {pool.submit(_run, scene[0]): list(scene) for scene in scenes}
        while waiting:
            future = next(as_completed(waiting))
            scene = waiting.pop(future)
            finish(scene[0], future.result())
            if scene[1:]:
                waiting[pool.submit(_run, scene[1])] = scene[1:]
    except BrokenProcessPool as error:
        raise SinkError(
            f"{job.output}: a worker was killed, perhaps for lack of memory; use fewer --workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _start(stop: Event, numbers: multiprocessing.SimpleQueue[int], job: Job) -> None:
    """Prepares this process: its device, its networks, and its exit with the parent process."""
    global _runner, _stop
    _stop = stop
    # Ctrl-C reaches all processes of a terminal; the parent handles it.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    devices = torch.cuda.device_count()
    restorer = job.config.restorer
    if restorer.device in ("auto", "cuda") and devices > 1:
        restorer = replace(restorer, device=f"cuda:{numbers.get() % devices}")
        job = replace(job, config=replace(job.config, restorer=restorer))
    _runner = job.make_runner()


def _run(chunk: Chunk) -> Done:
    return _runner.run(chunk, _check_stop)


def _check_stop(report: Report) -> None:
    if _stop.is_set():
        raise InterruptedError("another chunk failed, or the run was interrupted")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)


@contextmanager
def joined_cluster(address: str) -> Iterator[None]:
    """Joins the cluster at `address` for the block: AUTO, LOCAL, HOST:PORT or ray://HOST:PORT. Raises ConfigError."""
    ray = _ray()
    if address == AUTO:
        address = os.environ.get("RAY_ADDRESS", AUTO)
    if address not in (AUTO, LOCAL):
        _check_answer(address)
    options: dict[str, Any] = {"logging_level": "ERROR", "log_to_driver": False}
    if address == LOCAL:
        options["include_dashboard"] = False
    try:
        ray.init(address=None if address == AUTO else address, **options)
    except (ConnectionError, RuntimeError, ValueError, TimeoutError) as error:
        raise ConfigError(f"--ray: cannot join the cluster at {address} ({_first_line(error)})") from error
    try:
        yield
    finally:
        ray.shutdown()


def run_on_cluster(
    scenes: Sequence[Sequence[Chunk]], job: Job, finish: Callable[[Chunk, Done], None]
) -> list[str]:
    """Restores the chunks of `scenes` on the joined cluster, those of one scene in order; calls `finish` for each.

    A chunk whose worker is lost is restored by another one. Returns warnings. Raises the error of a worker, and
    SinkError if workers are lost repeatedly.
    """
    return _Cluster(
        scenes, replace(job, input=job.input.resolve(), output=job.output.resolve()), finish
    ).run()


class ClusterWorker:
    """Restores chunks on one GPU or a share of the cores, with networks loaded once."""

    def __init__(self, job: Job, depends: Mapping[str, str]) -> None:
        """`depends`: the fingerprint on the first node."""
        # Nothing may fail here: ray would report a lost worker.
        self._job, self._depends = job, depends
        self._runner: ChunkRunner | None = None

    def restore(self, chunk: Chunk) -> Done:
        """Restores one chunk into the work folder."""
        if self._runner is None:
            self._runner = self._ready()
        return self._runner.run(chunk)

    def _ready(self) -> ChunkRunner:
        here, job, folder = socket.gethostname(), self._job, WorkFolder(self._job.output)
        if not job.input.is_file() or not folder.path.is_dir():
            raise SourceError(
                f"{here} sees no {job.input} or no {folder.path}; both must lie where every node finds them"
            )
        differs = difference(self._depends, fingerprint(job.input, job.config))
        if differs:
            raise SourceError(
                f"{here}: {differs}; install the same anchorface and the same files on every node"
            )
        return job.make_runner()


class _Cluster:
    """Distributes chunks and collects the results."""

    def __init__(
        self, scenes: Sequence[Sequence[Chunk]], job: Job, finish: Callable[[Chunk, Done], None]
    ) -> None:
        self._ray, self._job, self._finish = _ray(), job, finish
        self._waiting = [list(scene) for scene in scenes]
        self._depends = fingerprint(job.input, job.config)
        self._resources, self._count = self._shares(job.config)
        self._busy: dict[Any, tuple[Any, list[Chunk]]] = {}
        """By pending result: the worker, and its chunk with the rest of the scene."""
        self._attempts: dict[int, int] = {}
        self._warnings: list[str] = []

    def run(self) -> list[str]:
        workers = [self._worker() for _ in range(min(self._count, len(self._waiting)))]
        try:
            for worker in workers:
                self._give(worker)
            while self._busy:
                [ready], _ = self._ray.wait(list(self._busy), num_returns=1)
                self._receive(ready)
        finally:
            for worker, _ in self._busy.values():
                self._ray.kill(worker)
        return self._warnings

    def _receive(self, ready: Any) -> None:
        worker, scene = self._busy.pop(ready)
        try:
            done = self._ray.get(ready)
        except self._ray.exceptions.RayTaskError as error:
            cause = getattr(error, "cause", None)
            raise (cause if isinstance(cause, Exception) else error) from error
        except self._ray.exceptions.RayError as error:
            self._lost(scene, error)
            worker = self._worker()
        else:
            self._finish(scene[0], done)
            if scene[1:]:
                self._waiting.insert(0, scene[1:])
        self._give(worker)

    def _lost(self, scene: list[Chunk], error: Exception) -> None:
        number = scene[0].number
        self._attempts[number] = self._attempts.get(number, 1) + 1
        if self._attempts[number] > MOST_ATTEMPTS:
            raise SinkError(
                f"{self._job.output}: {MOST_ATTEMPTS} workers were lost over chunk {number}, perhaps for lack of "
                f"memory ({_first_line(error)})"
            ) from error
        self._warnings.append(f"a worker was lost over chunk {number}; the chunk was restored again")
        self._waiting.insert(0, scene)

    def _give(self, worker: Any) -> None:
        """Gives `worker` the next chunk, or ends it if none is left."""
        if not self._waiting:
            self._ray.kill(worker)
            return
        scene = self._waiting.pop(0)
        self._busy[worker.restore.remote(scene[0])] = (worker, scene)

    def _worker(self) -> Any:
        return self._ray.remote(ClusterWorker).options(**self._resources).remote(self._job, self._depends)

    def _shares(self, config: PipelineConfig) -> tuple[dict[str, float], int]:
        """Resources of a worker, and the number of workers: one per GPU, or the requested number."""
        there = self._ray.cluster_resources()
        gpus, cpus = int(there.get("GPU", 0)), int(there.get("CPU", 1))
        asked = config.chunks.workers if config.chunks.workers > 1 else None
        if gpus and config.restorer.device != "cpu":
            return {"num_gpus": 1, "num_cpus": 1}, min(asked or gpus, gpus)
        count = min(asked or max(1, cpus // _CPUS), cpus)
        # Ray would wait forever for more than exists.
        return {"num_cpus": max(1, cpus // count) if asked is None else 1}, count


def _check_answer(address: str) -> None:
    """Checks that `address` accepts connections: ray itself would try for minutes."""
    host, colon, port = address.removeprefix("ray://").rpartition(":")
    if not (colon and host and port.isdigit()):
        raise ConfigError(
            f"--ray: {address!r} is not an address; give HOST:PORT, ray://HOST:PORT or nothing (--ray goes after OUT)"
        )
    try:
        with socket.create_connection((host.strip("[]"), int(port)), _ANSWER_SECONDS):
            return
    except (OSError, OverflowError, UnicodeError) as error:
        raise ConfigError(
            f"--ray: nobody answers at {address} ({reason(error)}); start the cluster (`ray start --head`) or give "
            "its address"
        ) from error


def _ray() -> Any:
    # No usage statistics; must be set before ray is imported.
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ModuleNotFoundError as error:
        raise ConfigError('--ray needs ray; install it with: pip install -e ".[scale]"') from error
    return ray


def _first_line(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
