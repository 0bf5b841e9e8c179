"""Writes what a scan found as a gallery: a folder that appears when it is whole."""

from __future__ import annotations

import os
import re
import secrets
import shutil
from dataclasses import dataclass
from pathlib import Path

from pipeline.errors import SinkError
from pipeline.people.record import Known, Record, sha256
from pipeline.people.scan import Scan, timecode
from pipeline.people.sheet import Row, contact_sheets
from trackers.appearances import Appearance, Portrait
from trackers.gallery import LIST, RECORD

_MOST_SPANS = 4
"""Stretches that are told of one person."""
_HEAD = """\
# Who is in: {films}.
#
# Look at contact_sheet.jpg, change this list as you like, and give the folder to a run:
#   python -m pipeline FILM OUT --people {folder}            restores as this list says
#   python -m pipeline FILM OUT --people {folder} --only NAME     that person alone (may be repeated)
#   python -m pipeline FILM OUT --people {folder} --skip NAME     all but that person (may be repeated)
#
# name      any text. The same name twice is one person: so two people are joined.
# restore   false leaves this person as he or she is.
# strength  0 to 1: share of the restoration that is used, on top of the run's --strength.
# restorer  another one for this person: "fast", "iconface", the path of weights; "" = the run's own.
# views     folders or single pictures in this folder. A picture that is named is taken out of its folder's: another
#           [[person]] that names some of the pictures is another person. Pictures may be moved between folders, too;
#           one of your own in a folder counts as a photo.
# photos    photos, folders of photos or clips of this person, from anywhere: ["mother.jpg"].
# times     when this person is restored, [] = always: ["1:20-1:35", "film.mp4 10-12.5"] (minutes:seconds, seconds).

# People who are not in this list are restored too.
strangers = true
"""


@dataclass(frozen=True, slots=True)
class _Person:
    folder: str
    found: Appearance
    files: tuple[tuple[str, Portrait], ...]
    """Name and view of each picture."""


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Raises SinkError where a gallery cannot or must not be written to `folder`."""
    if not folder.absolute().parent.is_dir():
        raise SinkError(f"{folder}: the folder {folder.parent} does not exist; create it first")
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise SinkError(f"{folder}: exists already; use --overwrite, or give another name with --people")
    if not (folder / LIST).is_file():
        raise SinkError(f"{folder}: is no gallery, so it is not replaced; give another name with --people")


def write_gallery(folder: Path, scan: Scan, *, overwrite: bool) -> None:
    """Writes `scan` to `folder`. Raises SinkError; then nothing has changed there."""
    check_target(folder, overwrite=overwrite)
    partial = folder.with_name(f".{folder.name[:80]}.{secrets.token_hex(6)}.partial")
    try:
        partial.mkdir()
        _write(partial, folder.name, scan)
        if overwrite and folder.exists():
            old = partial.with_suffix(".old")
            os.replace(folder, old)
            os.replace(partial, folder)
            shutil.rmtree(old, ignore_errors=True)
        else:
            os.replace(partial, folder)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise SinkError(f"{folder}: cannot be written ({reason})") from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _write(folder: Path, name: str, scan: Scan) -> None:
    people = [_person(number, found, scan) for number, found in enumerate(scan.people, 1)]
    pictures: dict[str, Known] = {}
    for person in people:
        (folder / person.folder).mkdir()
        for file, portrait in person.files:
            (folder / person.folder / file).write_bytes(portrait.picture)
            pictures[sha256(portrait.picture)] = Known.of(portrait)
    (folder / RECORD).write_bytes(Record(scan.recogniser, pictures).to_bytes())
    rows = [
        Row(
            person.folder,
            _facts(person.found, scan),
            [(_caption(p, scan), p.picture) for _, p in person.files],
        )
        for person in people
    ]
    for number, sheet in enumerate(contact_sheets(rows), 1):
        (folder / f"contact_sheet{f'_{number}' if number > 1 else ''}.jpg").write_bytes(sheet)
    (folder / LIST).write_bytes(_list(name, people, scan).encode("utf-8", "backslashreplace"))


def _person(number: int, found: Appearance, scan: Scan) -> _Person:
    folder = f"person-{number}"
    files = tuple(
        (f"{folder}_{rank}_{_stem(scan.films[p.film].name)}_{timecode(p.seconds).replace(':', '-')}.png", p)
        for rank, p in enumerate(found.best(), 1)
    )
    return _Person(folder, found, files)


def _list(name: str, people: list[_Person], scan: Scan) -> str:
    films = ", ".join(_one_line(film.name) for film in scan.films)
    parts = [_HEAD.format(films=films, folder=_one_line(name))]
    if scan.unclear:
        parts.append(f"# {scan.unclear} appearances were too unclear or too short to say whose they are.\n")
    for person in people:
        parts.append(
            f"\n[[person]]\n# {_one_line(_facts(person.found, scan))}\n"
            f'name = "{person.folder}"\nrestore = true\nstrength = 1.0\nrestorer = ""\n'
            f'views = ["{person.folder}"]\nphotos = []\ntimes = []\n'
        )
    return "".join(parts)


def _facts(found: Appearance, scan: Scan) -> str:
    """Screen time, where, and how well the person is seen, in one line."""
    spans = [
        f"{scan.films[span.film].name} {timecode(span.start)}-{timecode(span.end)}"
        for span in found.spans[:_MOST_SPANS]
    ]
    more = len(found.spans) - len(spans)
    rest = f" and {more} more" if more else ""
    best = found.best()[0]
    return (
        f"on screen about {screen_seconds(found, scan):.1f} s: {', '.join(spans)}{rest}; best view: "
        f"eyes {best.eye_px:.0f} pixels apart, quality {best.view.quality:.2f}"
    )


def screen_seconds(found: Appearance, scan: Scan) -> float:
    """For how long a person is seen, by the frames that were looked at."""
    return found.samples * scan.every_seconds


def _caption(portrait: Portrait, scan: Scan) -> str:
    return f"{timecode(portrait.seconds)}  {scan.films[portrait.film].name}"


def _stem(name: str) -> str:
    """Of a film's name what every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem)[:40]


def _one_line(text: str) -> str:
    """For a comment: a name may hold anything."""
    return re.sub(r"[\x00-\x1f\x7f]", "?", text)
