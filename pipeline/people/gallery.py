"""Writes the result of a scan as a gallery: pictures, their record, the list of people and contact sheets.

The record identifies pictures by hash, so the user may move and rename them. Legend: D width of an embedding.
"""

from __future__ import annotations

import hashlib
import io
import os
import re
import secrets
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from configs import ConfigError
from pipeline.errors import SinkError, reason
from pipeline.people.scan import Scan, timecode
from trackers.appearances import Appearance, Portrait
from trackers.gallery import LIST, RECORD


@dataclass(frozen=True, slots=True, eq=False)
class Known:
    """One aligned picture."""

    embedding: NDArray[np.float32]
    """float32 (D,), raw, of the view."""
    look: NDArray[np.float32]
    """float32 (D,), raw: the sum over the view's shot."""
    quality: float
    yaw: float
    origin: str
    """Film and time."""

    @classmethod
    def of(cls, portrait: Portrait) -> Self:
        """From a view kept by a scan."""
        view = portrait.view
        return cls(view.embedding, portrait.look, view.quality, view.yaw, str(view.source))


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """The pictures of a gallery that were written by a scan."""

    recogniser: str
    """Name of the recogniser of the embeddings."""
    pictures: Mapping[str, Known]
    """By sha256 of the file."""

    def to_bytes(self) -> bytes:
        """An .npz file without pickled parts."""
        known = list(self.pictures.values())
        width = len(known[0].embedding) if known else 0
        content = io.BytesIO()
        np.savez(
            content,
            recogniser=np.array(self.recogniser),
            sha256=np.array(list(self.pictures), np.str_),
            embedding=np.array([each.embedding for each in known], np.float32).reshape(-1, width),
            look=np.array([each.look for each in known], np.float32).reshape(-1, width),
            quality=np.array([each.quality for each in known], np.float64),
            yaw=np.array([each.yaw for each in known], np.float64),
            origin=np.array([each.origin.encode("utf-8", "surrogateescape") for each in known], np.bytes_),
        )
        return content.getvalue()


def read_record(file: Path) -> Record:
    """The record at `file`; empty if it is missing. Raises ConfigError if it is damaged."""
    if not file.exists():
        return Record("", {})
    try:
        with np.load(file, allow_pickle=False) as values:
            known = [
                Known(embedding, look, float(quality), float(yaw), origin.decode("utf-8", "surrogateescape"))
                for embedding, look, quality, yaw, origin in zip(
                    *(values[name] for name in ("embedding", "look", "quality", "yaw", "origin")), strict=True
                )
            ]
            names = [str(name) for name in values["sha256"]]
            return Record(str(values["recogniser"]), dict(zip(names, known, strict=True)))
    except (OSError, KeyError, ValueError, EOFError, zipfile.BadZipFile) as error:
        raise ConfigError(
            f"{file}: is damaged; scan again, or remove it: then the pictures count as photos"
        ) from error


def sha256(content: bytes) -> str:
    """The key of a picture in a record."""
    return hashlib.sha256(content).hexdigest()


_SIDE = 144
"""Side of a picture on a contact sheet in pixels."""
_GAP = 8
_CAPTION = 18
"""Height of a line of text."""
_ROWS = 60
"""Maximum people per sheet; a JPEG has at most 65,535 rows."""
_GROUND, _INK, _PALE = (24, 24, 26), (240, 240, 240), (165, 165, 170)


@dataclass(frozen=True, slots=True)
class Row:
    """One person of a contact sheet."""

    title: str
    facts: str
    pictures: Sequence[tuple[str, bytes]]
    """Caption and file of each picture."""


def contact_sheets(rows: Sequence[Row]) -> Iterator[bytes]:
    """JPEG files of at most `_ROWS` people each."""
    columns = max((len(row.pictures) for row in rows), default=1)
    for start in range(0, len(rows), _ROWS):
        yield _sheet(rows[start : start + _ROWS], columns)


def _sheet(rows: Sequence[Row], columns: int) -> bytes:
    height = 2 * _CAPTION + _SIDE + _CAPTION + 2 * _GAP
    width = max(columns * (_SIDE + _GAP) + _GAP, 480)
    sheet = Image.new("RGB", (width, len(rows) * height + _GAP), _GROUND)
    draw = ImageDraw.Draw(sheet)
    title, small = ImageFont.load_default(15), ImageFont.load_default(11)
    for number, row in enumerate(rows):
        top = number * height + _GAP
        draw.text((_GAP, top), row.title, _INK, title)
        draw.text((_GAP, top + _CAPTION), _fitting(row.facts, small, width - 2 * _GAP), _PALE, small)
        for place, (caption, content) in enumerate(row.pictures):
            left = _GAP + place * (_SIDE + _GAP)
            picture = (
                Image.open(io.BytesIO(content)).convert("RGB").resize((_SIDE, _SIDE), Image.Resampling.BOX)
            )
            sheet.paste(picture, (left, top + 2 * _CAPTION))
            below = (left, top + 2 * _CAPTION + _SIDE + 2)
            draw.text(below, _fitting(caption, small, _SIDE), _PALE, small)
    file = io.BytesIO()
    sheet.save(file, "JPEG", quality=88)
    return file.getvalue()


def _fitting(text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int) -> str:
    """`text`, cut to at most `width` pixels."""
    # The font covers Latin-1 only, and names may hold any bytes.
    text = text.encode("latin-1", "replace").decode("latin-1")
    if font.getlength(text) <= width:
        return text
    while text and font.getlength(f"{text}..") > width:
        text = text[:-1]
    return f"{text}.."


_MOST_SPANS = 4
"""Maximum time ranges listed per person."""
_HEAD = """\
# Who is in: {films}.
#
# See contact_sheet.jpg, edit this list, and give the folder to a run:
#   python -m pipeline FILM OUT --people {folder}            restores by this list
#   python -m pipeline FILM OUT --people {folder} --only NAME     only that person (repeatable)
#   python -m pipeline FILM OUT --people {folder} --skip NAME     all but that person (repeatable)
#
# name      any text. Two entries of the same name are joined into one person.
# restore   false: this person is not restored.
# strength  0 to 1: share of the restoration that is used, times the run's --strength.
# restorer  restorer of this person: "fast", "iconface", the path of weights; "" = the run's own.
# views     folders or single pictures in this folder. A picture named here no longer counts for its folder: to split a
#           person, add another [[person]] that names some of the pictures. Pictures may be moved between folders;
#           your own pictures in a folder count as photos.
# photos    photos, folders of photos or clips of this person, from anywhere: ["mother.jpg"].
# times     when this person is restored, [] = always: ["1:20-1:35", "film.mp4 10-12.5"] (minutes:seconds, seconds).

# Whether people who are not in this list are restored.
strangers = true
"""


@dataclass(frozen=True, slots=True)
class _Person:
    folder: str
    found: Appearance
    files: tuple[tuple[str, Portrait], ...]
    """File name and view of each picture."""


def check_target(folder: Path, *, overwrite: bool) -> None:
    """Raises SinkError if a gallery cannot or must not be written to `folder`."""
    if not folder.absolute().parent.is_dir():
        raise SinkError(f"{folder}: the folder {folder.parent} does not exist; create it first")
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise SinkError(f"{folder}: exists already; use --overwrite, or give another name with --people")
    if not (folder / LIST).is_file():
        raise SinkError(f"{folder}: is not a gallery, so it is not replaced; give another name with --people")


def write_gallery(folder: Path, scan: Scan, *, overwrite: bool) -> None:
    """Writes `scan` to `folder`. Raises SinkError; then the folder is unchanged."""
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
        raise SinkError(f"{folder}: cannot be written ({reason(error)})") from error
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
        parts.append(f"# {scan.unclear} appearances were not identified (too unclear or too short).\n")
    for person in people:
        parts.append(
            f"\n[[person]]\n# {_one_line(_facts(person.found, scan))}\n"
            f'name = "{person.folder}"\nrestore = true\nstrength = 1.0\nrestorer = ""\n'
            f'views = ["{person.folder}"]\nphotos = []\ntimes = []\n'
        )
    return "".join(parts)


def _facts(found: Appearance, scan: Scan) -> str:
    """Screen time, time ranges and best view of a person, in one line."""
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
    """Screen time of a person, by the sampled frames."""
    return found.samples * scan.every_seconds


def _caption(portrait: Portrait, scan: Scan) -> str:
    return f"{timecode(portrait.seconds)}  {scan.films[portrait.film].name}"


def _stem(name: str) -> str:
    """A film's name in characters that every file system takes."""
    return re.sub(r"[^A-Za-z0-9._-]+", "_", Path(name).stem)[:40]


def _one_line(text: str) -> str:
    """`text` for a comment, without control characters."""
    return re.sub(r"[\x00-\x1f\x7f]", "?", text)
