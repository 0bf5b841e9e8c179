"""Restores from file to file: one input with `restore_video`, the entry point of the library, or several in turn."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import av
import torch

from configs import ConfigError
from models.pictures import recogniser_crop
from models.protocols import Neighbour, References, Request
from pipeline.config import ChunkConfig, PipelineConfig
from pipeline.errors import MediaError, SinkError, SourceError, reason
from pipeline.flow import Chain, Hooks, Note, Parts, Watch, keep_after, leave_unnoted, run
from pipeline.frames import RestoredFrame
from pipeline.media.encode import CONTAINERS
from pipeline.media.files import WorkFolder
from pipeline.media.layout import side_by_side
from pipeline.media.photos import PhotoSource
from pipeline.report.counts import Report
from pipeline.report.manifest import load_credentials, sign
from pipeline.report.page import ReportPage
from pipeline.report.progress import Watcher
from pipeline.report.references_log import ReferencesLog
from pipeline.runs.assembly import Open, build, open_sink, open_source
from pipeline.runs.chunks.resume import restore_in_chunks

_LONG_FRAMES = 250
"""From which on it is worth two faces' time to say how long a film takes."""
_ASKED = 0.6
"""Share of the faces for which the restorer is asked, where restored ones are used again (docs/reuse.md)."""


def restore_video(
    input: Path | str,
    output: Path | str,
    config: PipelineConfig | None = None,
    *,
    opened: Open = lambda source, pace: None,
    watch: Watch = lambda report: None,
) -> Report:
    """Restores the faces of a video, a photo or a folder of photos.

    `opened` is called once with the source (`info` holds length and size) and with a sentence on how long a long film
    takes, which is empty where that is unknown, `watch` after each frame with the counts so
    far. Raises ConfigError, CheckpointError, SourceError or SinkError, each with one sentence. After an error or an
    interrupt nothing is left under the name `output`, except a film that could not be signed. With `chunks.resume`,
    several `chunks.workers` or a cluster (`chunks.ray`) finished chunks are kept beside the output; the same call with
    `chunks.resume` continues.
    """
    config = config or PipelineConfig()
    input, output = Path(input), Path(output)
    signer = config.output.c2pa
    credentials = None if signer is None else load_credentials(signer, input, output)
    if config.chunks.asked_for:
        for option, file in (
            ("--report", config.output.report),
            ("--references-log", config.output.references_log),
        ):
            if file is not None:
                raise ConfigError(
                    f"{option} sees a film as a whole; leave it out, or --resume, --workers and --ray"
                )
        report = restore_in_chunks(input, output, config, opened=opened, watch=watch)
    else:
        report = _restore_at_once(input, output, config, opened, watch)
    if credentials is not None:
        sign(output, input, config, report, credentials)
    return report


def _restore_at_once(input: Path, output: Path, config: PipelineConfig, opened: Open, watch: Watch) -> Report:
    source = open_source(input, config)
    # Checked before the models are loaded: the output may exist already.
    sink = open_sink(output, source, config)
    page, log = _open_page(input, output, config), _open_log(input, output, config)
    parts = build(config, source)
    opened(source, pace(parts, source.info.frame_count, config))
    report = Report(
        output=str(output), uses_references=parts.restorer is None or parts.restorer.needs.references
    )
    people = parts.perception.people
    arrange = side_by_side if config.output.compare else keep_after
    hooks = Hooks(report, arrange, watch, _notes(page, log))
    with sink, log or nullcontext():
        run(source, sink, Chain(parts, config), hooks)
        report.damage = list(source.damage)
    report.merge_people(people.current)
    unmatched = [name for person, name in people.photos().items() if person not in report.people]
    report.warnings = [*source.warnings, *sink.warnings]
    report.warnings += [f"the reference {name} matched nobody in {input.name}" for name in unmatched]
    report.warnings += report.missed(config.input.only, input.name)
    if page is not None:
        page.write(report, people)
    return report


def pace(parts: Parts, frames: int | None, config: PipelineConfig) -> str:
    """How long a film of `frames` takes, as a sentence; empty for a short one and where nothing is known.

    The restorer is timed on this machine with one grey crop that has all a face may come with, the second time it sees
    it.
    """
    restorer = parts.restorer
    if restorer is None or frames is None or frames < _LONG_FRAMES:
        return ""
    side = restorer.needs.crop_size
    crop = torch.full((3, side, side), 128, dtype=torch.uint8)
    embeddings = parts.perception.recogniser.embed(recogniser_crop(crop)[None])
    count = min(restorer.needs.neighbours, config.restore.neighbours)
    beside = (Neighbour(crop, torch.ones(side, side)),) * count
    request = Request(crop, References((crop,) * 3, embeddings.repeat(3, 1)), neighbours=beside)
    for _ in range(2):
        began = time.perf_counter()
        restorer.restore([request])
        seconds = time.perf_counter() - began
    asked = frames * (_ASKED if config.restore.reuse else 1.0)
    return (
        f"the restorer takes {seconds:.2g} s for a face on this machine: {frames} frames with one face each take "
        f"about {_in_words(asked * seconds)}"
    )


def _in_words(seconds: float) -> str:
    if seconds < 90:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} minutes" if seconds < 5400 else f"{seconds / 3600:.1f} hours"


def _open_page(input: Path, output: Path, config: PipelineConfig) -> ReportPage | None:
    if config.output.report is None:
        return None
    return ReportPage(config.output.report.expanduser(), input=input, output=output, config=config)


def _open_log(input: Path, output: Path, config: PipelineConfig) -> ReferencesLog | None:
    path, page = config.output.references_log, config.output.report
    if path is None:
        return None
    if page is not None and os.path.abspath(path.expanduser()) == os.path.abspath(page.expanduser()):
        raise ConfigError(f"--references-log: {path} is the page of --report; give another name")
    return ReferencesLog(path.expanduser(), input=input, output=output, overwrite=config.output.overwrite)


def _notes(page: ReportPage | None, log: ReferencesLog | None) -> Note:
    """The callback for each frame: the page and the log, if requested."""

    def note(frame: RestoredFrame, after: av.VideoFrame) -> None:
        if page is not None:
            page.note(frame, after)
        if log is not None:
            log.note(frame)

    return note if page is not None or log is not None else leave_unnoted


VIDEOS = {*CONTAINERS, ".avi", ".flv", ".wmv", ".asf", ".mxf", ".ogv", ".dv", ".mts", ".3gp", ".mpv", ".m2v"}
"""Extensions of videos in a folder."""

Watching = Callable[["Item"], AbstractContextManager[Watcher]]


@dataclass(frozen=True, slots=True)
class Item:
    """One input of a queue."""

    input: Path
    output: Path
    place: int
    """From 1."""
    of: int
    """Number of items."""


@dataclass(slots=True)
class Summary:
    """The state of a queue; also correct after an interrupt."""

    done: list[tuple[Item, Report]] = field(default_factory=list)
    there: list[Item] = field(default_factory=list)
    """Items whose output existed already, from an earlier run."""
    failed: list[tuple[Item, str]] = field(default_factory=list)
    """Items with their errors."""
    left: list[Item] = field(default_factory=list)
    """Items not finished."""

    def summary(self) -> str:
        """A few lines for a person."""
        counts = {
            "restored": len(self.done),
            "there already": len(self.there),
            "failed": len(self.failed),
            "left": len(self.left),
        }
        states = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        frames, seconds = sum(r.frames for _, r in self.done), sum(r.seconds for _, r in self.done)
        lines = [f"queue: {states}; {frames} frames in {seconds:.1f} s"]
        for item, report in self.done:
            lines.append(
                f"  {item.output}: {report.frames} frames, {report.restored} faces restored, "
                f"people {len(report.people)}"
            )
            lines += [f"    warning: {sentence}" for sentence in report.warnings]
            lines += [f"    damaged input: {sentence}" for sentence in report.damage]
        lines += [f"  {item.output}: was there already" for item in self.there]
        lines += [f"  failed: {sentence}" for _, sentence in self.failed]
        lines += [f"  left: {item.input}" for item in self.left]
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "done": [{"input": str(item.input), **report.as_dict()} for item, report in self.done],
            "there": [str(item.output) for item in self.there],
            "failed": [{"input": str(item.input), "error": sentence} for item, sentence in self.failed],
            "left": [str(item.input) for item in self.left],
        }


def is_queue(inputs: Sequence[Path]) -> bool:
    """Whether these are several inputs or a folder of videos."""
    return len(inputs) > 1 or _is_folder_of_videos(inputs[0])


def files_of(inputs: Sequence[Path]) -> list[Path]:
    """The inputs one by one, with folders of videos expanded."""
    return [file for path in inputs for file in (_videos_in(path) if _is_folder_of_videos(path) else [path])]


def make_queue(inputs: Sequence[Path], folder: Path) -> list[Item]:
    """The items of `inputs`, with folders of videos expanded; creates `folder` for the results.

    A result has the name of its input, with `.mkv` appended if the input's format cannot be written. Raises ConfigError
    if two results have the same name, SinkError if `folder` cannot be created.
    """
    places: dict[Path, Path] = {}
    for file in files_of(inputs):
        output = folder / _result_name(file)
        if output in places:
            raise ConfigError(
                f"{places[output]} and {file} would both become {output}; restore them into different folders"
            )
        places[output] = file
    try:
        folder.mkdir(exist_ok=True)
    except FileExistsError as error:
        raise SinkError(f"{folder}: is a file; several inputs need an output folder") from error
    except OSError as error:
        raise SinkError(f"{folder}: cannot be made ({reason(error)}); choose another folder") from error
    return [Item(file, output, n, len(places)) for n, (output, file) in enumerate(places.items(), 1)]


def run_queue(items: Sequence[Item], config: PipelineConfig, watching: Watching, summary: Summary) -> None:
    """Restores `items` in turn and updates `summary`; `watching` makes the watcher of each.

    A file that cannot be read or written fails alone; errors that concern all (a setting, a checkpoint, Ctrl-C) are
    raised. With `chunks.resume` an existing output is kept.
    """
    summary.left = list(items)
    for item in items:
        ours = config
        if os.path.isdir(item.input) or PhotoSource.reads(item.input):
            # Photos are not restored in chunks.
            ours = replace(config, chunks=ChunkConfig())
        if _is_there(item, config):
            summary.there.append(item)
        else:
            try:
                with watching(item) as watch:
                    report = restore_video(
                        item.input, item.output, ours, opened=watch.opened, watch=watch.update
                    )
                summary.done.append((item, report))
            except MediaError as error:
                summary.failed.append((item, str(error)))
        summary.left.remove(item)


def _is_there(item: Item, config: PipelineConfig) -> bool:
    resumes = config.chunks.resume and not config.output.overwrite
    # With chunks beside it, an output is incomplete or from elsewhere.
    return resumes and item.output.exists() and not WorkFolder(item.output).path.exists()


def _is_folder_of_videos(path: Path) -> bool:
    return os.path.isdir(path) and bool(_videos_in(path)) and not any(map(PhotoSource.reads, path.iterdir()))


def _videos_in(folder: Path) -> list[Path]:
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read ({reason(error)})") from error
    return [f for f in files if f.suffix.lower() in VIDEOS and not f.name.startswith(".") and f.is_file()]


def _result_name(file: Path) -> str:
    kept = os.path.isdir(file) or PhotoSource.reads(file) or file.suffix.lower() in CONTAINERS
    return file.name if kept else f"{file.name}.mkv"
