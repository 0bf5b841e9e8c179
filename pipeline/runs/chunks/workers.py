"""Chunks in several processes of this machine: only descriptions and counts cross between them."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from multiprocessing.synchronize import Event
from pathlib import Path

import torch

from pipeline.config import PipelineConfig
from pipeline.errors import SinkError
from pipeline.media.files import WorkFolder
from pipeline.media.source import FileSource
from pipeline.report.counts import Report
from pipeline.runs.assembly import build, open_source
from pipeline.runs.chunks.chunk import ChunkRunner, Done, for_chunks
from pipeline.runs.chunks.first_pass import Chunk, Plan

_runner: ChunkRunner
"""Of this process, made by `_start`."""
_stop: Event
"""Set when nobody waits for chunks any more."""


def run_in_workers(
    scenes: Sequence[Sequence[Chunk]],
    input: Path,
    output: Path,
    config: PipelineConfig,
    folder: WorkFolder,
    plan: Plan,
    finish: Callable[[Chunk, Done], None],
) -> None:
    """Restores the chunks of `scenes`, those of one scene in their order; `finish` hears of each.

    Raises what a worker raised, and SinkError where one was killed; the others leave their chunks then.
    """
    count = min(config.chunks.workers, len(scenes))
    context = multiprocessing.get_context("spawn")
    stop = context.Event()
    numbers = context.SimpleQueue()
    for number in range(count):
        numbers.put(number)
    pool = ProcessPoolExecutor(
        count, context, _start, (stop, numbers, torch.get_num_threads(), input, output, config, plan)
    )
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
            f"{output}: a worker was ended from outside, perhaps for lack of memory; use fewer --workers"
        ) from error
    finally:
        stop.set()
        pool.shutdown(cancel_futures=True)


def _start(
    stop: Event,
    numbers: multiprocessing.SimpleQueue[int],
    threads: int,
    input: Path,
    output: Path,
    config: PipelineConfig,
    plan: Plan,
) -> None:
    """Makes this process ready: its device, its networks, and an end with the process that started it."""
    global _runner, _stop
    _stop = stop
    # Ctrl-C goes to all processes of a terminal; the first one decides.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    # As many as in one process, on which the last bit of a sum may depend.
    torch.set_num_threads(threads)
    devices = torch.cuda.device_count()
    if config.restorer.device in ("auto", "cuda") and devices > 1:
        device = f"cuda:{numbers.get() % devices}"
        config = replace(config, restorer=replace(config.restorer, device=device))
    config = for_chunks(config)
    source = open_source(input, config)
    assert isinstance(source, FileSource)
    _runner = ChunkRunner(source, output, config, build(config, source), WorkFolder(output), plan)


def _run(chunk: Chunk) -> Done:
    return _runner.run(chunk, _heed)


def _heed(report: Report) -> None:
    if _stop.is_set():
        raise InterruptedError("another chunk failed, or the run was interrupted")


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None
    parent.join()
    os._exit(1)
