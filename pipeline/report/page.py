"""`--report FILE.html`: what a run did to each person, as one self-contained HTML page.

Every text from outside (names of files and people, settings, warnings) goes through `escape`. The page's content
security policy allows its own style, script and pictures only.
"""

from __future__ import annotations

import base64
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path

import av

import configs
from configs import ConfigError
from pipeline.config import PipelineConfig
from pipeline.frames import RestoredFrame
from pipeline.media.files import PartialFile
from pipeline.report.counts import Report
from pipeline.report.diary import NOBODY, Diary, Entry, Pair, address, find_witness, small
from pipeline.report.provenance import GATE, Weights, versions, weights, witness_weights
from pipeline.report.series import likeness_chart, reason_legend, strength_chart
from trackers.people import People

MOST_PEOPLE = 20
"""Maximum people shown with pictures; those in the most frames first."""

STYLE = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
_SCRIPT = Path(__file__).with_name("page.js").read_text(encoding="utf-8")
_REASONS = (
    "identity: the restored face no longer resembled the person; covered, profile, small, lost: the face cannot be "
    "restored reliably; easing: transition between the two"
)


@dataclass(frozen=True, slots=True)
class Person:
    """What is shown of one person."""

    number: int
    """`NOBODY` for faces that were not identified."""
    entry: Entry
    references: Sequence[tuple[str, bytes]] = ()
    """Caption and JPEG of each view at the end."""
    photo: str = ""
    """Name of a photo of this person, given by the user."""
    name: str = ""
    """From the user's list of people."""


@dataclass(frozen=True, slots=True)
class Contents:
    """The contents of the page."""

    input_name: str
    report: Report
    people: Sequence[Person]
    settings: str
    versions: Sequence[tuple[str, str]]
    weights: Sequence[Weights]
    witness: str
    """The recogniser beside the gate's that measured likeness; empty = none."""
    gated: bool
    """Whether the gate measured likeness."""


class ReportPage:
    """Collects finished frames and writes the page at the end of the run."""

    def __init__(self, path: Path, *, input: Path, output: Path, config: PipelineConfig) -> None:
        """Raises ConfigError for a name that is not .html or is the output's, SinkError if it cannot be written."""
        if path.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"--report: {path} must end in .html")
        if os.path.abspath(path) == os.path.abspath(output):
            raise ConfigError(f"--report: {path} is the output itself; give another name")
        self._file = PartialFile(path, source=input, overwrite=config.output.overwrite)
        self._input, self._config = input, config
        self._diary = Diary(config.blend.strength, find_witness())
        # Read now: the list of people may change during the run.
        self._weights = weights(config)

    def note(self, frame: RestoredFrame, after: av.VideoFrame) -> None:
        """Adds one frame and the picture with its restored faces."""
        self._diary.write(frame, after)

    def write(self, report: Report, people: People) -> None:
        """Writes the page. `people`: the state at the end of the run."""
        witness = self._diary.witness
        contents = Contents(
            input_name=self._input.name,
            report=report,
            people=[
                _shown(number, entry, people, has_gallery=self._config.input.people is not None)
                for number, entry in self._diary.merged(people.current).items()
            ],
            settings=configs.dump(self._config),
            versions=versions(),
            weights=[*self._weights, *(witness_weights() if witness is not None else [])],
            witness=witness.name if witness is not None else "",
            gated=any(each.part == GATE for each in self._weights),
        )
        # File names may hold bytes that UTF-8 cannot encode.
        self._file.write(render(contents).encode("utf-8", "backslashreplace"))


def _shown(number: int, entry: Entry, people: People, *, has_gallery: bool) -> Person:
    if number == NOBODY:
        return Person(number, entry)
    views = people.references(number).views
    photo = next((str(view.source) for view in views if view.pinned), "")
    references = [(view.origin, small(view.crop)) for view in views]
    # The names of a first pass over the film mean nothing.
    return Person(number, entry, references, photo, people.name_of(number) if has_gallery else "")


def render(contents: Contents) -> str:
    """The whole page."""
    report = contents.report
    parts = [
        f"<pre>{escape(_summary(report))}</pre>",
        *[f'<p class="warning">{escape(sentence)}</p>' for sentence in [*report.warnings, *report.damage]],
        f'<p class="note">{escape(_on_measure(contents))}</p>',
        *_people(contents),
        "<h2>Time</h2>",
        _table(("stage", "ms per frame"), [(name, f"{ms:.1f}") for name, ms in report.stage_ms.items()]),
        "<h2>Weights</h2>",
        _table(
            ("part", "file", "sha256", "licence", "trained on"),
            [(w.part, w.file, w.sha256, w.licence, w.origins) for w in contents.weights],
        ),
        "<h2>Versions</h2>",
        _table(("what", "version"), contents.versions),
        f"<h2>Settings</h2><details><summary>all settings</summary><pre>{escape(contents.settings)}</pre></details>",
    ]
    return document(f"anchorface: {contents.input_name}", parts, STYLE, _SCRIPT)


def document(title: str, parts: Sequence[str], style: str, script: str = "") -> str:
    """A whole page of `parts`. Its policy allows this style, this script and embedded pictures only."""
    policy = f"default-src 'none'; img-src data:; style-src '{_sha256(style)}'"
    if script:
        policy += f"; script-src '{_sha256(script)}'"
    head = [
        "<!doctype html>",
        '<html lang="en"><head><meta charset="utf-8">',
        f'<meta http-equiv="Content-Security-Policy" content="{policy}">',
        '<meta name="viewport" content="width=device-width, initial-scale=1">',
        f"<title>{escape(title)}</title><style>{style}</style></head><body>",
        f"<h1>{escape(title)}</h1>",
    ]
    end = (f"<script>{script}</script>" if script else "") + "</body></html>"
    return "\n".join([*head, *parts, end]) + "\n"


def _sha256(text: str) -> str:
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _summary(report: Report) -> str:
    """The summary with the output's name only: its folder may be private."""
    lines = report.summary().splitlines()
    return "\n".join([*lines[:-1], f"output: {Path(report.output).name}"])


def _people(contents: Contents) -> list[str]:
    ordered = sorted(contents.people, key=lambda person: (person.number == NOBODY, -person.entry.faces))
    parts = [part for person in ordered[:MOST_PEOPLE] for part in _person(person, contents)]
    rest = ordered[MOST_PEOPLE:]
    if rest:
        parts.append(f"<h2>{len(rest)} more people</h2>")
        shown = [(_name(person), str(person.entry.faces)) for person in rest[:200]]
        parts.append(_table(("who", "frames"), shown))
    if not ordered:
        parts.append("<p>No face was found.</p>")
    return parts


def _person(person: Person, contents: Contents) -> list[str]:
    entry = person.entry
    parts = [
        f"<h2>{escape(_name(person))}</h2>",
        f"<p>{entry.faces} frames{escape(_means(person, contents.report))}</p>",
    ]
    pairs = entry.chosen.all()
    if pairs:
        parts.append("<h3>Before and after (move the line)</h3>")
        parts.append(f'<div class="pairs">{"".join(_slider(index, pair) for index, pair in pairs)}</div>')
    if person.references:
        figures = "".join(_figure(content, caption) for caption, content in person.references)
        parts.append(
            f'<h3>References</h3><p class="note">{_on_references(person)}</p><div class="strip">{figures}</div>'
        )
    strip = entry.strip.all()
    if strip:
        figures = "".join(
            f"{_figure(pair.after, f'frame {index}', beside=pair.before)}" for index, pair in strip
        )
        parts.append(f'<h3>Input above, result below</h3><div class="strip">{figures}</div>')
    for heading, before, after in (
        ("by the other recogniser, as written", "seen before", "seen after"),
        ("by the gate, at full strength", "before", "after"),
    ):
        chart = likeness_chart(entry.series, before, after)
        if chart:
            parts.append(
                f"<h3>Likeness to the references, {heading}: input grey, result green</h3>{_wide(chart)}"
            )
        elif once := entry.series.line(after):
            was = entry.series.line(before)[0][1]
            parts.append(
                f"<p>Likeness to the references, {heading}: input {was:.3f}, result {once[0][1]:.3f}</p>"
            )
    chart = strength_chart(entry.series)
    if chart:
        legend = reason_legend(entry.series)
        parts.append(f'<h3>Strength</h3>{_wide(chart)}<p class="note">{legend}</p>')
    return parts


def _on_references(person: Person) -> str:
    """The origin of the person's views, which decides what likeness to them means."""
    if person.name:
        return "From the pictures of the list of people, and from clear frames of this film."
    if person.photo:
        return "From --reference, and from clear frames of this film."
    return (
        "All come from this film: likeness to them shows whether restoration kept the person as the film shows them, "
        "not whether it recovered lost detail. Give a clear photo with --reference to measure that."
    )


def _means(person: Person, report: Report) -> str:
    known = report.likeness().get(person.number)
    if known is None:
        return ""
    return f"; likeness to the references by the gate's encoder: input {known[0]:.3f}, result {known[1]:.3f}"


def _on_measure(contents: Contents) -> str:
    if contents.witness:
        measure = (
            f"Likeness was measured by {contents.witness}, which has no part in the restoration or its gate."
        )
    elif contents.gated:
        measure = (
            "Likeness was measured by the embedded encoder, which also drives the gate and trained the restorer: it "
            "grades itself. Install the extra `evaluate` for an independent recogniser."
        )
    else:
        measure = "Likeness was not measured: the gate is off, and no other recogniser is installed."
    return f"{measure} Strength is limited for these reasons: {_REASONS}."


def _name(person: Person) -> str:
    if person.number == NOBODY:
        return "Faces that were not identified"
    name = person.name or person.photo
    return f"Person {person.number}" + (f" ({name})" if name else "")


def _slider(index: int, pair: Pair) -> str:
    caption = f"frame {index}, {pair.seconds:.1f} s"
    return (
        '<figure><div class="slider">'
        f'<img class="before" alt="before" src="{address(pair.before)}">'
        f'<img class="after" alt="after" src="{address(pair.after)}">'
        '<span class="left">before</span><span class="right">after</span>'
        f'<input type="range" min="0" max="100" value="50" aria-label="before and after, {escape(caption)}">'
        f"</div><figcaption>{escape(caption)}</figcaption></figure>"
    )


def _figure(content: bytes, caption: str, *, beside: bytes | None = None) -> str:
    above = f'<img alt="input" src="{address(beside)}">' if beside is not None else ""
    return (
        f'<figure>{above}<img alt="{escape(caption)}" src="{address(content)}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return _wide(f"<table><tr>{titles}</tr>{body}</table>")


def _wide(part: str) -> str:
    """A part that scrolls sideways on narrow screens."""
    return f'<div class="wide">{part}</div>'
