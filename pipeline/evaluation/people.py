"""Accuracy with which a scan groups faces by person: pairs of labelled faces in one entry of the gallery.

1. `python -m pipeline.evaluation.people FILM ... --faces FOLDER` writes the picture of every face that a scan sees and
   `faces.csv`. Fill in its column `person`: any word, the same for the same person in all films, empty if uncertain.
2. `python -m pipeline.evaluation.people FILM ... --labels faces.csv` prints a table.

Precision: share of the pairs in one entry that show one person. Recall: share of the pairs of one person that are in
one entry. A face without an entry forms no pair. Exit codes: 0 done, 2 wrong option, 4 unreadable or unwritable file.
"""

from __future__ import annotations

import argparse
import csv
import sys
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import configs
from configs import ConfigError
from pipeline.build import build_detector, build_recogniser
from pipeline.config import PipelineConfig
from pipeline.errors import MediaError
from pipeline.frames import Frame
from pipeline.media.source import FileSource
from pipeline.people.scan import Scanner, to_png
from pipeline.pixels.colour import read_crop
from pipeline.pixels.geometry import Geometry
from trackers.appearances import Appearance, Glimpse

COLUMNS = ("film", "seconds", "x", "y", "size", "person", "picture")
_PICTURE_PX = 160
_NEAR_SECONDS = 0.05
"""Maximum time between a label and its face, whose centre must lie within the labelled face."""


@dataclass(frozen=True, slots=True, eq=False)
class Seen:
    """A face seen by a scan."""

    film: str
    seconds: float
    x: float
    """Centre and size of its box, in pixels."""
    y: float
    size: float
    appearance: Appearance
    picture: bytes


@dataclass(frozen=True, slots=True)
class Score:
    """Pairs of labelled faces."""

    faces: int
    people: int
    entries: int
    """Entries of the gallery with labelled faces."""
    together: int
    """Pairs in one entry."""
    same: int
    """Pairs of one person."""
    right: int
    """Pairs of one person in one entry."""

    @property
    def precision(self) -> float:
        """1 without any pair in one entry."""
        return self.right / self.together if self.together else 1.0

    @property
    def recall(self) -> float:
        """1 without any pair of one person."""
        return self.right / self.same if self.same else 1.0


def score(faces: Sequence[tuple[str, int | None]]) -> Score:
    """Counts over `faces`: the true person and the entry of each, None = no entry."""
    known = [(person, entry) for person, entry in faces if entry is not None]
    return Score(
        faces=len(faces),
        people=len({person for person, _ in faces}),
        entries=len({entry for _, entry in known}),
        together=_pairs(Counter(entry for _, entry in known).values()),
        same=_pairs(Counter(person for person, _ in faces).values()),
        right=_pairs(Counter(known).values()),
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Writes faces for labelling, or prints the table; returns the exit code."""
    options = _parser().parse_args(arguments)
    try:
        config = configs.load(PipelineConfig, None, options.changes)
        labels = read_labels(options.labels) if options.labels else []
        seen, entries = scan(options.films, config)
        if options.faces:
            write_faces(options.faces, seen)
        if options.labels:
            print(table(seen, entries, labels))
    except ConfigError as error:
        return _refuse(error, 2)
    except (MediaError, OSError) as error:
        return _refuse(error, 4)
    return 0


def scan(films: Sequence[Path], config: PipelineConfig) -> tuple[list[Seen], list[Appearance]]:
    """Every face that a scan of `films` sees, and the entries of its gallery."""
    scanner = Scanner(config, build_detector(config.detector), build_recogniser(config.recogniser))
    seen: list[Seen] = []
    for path in films:
        source = FileSource(path)
        geometry = Geometry.of(source.info)

        def record(
            frame: Frame,
            glimpses: Sequence[Glimpse],
            found: Sequence[Appearance],
            film: str = path.name,
            geometry: Geometry = geometry,
        ) -> None:
            for glimpse, appearance in zip(glimpses, found, strict=True):
                seen.append(_seen(film, frame, glimpse, appearance, geometry))

        scanner.look(source, record)
    return seen, list(scanner.result().people)


def _seen(film: str, frame: Frame, glimpse: Glimpse, appearance: Appearance, geometry: Geometry) -> Seen:
    box, matrix = glimpse.face.box, geometry.crop_matrix(glimpse.face.landmarks, _PICTURE_PX)
    x, y = (box[:2] + box[2:]) / 2
    size = float(max(box[2:] - box[:2]))
    picture = to_png(read_crop(frame.native, matrix, _PICTURE_PX))
    return Seen(film, float(frame.pts * frame.time_base), float(x), float(y), size, appearance, picture)


def write_faces(folder: Path, seen: Sequence[Seen]) -> None:
    """Writes the pictures and the table for labelling."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "faces.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as stream:
        writer = csv.writer(stream)
        writer.writerow(COLUMNS)
        for number, face in enumerate(seen):
            name = f"{number:05d}.png"
            (folder / name).write_bytes(face.picture)
            place = f"{face.seconds:.3f}", f"{face.x:.0f}", f"{face.y:.0f}", f"{face.size:.0f}"
            writer.writerow((face.film, *place, "", name))


def read_labels(path: Path) -> list[dict[str, str]]:
    """Labelled rows. Raises ConfigError for another kind of file."""
    with path.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    if not rows or not set(COLUMNS[:-1]) <= rows[0].keys():
        raise ConfigError(f"{path}: needs the columns {', '.join(COLUMNS[:-1])}, as --faces writes them")
    return [row for row in rows if row["person"]]


def table(seen: Sequence[Seen], entries: Sequence[Appearance], labels: Sequence[dict[str, str]]) -> str:
    """Markdown table: precision and recall of each film and of all together."""
    by_film: dict[str, list[tuple[str, int | None]]] = defaultdict(list)
    of_film: dict[str, list[Seen]] = defaultdict(list)
    for face in seen:
        of_film[face.film].append(face)
    for row in labels:
        nearest = _nearest(of_film[row["film"]], row)
        if nearest is not None:
            by_film[row["film"]].append((row["person"], _entry_of(nearest.appearance, entries)))
    lines = ["| film | faces | people | entries | precision | recall |", "|---|---|---|---|---|---|"]
    every = [pair for pairs in by_film.values() for pair in pairs]
    for name, pairs in [*by_film.items(), ("all", every)]:
        found = score(pairs)
        lines.append(
            f"| {name} | {found.faces} | {found.people} | {found.entries} | {found.precision:.3f} "
            f"| {found.recall:.3f} |"
        )
    missed = len(labels) - len(every)
    return "\n".join(lines) + (f"\n\n{missed} labelled faces were not seen" if missed else "")


def _nearest(faces: Sequence[Seen], row: dict[str, str]) -> Seen | None:
    x, y, size, seconds = (float(row[name]) for name in ("x", "y", "size", "seconds"))
    near = [face for face in faces if abs(face.seconds - seconds) <= _NEAR_SECONDS]
    near = [face for face in near if max(abs(face.x - x), abs(face.y - y)) < size / 2]
    return min(near, key=lambda face: abs(face.x - x) + abs(face.y - y), default=None)


def _entry_of(appearance: Appearance, entries: Sequence[Appearance]) -> int | None:
    """Index of the entry that contains `appearance`."""
    return next((n for n, entry in enumerate(entries) if appearance.numbers & entry.numbers), None)


def _pairs(counts: Iterable[int]) -> int:
    return sum(count * (count - 1) // 2 for count in counts)


def _refuse(error: Exception, code: int) -> int:
    print(f"pipeline.evaluation.people: {error}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m pipeline.evaluation.people", description=__doc__)
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument("films", metavar="FILM", type=Path, nargs="+")
    parser.add_argument("--faces", metavar="FOLDER", type=Path, help="write faces for labelling")
    parser.add_argument(
        "--labels", metavar="CSV", type=Path, help="faces.csv with its column `person` filled in"
    )
    parser.add_argument("--set", metavar="A.B=C", action="append", default=[], dest="changes")
    return parser


if __name__ == "__main__":
    sys.exit(main())
