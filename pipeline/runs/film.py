"""One film, photo or folder of photos, restored from file to file. `restore_video` is the library's front door."""

from __future__ import annotations

import os
from contextlib import nullcontext
from pathlib import Path

import av

from configs import ConfigError
from models.protocols import uses_references
from pipeline.config import PipelineConfig
from pipeline.flow import Note, Watch, keep_after, leave_unnoted, run
from pipeline.frames import RestoredFrame
from pipeline.media.layout import side_by_side
from pipeline.report.counts import Report
from pipeline.report.manifest import load_credentials, sign
from pipeline.report.page.page import ReportPage
from pipeline.report.references_log import ReferencesLog
from pipeline.runs.assembly import Open, build, open_sink, open_source
from pipeline.runs.chunks.resume import restore_in_chunks


def restore_video(
    input: Path | str,
    output: Path | str,
    config: PipelineConfig | None = None,
    *,
    opened: Open = lambda source: None,
    watch: Watch = lambda report: None,
) -> Report:
    """Restores the faces of a video, a photo or a folder of photos.

    `opened` is called once with the source (its `info` tells length and size), `watch` after each frame with the
    counts so far. Raises ConfigError, CheckpointError, SourceError or SinkError, each with one clear sentence;
    then, and when interrupted, nothing is left under the name `output` (but a film that could not be signed). With
    `chunks.resume`, several `chunks.workers` or a cluster (`chunks.ray`), finished chunks are kept beside it, and the
    same call with `chunks.resume` goes on from there.
    """
    config = config or PipelineConfig()
    input, output = Path(input), Path(output)
    signer = config.output.c2pa
    credentials = None if signer is None else load_credentials(signer, input, output)
    if config.chunks.asked_for:
        for option, file in (
            ("--report", config.output.report),
            ("--references-log", config.output.references_log),
        ):
            if file is not None:
                raise ConfigError(
                    f"{option} sees a film as a whole; leave it out, or --resume, --workers and --ray"
                )
        report = restore_in_chunks(input, output, config, opened=opened, watch=watch)
    else:
        report = _restore_at_once(input, output, config, opened, watch)
    if credentials is not None:
        sign(output, input, config, report, credentials)
    return report


def _restore_at_once(input: Path, output: Path, config: PipelineConfig, opened: Open, watch: Watch) -> Report:
    source = open_source(input, config)
    # The output is checked first: nobody wants to wait for models and then hear that it exists already.
    sink = open_sink(output, source, config)
    page, log = _open_page(input, output, config), _open_log(input, output, config)
    parts = build(config, source)
    opened(source)
    report = Report(
        output=str(output), uses_references=parts.restorer is None or uses_references(parts.restorer)
    )
    people = parts.perception.people
    arrange = side_by_side if config.output.compare else keep_after
    note = _notes(page, log)
    with sink, log or nullcontext():
        run(source, sink, parts, config, report=report, arrange=arrange, watch=watch, note=note)
        report.damage = list(source.damage)
    report.merge_people(people.current)
    unmatched = [name for person, name in people.photos().items() if person not in report.people]
    report.warnings = [*source.warnings, *sink.warnings]
    report.warnings += [f"the reference {name} matched nobody in {input.name}" for name in unmatched]
    report.warnings += report.missed(config.input.only, input.name)
    if page is not None:
        page.write(report, people)
    return report


def _open_page(input: Path, output: Path, config: PipelineConfig) -> ReportPage | None:
    if config.output.report is None:
        return None
    return ReportPage(config.output.report.expanduser(), input=input, output=output, config=config)


def _open_log(input: Path, output: Path, config: PipelineConfig) -> ReferencesLog | None:
    path, page = config.output.references_log, config.output.report
    if path is None:
        return None
    if page is not None and os.path.abspath(path.expanduser()) == os.path.abspath(page.expanduser()):
        raise ConfigError(f"--references-log: {path} is the page of --report; give another name")
    return ReferencesLog(path.expanduser(), input=input, output=output, overwrite=config.output.overwrite)


def _notes(page: ReportPage | None, log: ReferencesLog | None) -> Note:
    """Tells all who want to hear of every frame."""

    def note(frame: RestoredFrame, after: av.VideoFrame) -> None:
        if page is not None:
            page.note(frame, after)
        if log is not None:
            log.note(frame)

    return note if page is not None or log is not None else leave_unnoted
