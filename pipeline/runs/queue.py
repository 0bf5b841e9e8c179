"""Several inputs, one after the other: what goes wrong with one does not stop the others."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from configs import ConfigError
from pipeline.config import PipelineConfig
from pipeline.errors import MediaError, SinkError, SourceError
from pipeline.media.encode import CONTAINERS
from pipeline.media.files import WorkFolder
from pipeline.media.photos import PhotoSource
from pipeline.report.counts import Report
from pipeline.report.progress import Watcher
from pipeline.runs.chunks.config import ChunkConfig
from pipeline.runs.film import restore_video

VIDEOS = {*CONTAINERS, ".avi", ".flv", ".wmv", ".asf", ".mxf", ".ogv", ".dv", ".mts", ".3gp", ".mpv", ".m2v"}
"""Extensions by which a file of a folder is taken for a video."""

Watching = Callable[["Item"], AbstractContextManager[Watcher]]


@dataclass(frozen=True, slots=True)
class Item:
    """One input of a queue."""

    input: Path
    output: Path
    place: int
    """From 1."""
    of: int
    """Items of the queue."""


@dataclass(slots=True)
class Summary:
    """What became of a queue; complete also where it was interrupted."""

    done: list[tuple[Item, Report]] = field(default_factory=list)
    there: list[Item] = field(default_factory=list)
    """Whose output an earlier run had made already."""
    failed: list[tuple[Item, str]] = field(default_factory=list)
    """And why."""
    left: list[Item] = field(default_factory=list)
    """Not begun, or not ended."""

    def text(self) -> str:
        """A few lines for a person."""
        counts = {
            "restored": len(self.done),
            "there already": len(self.there),
            "failed": len(self.failed),
            "left": len(self.left),
        }
        told = ", ".join(f"{count} {name}" for name, count in counts.items() if count)
        frames, seconds = sum(r.frames for _, r in self.done), sum(r.seconds for _, r in self.done)
        lines = [f"queue: {told}; {frames} frames in {seconds:.1f} s"]
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
    """Whether these are several inputs: more than one, or a folder of videos."""
    return len(inputs) > 1 or _is_folder_of_videos(inputs[0])


def files_of(inputs: Sequence[Path]) -> list[Path]:
    """The inputs one by one: a folder of videos is as many."""
    return [file for path in inputs for file in (_videos_in(path) if _is_folder_of_videos(path) else [path])]


def make_queue(inputs: Sequence[Path], folder: Path) -> list[Item]:
    """The items of `inputs`, whose results go into `folder`, which is made: a folder of videos is as many inputs.

    A result has the name of its input, with `.mkv` behind it where its own kind is not written. Raises ConfigError
    where two would have the same name, SinkError where `folder` cannot be made.
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
        raise SinkError(f"{folder}: is a file; several inputs need a folder to go to") from error
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SinkError(f"{folder}: cannot be made ({reason}); choose another folder") from error
    return [Item(file, output, n, len(places)) for n, (output, file) in enumerate(places.items(), 1)]


def run_queue(items: Sequence[Item], config: PipelineConfig, watching: Watching, summary: Summary) -> None:
    """Restores `items` in turn, and tells in `summary`.

    `watching` gives what hears of each. A file that cannot be read or written fails alone; what concerns all of them
    (a setting, a checkpoint, Ctrl-C) is raised. With `chunks.resume` an output that is there already is kept.
    """
    summary.left = list(items)
    for item in items:
        ours = config
        if os.path.isdir(item.input) or PhotoSource.reads(item.input):
            # They are quick, and have no chunks.
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
    # Beside its chunks it lacks its last step, or is not ours.
    return resumes and item.output.exists() and not WorkFolder(item.output).path.exists()


def _is_folder_of_videos(path: Path) -> bool:
    return os.path.isdir(path) and bool(_videos_in(path)) and not any(map(PhotoSource.reads, path.iterdir()))


def _videos_in(folder: Path) -> list[Path]:
    try:
        files = sorted(folder.iterdir())
    except OSError as error:
        raise SourceError(f"{folder}: cannot be read ({(error.strerror or str(error)).lower()})") from error
    return [f for f in files if f.suffix.lower() in VIDEOS and not f.name.startswith(".") and f.is_file()]


def _result_name(file: Path) -> str:
    kept = os.path.isdir(file) or PhotoSource.reads(file) or file.suffix.lower() in CONTAINERS
    return file.name if kept else f"{file.name}.mkv"
