"""The page of a trial: a table of figures per setting, and the same frames of each person side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from html import escape

import av

import configs
from pipeline.config import PipelineConfig
from pipeline.frames import RestoredFrame
from pipeline.media.files import PartialFile
from pipeline.report.counts import Report
from pipeline.report.diary import Pair, address, large_pair
from pipeline.report.page import STYLE, document
from pipeline.report.series import Thinned

MOST_PEOPLE = 6
"""Maximum people shown; those with the most frames first."""

_STYLE = (
    STYLE
    + "body { max-width: 96%; } .moments { overflow-x: auto; } .moments th { overflow-wrap: normal; }\n"
    + ".moments img { width: 224px; height: auto; display: block; }\n"
)


@dataclass(frozen=True, slots=True)
class Column:
    """One setting."""

    name: str
    report: Report
    people: Mapping[int, Sequence[tuple[int, Pair]]]
    """Frame index and pictures, by person."""


def write_page(file: PartialFile, input_name: str, columns: Sequence[Column], config: PipelineConfig) -> None:
    """Writes the page to `file`. Raises SinkError; then nothing is left."""
    # File names may hold bytes that UTF-8 cannot encode.
    file.write(render(input_name, columns, configs.dump(config)).encode("utf-8", "backslashreplace"))


def render(input_name: str, columns: Sequence[Column], settings: str) -> str:
    """The whole page; it loads nothing."""
    parts = [
        _figures(columns),
        "<p class=\"note\">Likeness is the cosine to the person's references by the gate's encoder, at full strength, "
        "mean of all people; held back: faces that would no longer resemble the person.</p>",
        *_people(columns),
        f"<h2>Settings</h2><details><summary>all settings of the first</summary><pre>{escape(settings)}"
        "</pre></details>",
    ]
    return document(f"anchorface: a trial on {input_name}", parts, _STYLE)


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
"""Maximum frames per person."""
_EVERY = 12
"""Initial distance in frames."""


class Moments:
    """Keeps a few pairs of pictures per person. The choice of frames depends on the tracked faces only."""

    def __init__(self, crop_size: int) -> None:
        """`crop_size`: side in pixels of the crops that the faces' matrices lead to."""
        self._crop_size = crop_size
        self._people: dict[int, Thinned[Pair]] = {}

    def note(self, frame: RestoredFrame, after: av.VideoFrame) -> None:
        """Adds one finished frame; `after` is the picture with its restored faces."""
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
        """Frame index and pictures by present id of the person, as `current` maps it."""
        people: dict[int, Thinned[Pair]] = {}
        for person, kept in sorted(self._people.items()):
            if (now := current(person)) is not None:
                people.setdefault(now, Thinned(MOST_MOMENTS, _EVERY)).join(kept)
        return {person: kept.all() for person, kept in people.items()}
