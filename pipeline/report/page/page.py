"""`--report FILE.html`: what a run did to whom, as one page that can be passed on and opened without a network."""

from __future__ import annotations

import os
from pathlib import Path

import av

import configs
from configs import ConfigError
from pipeline.config import PipelineConfig
from pipeline.errors import SinkError
from pipeline.frames import RestoredFrame
from pipeline.media.files import PartialFile
from pipeline.report.counts import Report
from pipeline.report.page.diary import NOBODY, Diary, Entry
from pipeline.report.page.facts import GATE, versions, weights, witness_weights
from pipeline.report.page.markup import Contents, Person, render
from pipeline.report.page.pictures import small
from pipeline.report.page.witness import find_witness
from trackers.people import People


class ReportPage:
    """Notes every finished frame, and writes the page when the run has ended."""

    def __init__(self, path: Path, *, input: Path, output: Path, config: PipelineConfig) -> None:
        """Raises `ConfigError` for a name that is no page's or the output's, `SinkError` where it cannot be written."""
        if path.suffix.lower() not in (".html", ".htm"):
            raise ConfigError(f"--report: {path} must end in .html")
        if os.path.abspath(path) == os.path.abspath(output):
            raise ConfigError(f"--report: {path} is the output itself; give another name")
        self._file = PartialFile(path, source=input, overwrite=config.output.overwrite)
        self._input, self._config = input, config
        self._diary = Diary(config.blend.strength, find_witness())
        # Now: the list of people may have changed when the run has ended.
        self._weights = weights(config)

    def note(self, frame: RestoredFrame, after: av.VideoFrame) -> None:
        """Notes one frame and the picture with its restored faces."""
        self._diary.write(frame, after)

    def write(self, report: Report, people: People) -> None:
        """Writes the page. `people`: as they are known at the end."""
        witness = self._diary.witness
        contents = Contents(
            input_name=self._input.name,
            report=report,
            people=[
                _person(number, entry, people, has_gallery=self._config.input.people is not None)
                for number, entry in self._diary.merged(people.current).items()
            ],
            settings=configs.dump(self._config),
            versions=versions(),
            weights=[*self._weights, *(witness_weights() if witness is not None else [])],
            witness=witness.name if witness is not None else "",
            gated=any(each.part == GATE for each in self._weights),
        )
        # Names of files need not be text that UTF-8 can say.
        text = render(contents).encode("utf-8", "backslashreplace")
        self._file.create()
        try:
            self._file.path.write_bytes(text)
            self._file.commit()
        except OSError as error:
            self._file.discard()
            reason = (error.strerror or str(error)).lower()
            raise SinkError(f"{self._file.target}: cannot be written ({reason})") from error
        except BaseException:
            self._file.discard()
            raise


def _person(number: int, entry: Entry, people: People, *, has_gallery: bool) -> Person:
    if number == NOBODY:
        return Person(number, entry)
    views = people.references(number).views
    photo = next((str(view.source) for view in views if view.pinned), "")
    references = [(view.origin, small(view.crop)) for view in views]
    # Those of a first pass over the film have names of no meaning.
    return Person(number, entry, references, photo, people.name_of(number) if has_gallery else "")
