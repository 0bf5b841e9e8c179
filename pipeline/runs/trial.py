"""A trial: restores a short range with several settings into one video of cells beside the source, and one page.

The settings run in turn, so only one set of networks is in memory. The source is decoded for each, at about one percent
of the cost of restoring.
"""

from __future__ import annotations

import itertools
import math
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import IO

import av
import numpy as np

import configs
from configs import ConfigError
from pipeline import __version__
from pipeline.config import PipelineConfig
from pipeline.errors import SinkError, reason
from pipeline.flow import Chain, Hooks, run
from pipeline.media.coding import planes_of
from pipeline.media.files import DISK_FULL, PartialFile
from pipeline.media.layout import cell_size, grid_size, mosaic, shrunk
from pipeline.media.probe import display_of
from pipeline.media.sink import FileSink
from pipeline.media.source import FileSource
from pipeline.pixels.colour import new_frame
from pipeline.report.counts import Report
from pipeline.report.progress import Watcher
from pipeline.report.trial_page import Column, Moments, write_page
from pipeline.runs.assembly import build, open_source

MOST_CELLS = 9
"""Maximum cells of the video, including the source."""
USUAL_SECONDS = 5.0
"""Default length of a trial."""
_MOST_WIDE, _MOST_HIGH = 3840, 2160
"""Maximum size of the video as displayed; larger cells are scaled down."""
_SHORT = {
    "strength": ("blend.strength",),
    "restorer": ("restorer.kind",),
    "steps": ("restorer.iconface.steps", "restorer.klein.steps"),
}
_NOT_TRIED = ("input", "output", "encode", "chunks", "live", "depth")
"""Groups of settings that do not affect faces."""

Watching = Callable[["Try"], AbstractContextManager[Watcher]]


@dataclass(frozen=True, slots=True)
class Try:
    """One of the compared settings."""

    name: str
    """The differing values, in words."""
    config: PipelineConfig
    place: int
    """From 1."""
    of: int


@dataclass(frozen=True, slots=True)
class Trial:
    """Result of a trial."""

    output: Path
    page: Path
    tries: Sequence[tuple[Try, Report]]

    def summary(self) -> str:
        """A few lines for a person."""
        lines = []
        for each, report in self.tries:
            lines.append(
                f"{each.name}: {report.frames} frames in {report.seconds:.1f} s, faces restored {report.restored}, "
                f"held back {report.held_back}"
            )
        reports = [report for _, report in self.tries]
        warnings = dict.fromkeys(f"warning: {w}" for report in reports for w in report.warnings)
        damage = dict.fromkeys(f"damaged input: {w}" for report in reports for w in report.damage)
        return "\n".join([*lines, *warnings, *damage, f"output: {self.output}", f"page: {self.page}"])

    def as_dict(self) -> dict[str, object]:
        """The same for a program."""
        tries = [{"name": each.name, **report.as_dict()} for each, report in self.tries]
        return {"output": str(self.output), "page": str(self.page), "tries": tries}


def make_tries(asked: Sequence[str], path: Path | None, changes: Sequence[str]) -> list[Try]:
    """All combinations of `asked`, each `NAME=VALUE,VALUE,...`, over the settings of `configs.load(path, changes)`.

    NAME is a setting as for `--set`, or strength, restorer or steps. Raises ConfigError.
    """
    ways = [_ways(text) for text in asked]
    count = math.prod(len(values) for _, values in ways)
    if count > MOST_CELLS - 1:
        raise ConfigError(
            f"--try gives {count} combinations; at most {MOST_CELLS - 1} fit beside the source, so leave some out"
        )
    tries: list[Try] = []
    for values in itertools.product(*(values for _, values in ways)):
        chosen = [f"{name}={value}" for (names, _), value in zip(ways, values, strict=True) for name in names]
        config = configs.load(PipelineConfig, path, [*changes, *chosen])
        words = (
            f"{name.rpartition('.')[2]} {_word(value)}"
            for name, value in zip(_names(asked), values, strict=True)
        )
        name = ", ".join(words)
        for other in tries:
            if other.config == config:
                raise ConfigError(f"--try: {other.name} and {name} are the same; give each once")
        tries.append(Try(name, config, len(tries) + 1, count))
    return tries


def run_trial(input: Path, output: Path, tries: Sequence[Try], watching: Watching) -> Trial:
    """Restores a range of `input` with each of `tries`; writes the video `output` and the page beside it.

    Raises the errors of `restore_video`; then nothing is left under either name.
    """
    config = _for_a_trial(input, tries[0].config)
    tries = [replace(each, config=replace(each.config, input=config.input)) for each in tries]
    source = open_source(input, config)
    if not isinstance(source, FileSource):
        raise ConfigError(f"{input}: --try is for videos, not for photos")
    page = (config.output.report or output.with_suffix(".html")).expanduser()
    if page.suffix.lower() not in (".html", ".htm"):
        raise ConfigError(f"--report: {page} must end in .html")
    grid = _Grid.of(source, len(tries) + 1)
    note = f"a trial of anchorface {__version__}: the source, and faces restored in {len(tries)} ways"
    # Both names are checked before any work.
    sink = FileSink(
        output, source, config.encode, overwrite=config.output.overwrite, size=grid.size, note=note
    )
    page_file = PartialFile(page, source=input, overwrite=config.output.overwrite)
    with ExitStack() as stack:
        columns, cells = [], []
        for each in tries:
            file = stack.enter_context(_unnamed_file(output))
            column, cell = _restore(input, each, grid, file, stack.enter_context(watching(each)))
            columns.append(column)
            cells.append(cell)
        _join(source, sink, grid, cells, [each.name for each in tries])
    write_page(page_file, input.name, columns, config)
    return Trial(output, page, [(each, column.report) for each, column in zip(tries, columns, strict=True)])


@dataclass(frozen=True, slots=True)
class _Grid:
    """The arrangement of the cells."""

    across: int
    cell: tuple[int, int]
    """Width and height of a coded cell."""
    size: tuple[int, int]
    """Width and height of a coded frame of the video."""

    @classmethod
    def of(cls, source: FileSource, count: int) -> _Grid:
        info = source.info
        across = math.ceil(math.sqrt(count))
        down = math.ceil(count / across)
        wide, high = grid_size((info.width, info.height), across, down, info.rotation)
        if info.rotation % 180:
            wide, high = high, wide
        scale = min(1.0, _MOST_WIDE / wide, _MOST_HIGH / high)
        cell = cell_size(info.width, info.height, info.pixel_format, scale)
        return cls(across, cell, grid_size(cell, across, down, info.rotation))


def _restore(input: Path, each: Try, grid: _Grid, file: IO[bytes], watch: Watcher) -> tuple[Column, Cells]:
    source = open_source(input, each.config)
    assert isinstance(source, FileSource)
    parts = build(each.config, source)
    watch.opened(source)
    report = Report(uses_references=parts.restorer is None or parts.restorer.needs.references)
    cells, moments = Cells(file, grid.cell), Moments(parts.perception.crop_size)
    run(source, cells, Chain(parts, each.config), Hooks(report, watch=watch.update, note=moments.note))
    report.merge_people(parts.perception.people.current)
    report.warnings, report.damage = [*source.warnings], [*source.damage]
    return Column(each.name, report, moments.merged(parts.perception.people.current)), cells


def _join(
    source: FileSource, sink: FileSink, grid: _Grid, cells: Sequence[Cells], names: Sequence[str]
) -> None:
    captions = ["source", *names]
    rest = [iter(each) for each in cells]
    with sink:
        for frame in source:
            shown = [shrunk(frame.native, grid.cell), *(next(each) for each in rest)]
            picture = mosaic(shown, captions, across=grid.across, display=display_of(frame.native))
            sink.write(picture, frame.pts)


def _for_a_trial(input: Path, config: PipelineConfig) -> PipelineConfig:
    output = config.output
    if output.compare or output.c2pa or output.references_log or config.chunks.asked_for:
        raise ConfigError(
            "--try shows the source itself and runs in one process; leave out --compare, --c2pa, --references-log, "
            "--resume, --workers and --ray"
        )
    if config.input.duration_seconds is not None:
        return config
    return replace(config, input=replace(config.input, duration_seconds=USUAL_SECONDS))


def _unnamed_file(output: Path) -> IO[bytes]:
    """An unnamed file on the disk of `output`, which vanishes however the run ends."""
    try:
        return tempfile.TemporaryFile(dir=output.parent)
    except OSError as error:
        raise SinkError(f"{output}: cannot be written ({reason(error)}); choose another folder") from error


def _ways(text: str) -> tuple[tuple[str, ...], list[str]]:
    """The settings that `text` names, and their values."""
    name, equals, values = text.partition("=")
    name = name.strip()
    settings = _SHORT.get(name, (name,))
    found = [value.strip() for value in values.split(",")]
    if not equals or not all(found):
        raise ConfigError(f"--try must look like strength=0.5,1, got {text!r}")
    if settings[0].partition(".")[0] in _NOT_TRIED:
        raise ConfigError(f"--try compares settings that affect faces; {name} does not")
    return settings, found


def _names(asked: Sequence[str]) -> list[str]:
    return [text.partition("=")[0].strip() for text in asked]


def _word(value: str) -> str:
    """A value for a caption; of a path the file name only."""
    return Path(value).name


class Cells:
    """A sink that keeps every picture, scaled to one size, uncompressed in `file`; iteration reads them back.

    Uncompressed, because a trial is short and every pixel format is kept. Raises SinkError if the disk is full.
    """

    def __init__(self, file: IO[bytes], size: tuple[int, int]) -> None:
        self._file, self._size = file, size
        self._like: av.VideoFrame | None = None
        self.count = 0
        """Pictures kept."""

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Keeps one picture; the source's frames hold the times."""
        small = shrunk(native, self._size)
        self._like = self._like or small
        try:
            for plane in planes_of(small):
                self._file.write(np.ascontiguousarray(plane).tobytes())
            self._file.flush()
        except OSError as error:
            if error.errno in DISK_FULL:
                raise SinkError("the disk is full; free some space, or try fewer seconds") from error
            raise
        self.count += 1

    def __iter__(self) -> Iterator[av.VideoFrame]:
        self._file.seek(0)
        for _ in range(self.count):
            assert self._like is not None
            fresh = new_frame(self._like, *self._size)
            for plane in planes_of(fresh):
                samples = np.frombuffer(self._file.read(plane.size * plane.itemsize), plane.dtype)
                plane[:] = samples.reshape(plane.shape)
            yield fresh
