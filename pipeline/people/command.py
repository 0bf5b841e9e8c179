"""`python -m pipeline scan FILM ... --people FOLDER`: who is in films, as a gallery that can be edited."""

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
"""Where a gallery goes if nothing else is said."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `scan`."""
    parser.add_argument(
        "inputs", metavar="FILM", type=Path, nargs="+", help="a video, or a folder of videos; may be several"
    )
    gallery = f"the folder to make, with pictures and the list {LIST} (default: {GALLERY})"
    parser.add_argument("--people", metavar="FOLDER", type=Path, default=GALLERY, help=gallery)
    every = "time between two frames that are looked at (default: 0.5)"
    parser.add_argument("--every", type=float, metavar="SECONDS", help=every)
    parser.add_argument("--start", type=float, metavar="SECONDS", help="begin here")
    parser.add_argument("--duration", type=float, metavar="SECONDS", help="stop after this much")
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings as TOML")
    change = "change one setting, for example scan.detect_width=1280; may be repeated"
    parser.add_argument("--set", metavar="A.B=C", action="append", default=[], dest="changes", help=change)
    parser.add_argument("--overwrite", action="store_true", help="replace a gallery that exists")
    parser.add_argument("--progress", choices=["plain", "json", "none"], default="plain")


@dataclass(slots=True)
class ScanReport:
    """What a scan did."""

    folder: Path
    scan: Scan
    seconds: float
    failed: list[str] = field(default_factory=list)
    """Films that could not be read, a sentence each."""

    def summary(self) -> str:
        """A few lines for a person."""
        films, people = self.scan.films, self.scan.people
        shown = ", ".join(
            f"person-{n} {screen_seconds(p, self.scan):.0f} s" for n, p in enumerate(people[:8], 1)
        )
        more = f" and {len(people) - 8} more" if len(people) > 8 else ""
        lines = [
            f"{sum(film.looked_at for film in films)} frames of {len(films)} films looked at in {self.seconds:.1f} s",
            f"people: {len(people)}" + (f" ({shown}{more})" if people else ""),
        ]
        if self.scan.unclear:
            lines.append(f"too unclear or too short to say whose they are: {self.scan.unclear} appearances")
        lines += [f"failed: {sentence}" for sentence in self.failed]
        lines.append(f"gallery: {self.folder} (look at contact_sheet.jpg, change {LIST})")
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
    """Looks through films and writes the gallery `folder`. A film that cannot be read does not stop the others.

    Raises ConfigError, CheckpointError, SinkError where the gallery cannot be written, and SourceError where no film
    can be read.
    """
    started = time.perf_counter()
    check_target(folder, overwrite=config.output.overwrite)
    files = files_of(inputs)
    for path in files:
        if os.path.isdir(path) or PhotoSource.reads(path):
            raise ConfigError(f"{path}: is no video; photos are given to a run with --reference")
    scanner = Scanner(config, build_detector(config.detector), build_recogniser(config.recogniser))
    failed: list[str] = []
    for path in files:
        try:
            film = scanner.look(_open(path, config))
        except MediaError as error:
            failed.append(str(error))
            continue
        _tell(progress, f"{path}: {film.seconds:.0f} s, {film.looked_at} frames looked at", str(path))
    if len(failed) == len(files):
        raise SourceError(failed[0])
    found = scanner.result()
    write_gallery(folder, found, overwrite=config.output.overwrite)
    return ScanReport(folder, found, time.perf_counter() - started, failed)


def command(options: argparse.Namespace, changes: Sequence[str]) -> ScanReport:
    """`scan` with the options of the command line; prints what was done."""
    config = configs.load(PipelineConfig, options.config, changes)
    report = scan(options.inputs, options.people.expanduser(), config, progress=options.progress)
    print(
        json.dumps({"event": "done", **report.as_dict()}) if options.progress == "json" else report.summary()
    )
    return report


def _open(path: Path, config: PipelineConfig) -> FileSource:
    settings = config.input
    return FileSource(path, start_seconds=settings.start_seconds, duration_seconds=settings.duration_seconds)


def _tell(progress: str, sentence: str, path: str) -> None:
    if progress == "plain":
        print(sentence, file=sys.stderr, flush=True)
    elif progress == "json":
        print(json.dumps({"event": "film", "input": path}), flush=True)
