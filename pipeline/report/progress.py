"""Progress of a run: a bar for terminals, lines for logs, JSON for programs."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from pipeline.report.counts import Report


class _Info(Protocol):
    @property
    def frame_count(self) -> int | None: ...


class _Opened(Protocol):
    @property
    def info(self) -> _Info: ...
    @property
    def warnings(self) -> list[str]: ...


class Watcher:
    """Called once with the source and after every frame; this one is silent."""

    total: int | None = None
    """Frames expected, if known."""

    def opened(self, source: _Opened, pace: str = "") -> None:
        """The input was opened; `pace` says how long it takes, where that is known."""
        self.total = source.info.frame_count

    def update(self, report: Report) -> None:
        """One more frame was written."""


class _Plain(Watcher):
    """A line every few seconds, for logs."""

    every_seconds = 5.0

    def __init__(self) -> None:
        self._next = time.monotonic() + self.every_seconds

    def opened(self, source: _Opened, pace: str = "") -> None:
        super().opened(source)
        self.warn(source.warnings)
        if pace:
            self.expect(pace)

    def expect(self, pace: str) -> None:
        """Prints how long the film takes."""
        print(pace, file=sys.stderr, flush=True)

    def warn(self, sentences: list[str]) -> None:
        """Prints warnings at once: the summary repeats them, perhaps hours later."""
        for sentence in sentences:
            print(f"warning: {sentence}", file=sys.stderr, flush=True)

    def update(self, report: Report) -> None:
        if time.monotonic() >= self._next:
            self._next = time.monotonic() + self.every_seconds
            self.tell(report)

    def tell(self, report: Report) -> None:
        rate = report.frames / max(report.seconds, 1e-6)
        of, left = "", ""
        if self.total:
            of = f" of {self.total}"
            left = f", {max(self.total - report.frames, 0) / max(rate, 1e-6):.0f} s left"
        print(
            f"restoring: frame {report.frames}{of}, {rate:.1f} frames/s{left}, "
            f"people {len(report.people)}, faces restored {report.restored}",
            file=sys.stderr,
            flush=True,
        )


class _Json(_Plain):
    """JSON lines on the standard output, for programs."""

    every_seconds = 1.0

    def warn(self, sentences: list[str]) -> None:
        for sentence in sentences:
            print(json.dumps({"event": "warning", "sentence": sentence}), flush=True)

    def expect(self, pace: str) -> None:
        print(json.dumps({"event": "pace", "sentence": pace}), flush=True)

    def tell(self, report: Report) -> None:
        print(
            json.dumps(
                {
                    "event": "progress",
                    "frame": report.frames,
                    "total": self.total,
                    "frames_per_second": round(report.frames / max(report.seconds, 1e-6), 2),
                    "people": len(report.people),
                    "restored": report.restored,
                }
            ),
            flush=True,
        )


class _Bar(Watcher):
    """A progress bar in a terminal."""

    def __init__(self, bar: Progress) -> None:
        self._bar = bar
        self._task = bar.add_task("opening", total=None, rate="", people=0, faces=0)

    def opened(self, source: _Opened, pace: str = "") -> None:
        super().opened(source)
        self._bar.update(self._task, description="restoring", total=self.total)
        for sentence in (*(f"warning: {each}" for each in source.warnings), *([pace] if pace else [])):
            self._bar.console.print(sentence, markup=False, highlight=False)

    def update(self, report: Report) -> None:
        rate = report.frames / max(report.seconds, 1e-6)
        self._bar.update(
            self._task,
            completed=report.frames,
            rate=f"{rate:.1f}",
            people=len(report.people),
            faces=report.restored,
        )


@contextmanager
def progress(kind: str) -> Iterator[Watcher]:
    """A watcher of the given kind: `bar`, `plain`, `json` or `none`."""
    if kind != "bar":
        yield {"plain": _Plain, "json": _Json, "none": Watcher}[kind]()
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %  {task.fields[rate]} frames/s"),
        TimeRemainingColumn(),
        TextColumn("people {task.fields[people]}  faces restored {task.fields[faces]}"),
    )
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        yield _Bar(bar)
