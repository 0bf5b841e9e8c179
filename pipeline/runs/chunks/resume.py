"""Restores a film in chunks that are kept beside the output, so that an interrupted run can continue.

The folder OUT.parts holds a manifest (fingerprint and plan), the tracked faces of each chunk, and the packets of each
finished chunk with their hash. It is removed when the output is complete.
"""

from __future__ import annotations

import copy
import os
import time
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

from configs import ConfigError
from pipeline.config import PipelineConfig
from pipeline.errors import MediaError, SinkError
from pipeline.flow import Watch
from pipeline.media.files import WorkFolder
from pipeline.media.sink import FileSink
from pipeline.media.source import FileSource
from pipeline.report.counts import Report
from pipeline.report.provenance import difference, fingerprint
from pipeline.runs.assembly import Open, build, open_sink, open_source
from pipeline.runs.chunks.chunk import ChunkRunner, Done, finished, for_chunks, join
from pipeline.runs.chunks.first_pass import Chunk, Plan, look
from pipeline.runs.chunks.workers import Job, joined_cluster, run_in_workers, run_on_cluster

_MANIFEST, _JOINED = "manifest.json", "joined.json"


class Interrupted(KeyboardInterrupt):
    """Its message says which chunks are kept."""


def restore_in_chunks(
    input: Path, output: Path, config: PipelineConfig, *, opened: Open, watch: Watch
) -> Report:
    """`restore_video` for a video, chunk by chunk. Also raises Interrupted, whose message says how to continue."""
    source = open_source(input, config)
    if not isinstance(source, FileSource):
        raise ConfigError(f"{input}: --resume, --workers and --ray are for videos, not for photos")
    folder = WorkFolder(output)
    if folder.path.exists() and not config.chunks.resume:
        raise SinkError(
            f"{folder.path}: is left from an unfinished run; continue with --resume, or remove the folder"
        )
    if _was_joined(output, folder):
        config = replace(config, output=replace(config.output, overwrite=True))
    sink = open_sink(output, source, config, folder=folder.path)
    assert isinstance(sink, FileSink)
    opened(source, "")  # the workers load the models
    ray = config.chunks.ray
    # Joined first: a missing cluster must be reported before the first pass.
    with nullcontext() if ray is None else joined_cluster(ray), folder.held():
        report = _Run(source, output, config, folder, watch).report(sink)
        folder.remove()
    return report


def _was_joined(output: Path, folder: WorkFolder) -> bool:
    """Whether `output` was joined from this folder: then only the folder's removal is missing."""
    joined = folder.read_json(_JOINED)
    return joined is not None and output.exists() and output.stat().st_ino == joined


class _Run:
    """One run over the chunks of a film."""

    def __init__(
        self, source: FileSource, output: Path, config: PipelineConfig, folder: WorkFolder, watch: Watch
    ) -> None:
        self._source, self._output, self._config = source, output, config
        self._folder, self._watch = folder, watch
        self._started = time.perf_counter()
        self._plan: Plan | None = None
        self._done: dict[int, Done] = {}
        self._warnings: list[str] = []
        self._sum = Report(output=str(output))
        """Sum over the finished chunks."""

    def report(self, sink: FileSink) -> Report:
        """Restores the missing chunks, joins all in `sink`, and reports on the whole film."""
        depends = fingerprint(self._source.path, self._config)
        manifest = self._manifest(depends)
        try:
            self._restore(depends, manifest)
            with sink:
                # Before the file gets its name: a run killed in between must recognise its own output.
                self._folder.write_json(_JOINED, os.stat(sink.unfinished).st_ino)
                assert self._plan is not None
                join([self._done[chunk.number].index for chunk in self._plan.chunks], self._folder, sink)
        except KeyboardInterrupt as error:
            raise Interrupted(f"interrupted; {self._remains()}") from error
        except MediaError as error:
            raise type(error)(f"{error}; {self._remains()}") from error
        except BaseException:
            self._remains()
            raise
        return self._summed(sink)

    def _manifest(self, depends: dict[str, str]) -> dict[str, Any] | None:
        manifest = self._folder.read_json(_MANIFEST)
        if not isinstance(manifest, dict) or not isinstance(manifest.get("depends"), dict):
            return None
        differs = difference(manifest["depends"], depends)
        if differs:
            raise SinkError(
                f"{self._folder.path}: holds chunks of another run ({differs}); use the same settings to continue, or "
                "remove the folder to start again"
            )
        return manifest

    def _restore(self, depends: dict[str, str], manifest: dict[str, Any] | None) -> None:
        plan = self._plan = self._known_plan(manifest)
        parts = None
        if manifest is None:
            # Chunks of unknown origin.
            for name in self._folder.path.glob("*.json"):
                name.unlink()
        if plan is None:
            parts = build(self._config, self._source)
            plan = look(self._source, parts, self._config, self._folder, self._watch)
            self._folder.write_json(_MANIFEST, {"depends": depends, "plan": plan.as_json()})
            self._plan = plan
        for chunk in plan.chunks:
            if (done := finished(chunk, self._folder)) is not None:
                self._sum.kept += chunk.frames
                self._finish(chunk, done)
        left = [[chunk for chunk in scene if chunk.number not in self._done] for scene in plan.scenes()]
        left = [scene for scene in left if scene]
        if not left:
            return
        job = Job(self._source.path, self._output, self._config, plan)
        if self._config.chunks.ray is not None:
            self._warnings = run_on_cluster(left, job, self._finish)
            return
        if self._config.chunks.workers > 1:
            run_in_workers(left, job, self._finish)
            return
        parts = parts or build(for_chunks(self._config), self._source)
        runner = ChunkRunner(self._source, self._output, self._config, parts, self._folder, plan)
        for scene in left:
            for chunk in scene:
                self._finish(chunk, runner.run(chunk, self._live))

    def _known_plan(self, manifest: dict[str, Any] | None) -> Plan | None:
        """The plan of the run before, if all tracked faces are intact."""
        if manifest is None:
            return None
        try:
            plan = Plan.from_json(manifest["plan"])
        except (TypeError, KeyError):
            return None
        sound = all(self._folder.read(c.tracks_name, c.tracks) is not None for c in plan.chunks)
        return plan if sound else None

    def _finish(self, chunk: Chunk, done: Done) -> None:
        self._done[chunk.number] = done
        self._sum.add_json(done.counts)
        self._live(Report())

    def _live(self, part: Report) -> None:
        """Reports on all finished chunks and the current one."""
        report = copy.deepcopy(self._sum)
        report.add_json(part.to_json())
        report.seconds = time.perf_counter() - self._started
        self._watch(report)

    def _summed(self, sink: FileSink) -> Report:
        plan, report = self._plan, self._sum
        assert plan is not None
        report.seconds = time.perf_counter() - self._started
        report.merge_people(dict(plan.people).get)
        report.damage = plan.damage
        report.warnings = [*plan.warnings, *self._warnings, *sink.warnings]
        report.warnings += [
            f"the reference {name} matched nobody in {self._source.path.name}" for name in plan.strangers
        ]
        report.warnings += report.missed(self._config.input.only, self._source.path.name)
        return report

    def _remains(self) -> str:
        """The kept chunks of an unfinished run, in words; removes a folder without finished chunks."""
        folder, plan = self._folder, self._plan
        if not any(folder.path.glob("*.json")):
            folder.remove()
            return "nothing was finished, and nothing is left"
        # Counted on disk: the last chunk may have been finished just now.
        kept = sum(finished(chunk, folder) is not None for chunk in plan.chunks) if plan else 0
        chunks = f"{kept} of {len(plan.chunks)} chunks are" if plan else "what was finished is"
        return f"{chunks} kept in {folder.path}, run the same command with --resume to continue"
