"""The page of a trial: a table of what each setting did, and the same moments of each person side by side."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import av

import configs
from pipeline.config import PipelineConfig
from pipeline.errors import SinkError
from pipeline.frames import RestoredFrame
from pipeline.media.files import PartialFile
from pipeline.report.counts import Report
from pipeline.report.diary import Pair, address, large_pair
from pipeline.report.series import Thinned

MOST_PEOPLE = 6
"""People shown; of more, those seen at most moments."""

_STYLE = (
    Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    + "body { max-width: 96%; } .moments { overflow-x: auto; } .moments th { overflow-wrap: normal; }\n"
    + ".moments img { width: 224px; height: auto; display: block; }\n"
)


@dataclass(frozen=True, slots=True)
class Column:
    """One setting."""

    name: str
    report: Report
    people: Mapping[int, Sequence[tuple[int, Pair]]]
    """Frame and pictures of the moments of each person."""


def write_page(file: PartialFile, input_name: str, columns: Sequence[Column], config: PipelineConfig) -> None:
    """Writes the page to `file`. Raises SinkError; then nothing is left."""
    # Names of files need not be text that UTF-8 can say.
    text = render(input_name, columns, configs.dump(config)).encode("utf-8", "backslashreplace")
    file.create()
    try:
        file.path.write_bytes(text)
        file.commit()
    except OSError as error:
        file.discard()
        reason = (error.strerror or str(error)).lower()
        raise SinkError(f"{file.target}: cannot be written ({reason})") from error
    except BaseException:
        file.discard()
        raise


def render(input_name: str, columns: Sequence[Column], settings: str) -> str:
    """The whole page; nothing of it is loaded from elsewhere."""
    style = base64.b64encode(hashlib.sha256(_STYLE.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{style}'"
    title = f"anchorface: a trial on {input_name}"
    parts = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
        _figures(columns),
        "<p class=\"note\">Likeness is the cosine to the person's references by the gate's encoder, at full strength, "
        "mean of all people; held back: faces of which restoration would have made somebody else.</p>",
        *_people(columns),
        f"<h2>Settings</h2><details><summary>all settings of the first</summary><pre>{escape(settings)}"
        "</pre></details></body></html>",
    ]
    return "\n".join(parts) + "\n"


def _figures(columns: Sequence[Column]) -> str:
    head = ("setting", "faces restored", "held back", "fully", "likeness before", "after", "seconds")
    rows = []
    for column in columns:
        report = column.report
        cells = [column.name, report.restored, report.held_back, report.held_back_fully]
        cells += [*_likeness(report), f"{report.seconds:.1f}"]
        rows.append("<tr>" + "".join(f"<td>{escape(str(cell))}</td>" for cell in cells) + "</tr>")
    titles = "".join(f"<th>{cell}</th>" for cell in head)
    return f"<table><tr>{titles}</tr>{''.join(rows)}</table>"


def _likeness(report: Report) -> tuple[str, str]:
    faces = sum(report.compared.values())
    if not faces:
        return "", ""
    sums = report.likeness_before.values(), report.likeness_after.values()
    before, after = (f"{sum(each) / faces:.3f}" for each in sums)
    return before, after


def _people(columns: Sequence[Column]) -> list[str]:
    moments: dict[int, dict[int, Pair]] = {}
    for column in columns:
        for person, pairs in column.people.items():
            for index, pair in pairs:
                moments.setdefault(person, {}).setdefault(index, pair)
    people = sorted(moments, key=lambda person: (-len(moments[person]), person))[:MOST_PEOPLE]
    if not people:
        return ["<p>No face was clear enough to be compared.</p>"]
    return [part for person in people for part in _person(person, moments[person], columns)]


def _person(person: int, moments: Mapping[int, Pair], columns: Sequence[Column]) -> list[str]:
    titles = "".join(f"<th>{escape(name)}</th>" for name in ("", "source", *(c.name for c in columns)))
    rows = []
    for index, pair in sorted(moments.items()):
        cells = [f"<th>frame&nbsp;{index}<br>{pair.seconds:.1f}&nbsp;s</th>", _picture(pair.before, "source")]
        for column in columns:
            found = dict(column.people.get(person, ())).get(index)
            cells.append(_picture(found.after, column.name) if found else "<td></td>")
        rows.append(f"<tr>{''.join(cells)}</tr>")
    return [
        f"<h2>Person {person}</h2>",
        f'<div class="moments"><table><tr>{titles}</tr>{"".join(rows)}</table></div>',
    ]


def _picture(content: bytes, caption: str) -> str:
    return f'<td><img alt="{escape(caption)}" src="{address(content)}"></td>'


MOST_MOMENTS = 4
"""Of a person, at most."""
_EVERY = 12
"""Frames between two of them, at first."""


class Moments:
    """Keeps a few pairs of pictures of each person; which frames they are of depends on the followed faces alone."""

    def __init__(self, crop_size: int) -> None:
        """`crop_size`: side in pixels of the crops to which the matrices of faces lead."""
        self._crop_size = crop_size
        self._people: dict[int, Thinned[Pair]] = {}

    def note(self, frame: RestoredFrame, after: av.VideoFrame) -> None:
        """Notes one finished frame; `after` is the picture with its restored faces."""
        original = frame.tracked.frame
        for face in frame.tracked.faces:
            if face.person_id is None or not face.strength:
                continue
            kept = self._people.setdefault(face.person_id, Thinned(MOST_MOMENTS, _EVERY))
            if kept.wants(original.index):
                seconds = float(original.pts * original.time_base)
                pair = large_pair(original.native, after, face.matrix, self._crop_size, seconds)
                kept.keep(original.index, pair)

    def merged(self, current: Callable[[int], int | None]) -> dict[int, list[tuple[int, Pair]]]:
        """Frame and pictures, by the id a person has now (of `current`)."""
        people: dict[int, Thinned[Pair]] = {}
        for person, kept in sorted(self._people.items()):
            if (now := current(person)) is not None:
                people.setdefault(now, Thinned(MOST_MOMENTS, _EVERY)).join(kept)
        return {person: kept.all() for person, kept in people.items()}
