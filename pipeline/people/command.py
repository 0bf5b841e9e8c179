"""`python -m pipeline scan FILM ... --people FOLDER`: finds the people of films and makes an editable gallery."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import configs
from configs import ConfigError
from pipeline.build import build_detector, build_recogniser
from pipeline.config import PipelineConfig
from pipeline.errors import MediaError, SourceError
from pipeline.media.photos import PhotoSource
from pipeline.media.source import FileSource
from pipeline.people.gallery import check_target, screen_seconds, write_gallery
from pipeline.people.scan import Scan, Scanner
from pipeline.runs.film import files_of
from trackers.gallery import LIST

GALLERY = Path("people")
"""Default folder of a gallery."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the options of `scan`."""
    parser.add_argument(
        "inputs", metavar="FILM", type=Path, nargs="+", help="a video or a folder of videos; may be several"
    )
    gallery = f"the gallery to make: a folder with pictures and the list {LIST} (default: {GALLERY})"
    parser.add_argument("--people", metavar="FOLDER", type=Path, default=GALLERY, help=gallery)
    every = "time between two sampled frames (default: 0.5)"
    parser.add_argument("--every", dest="scan.every_seconds", type=float, metavar="SECONDS", help=every)
    start = "start of the range to scan"
    parser.add_argument("--start", dest="input.start_seconds", type=float, metavar="SECONDS", help=start)
    length = "length of the range to scan"
    parser.add_argument(
        "--duration", dest="input.duration_seconds", type=float, metavar="SECONDS", help=length
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML")
    change = "change one setting, for example scan.detect_width=1280; repeatable"
    parser.add_argument("--set", metavar="A.B=C", action="append", default=[], dest="changes", help=change)
    replace = "replace an existing gallery"
    parser.add_argument(
        "--overwrite", dest="output.overwrite", action="store_const", const=True, help=replace
    )
    shown = "progress: lines, JSON, or none (default: plain)"
    parser.add_argument("--progress", choices=["plain", "json", "none"], default="plain", help=shown)


@dataclass(slots=True)
class ScanReport:
    """Result of a scan."""

    folder: Path
    scan: Scan
    seconds: float
    failed: list[str] = field(default_factory=list)
    """Films that could not be read, one sentence each."""

    def summary(self) -> str:
        """A few lines for a person."""
        films, people = self.scan.films, self.scan.people
        shown = ", ".join(
            f"person-{n} {screen_seconds(p, self.scan):.0f} s" for n, p in enumerate(people[:8], 1)
        )
        more = f" and {len(people) - 8} more" if len(people) > 8 else ""
        lines = [
            f"{sum(film.sampled for film in films)} frames of {len(films)} films sampled in {self.seconds:.1f} s",
            f"people: {len(people)}" + (f" ({shown}{more})" if people else ""),
        ]
        if self.scan.unclear:
            lines.append(f"not identified (too unclear or too short): {self.scan.unclear} appearances")
        lines += [f"failed: {sentence}" for sentence in self.failed]
        lines.append(f"gallery: {self.folder} (see contact_sheet.jpg, edit {LIST})")
        return "\n".join(lines)

    def as_dict(self) -> dict[str, Any]:
        """The same for a program."""
        return {
            "gallery": str(self.folder),
            "films": [film.name for film in self.scan.films],
            "people": {
                f"person-{n}": round(screen_seconds(p, self.scan), 2)
                for n, p in enumerate(self.scan.people, 1)
            },
            "unclear": self.scan.unclear,
            "seconds": round(self.seconds, 3),
            "failed": self.failed,
        }


def scan(
    inputs: Sequence[Path], folder: Path, config: PipelineConfig, *, progress: str = "none"
) -> ScanReport:
    """Scans films and writes the gallery `folder`. An unreadable film does not stop the others.

    Raises ConfigError, CheckpointError, SinkError if the gallery cannot be written, and SourceError if no film can be
    read.
    """
    started = time.perf_counter()
    check_target(folder, overwrite=config.output.overwrite)
    files = files_of(inputs)
    for path in files:
        if os.path.isdir(path) or PhotoSource.reads(path):
            raise ConfigError(f"{path}: is not a video; give photos to a run with --reference")
    scanner = Scanner(config, build_detector(config.detector), build_recogniser(config.recogniser))
    failed: list[str] = []
    start, duration = config.input.start_seconds, config.input.duration_seconds
    for path in files:
        try:
            film = scanner.look(FileSource(path, start_seconds=start, duration_seconds=duration))
        except MediaError as error:
            failed.append(str(error))
            continue
        if progress == "plain":
            line = f"{path}: {film.seconds:.0f} s, {film.sampled} frames sampled"
            print(line, file=sys.stderr, flush=True)
        elif progress == "json":
            print(json.dumps({"event": "film", "input": str(path)}), flush=True)
    if len(failed) == len(files):
        raise SourceError(failed[0])
    found = scanner.result()
    write_gallery(folder, found, overwrite=config.output.overwrite)
    return ScanReport(folder, found, time.perf_counter() - started, failed)


def command(options: argparse.Namespace, changes: Sequence[str]) -> ScanReport:
    """Runs `scan` with the options of the command line, and prints the result."""
    config = configs.load(PipelineConfig, options.config, changes)
    report = scan(options.inputs, options.people.expanduser(), config, progress=options.progress)
    print(
        json.dumps({"event": "done", **report.as_dict()}) if options.progress == "json" else report.summary()
    )
    return report
