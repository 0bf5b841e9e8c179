"""One clip through all settings: faces are tracked once, and every row is measured at the same places.

A moving face has a warping error of its own, most of which survives blurring. The row of the softened ground truth
shows it: the excess of a restoration over this row is flicker, a deficit is lost motion of the face.
"""

from __future__ import annotations

import re
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from itertools import repeat

import av
import numpy as np

import configs
from configs import ConfigError
from models.protocols import Request, Restorer, Result
from pipeline.config import PipelineConfig
from pipeline.errors import SourceError
from pipeline.evaluation.clips import Clip
from pipeline.evaluation.measures import Place, regions, sharpness, window_around
from pipeline.evaluation.meter import Instruments, Meter
from pipeline.evaluation.scores import ClipScores, Metric, Row
from pipeline.flow import Chain, Hooks, run
from pipeline.frames import Frame, TrackedFrame
from pipeline.media.source import FileSource
from pipeline.pixels.colour import luma_region, through_filters
from pipeline.pixels.geometry import Geometry
from pipeline.report.counts import Report
from pipeline.runs.assembly import build
from pipeline.stages.track import track

_SIGMAS = tuple(float(sigma) for sigma in np.geomspace(0.4, 12.8, 11))
_FRAME_STEP = 5
"""Step between the frames on which the blur is fitted."""


SOURCE, TRUTH, SOFT_TRUTH, DEFAULT = "source", "ground truth", "softened truth", "as configured"


def softened(native: av.VideoFrame, sigma: float) -> av.VideoFrame:
    """`native` after a Gaussian blur of `sigma` pixels, in its pixel format; `native` itself at 0."""
    return through_filters(native, ("gblur", f"sigma={sigma:.4f}:steps=3")) if sigma else native


def softening(truth: Iterable[Frame], places: Sequence[Sequence[Place]], wanted: float) -> float:
    """Sigma in pixels of the blur that reduces the faces of `truth` to the mean sharpness `wanted`.

    0 without faces, or if they are not sharper than that.
    """
    energies: list[list[float]] = []
    for index, (frame, faces) in enumerate(zip(truth, places, strict=False)):
        if index % _FRAME_STEP == 0 and faces:
            pictures = [softened(frame.native, sigma) for sigma in (0.0, *_SIGMAS)]
            energies += [_sharpness_of(pictures, place) for place in faces]
    if not energies:
        return 0.0
    means = np.nanmean(np.asarray(energies), axis=0)
    if not means[0] > wanted:
        return 0.0
    # Interpolated in logarithms, in which the relation is nearly linear.
    return float(np.exp(np.interp(-np.log(wanted), -np.log(means[1:]), np.log(_SIGMAS))))


def _sharpness_of(pictures: Sequence[av.VideoFrame], place: Place) -> list[float]:
    """Sharpness of one face in each of `pictures`; NaN if the face is too small."""
    window = window_around([place.matrix], pictures[0].width, pictures[0].height)
    face, _ = regions(place.matrix, window)
    found = [
        sharpness(luma_region(native, window.left, window.top, window.right, window.bottom), face)
        for native in pictures
    ]
    return [np.nan if value is None else value for value in found]


@dataclass(frozen=True, slots=True)
class Trial:
    """One setting to measure."""

    name: str
    config: PipelineConfig


def read_trials(texts: Sequence[str], common: Sequence[str]) -> list[Trial]:
    """Parses `NAME:a.b=c,d.e=f` on top of the `common` changes; without texts, one trial with these alone.

    Only a comma before another `name=` separates changes. Raises ConfigError.
    """
    trials: list[Trial] = []
    for text in texts or [f"{DEFAULT}:"]:
        name, colon, changes = text.partition(":")
        name = name.strip()
        if (
            not colon
            or not name
            or name in (SOURCE, TRUTH, SOFT_TRUTH)
            or name in [trial.name for trial in trials]
        ):
            raise ConfigError(
                f"a row must look like NAME:blend.steadiness=0,blend.grain=0, with a unique name "
                f"other than {SOURCE!r}, {SOFT_TRUTH!r} and {TRUTH!r}, got {text!r}"
            )
        own = [change for change in re.split(r",(?=\s*[\w.]+\s*=)", changes) if change.strip()]
        trials.append(Trial(name, configs.load(PipelineConfig, None, [*common, *own])))
    return trials


def measure_clip(
    clip: Clip, common: PipelineConfig, trials: Sequence[Trial], instruments: Instruments
) -> ClipScores:
    """Rows of the source, of each trial and of the ground truth, if any: softened as the first trial, and as is.

    Raises SourceError where no face can be followed.
    """
    survey = _survey(clip, common, instruments)
    faces = sum(len(places) for places in survey.places)
    if not faces:
        raise SourceError(
            f"{clip.name}: no face in it is followed and trusted, so there is nothing to measure"
        )
    rows = [survey.source, *(_restored(clip, trial, survey, instruments) for trial in trials)]
    if survey.truth is not None and clip.truth is not None:
        rows += [_soft_truth(clip.truth, survey, instruments, rows[1]), survey.truth]
    flow_from = TRUTH if clip.truth is not None else SOURCE
    count = len(survey.places)
    return ClipScores(clip.name, clip.damage, flow_from, count, faces, survey.seconds, tuple(rows))


@dataclass(frozen=True, slots=True, eq=False)
class _Survey:
    """Result of the first pass over a clip."""

    places: list[tuple[Place, ...]]
    """Faces of each frame."""
    geometry: Geometry
    source: Row
    truth: Row | None
    seconds: float


def _survey(clip: Clip, common: PipelineConfig, instruments: Instruments) -> _Survey:
    """Tracks the faces of the ground truth, or else of the source, and measures both."""
    # Without a restorer the crop size does not depend on it.
    config = replace(common, restorer=replace(common.restorer, kind="none"))
    source = clip.source(config)
    perception = build(config, source).perception
    geometry = perception.geometry
    before = Meter(SOURCE, instruments, geometry)
    truth = Meter(TRUTH, instruments, geometry) if clip.truth is not None else None
    places: list[tuple[Place, ...]] = []
    followed = track(clip.truth or source, perception, config.track, crops=False)
    seconds = 0.0
    with closing(_frames(source if clip.truth is not None else None)) as degraded:
        for tracked, other in zip(followed, degraded, strict=False):
            native = tracked.frame.native
            seconds = float(tracked.frame.pts * tracked.frame.time_base)
            places.append(_places(tracked, instruments, geometry, judged=truth is not None))
            if truth is None or other is None:
                before.add(native, places[-1], reference=native)
            else:
                before.add(other.native, places[-1], reference=native, truth=native)
                truth.add(native, places[-1], reference=native)
    return _Survey(places, geometry, before.row, truth.row if truth else None, seconds)


def _places(
    tracked: TrackedFrame, instruments: Instruments, geometry: Geometry, *, judged: bool
) -> tuple[Place, ...]:
    """The faces that the pipeline would restore; if `judged`, with their target embeddings."""
    places = [Place(f.track_id, f.face, f.matrix) for f in tracked.faces if f.strength > 0]
    if not judged:
        return tuple(places)
    targets = instruments.embed(tracked.frame.native, places, geometry)
    return tuple(replace(place, target=target) for place, target in zip(places, targets, strict=True))


def _restored(clip: Clip, trial: Trial, survey: _Survey, instruments: Instruments) -> Row:
    """The row of one trial."""
    # One thread, so that restoring and measuring do not compete for time.
    config = replace(trial.config, depth=0)
    source = clip.source(config)
    parts = build(config, source)
    restorer = CountingRestorer(parts.restorer) if parts.restorer is not None else None
    meter = Meter(trial.name, instruments, survey.geometry)
    report = Report()
    with closing(_frames(clip.truth)) as truth:
        sink = _MeasuringSink(meter, iter(survey.places), truth)
        parts = replace(parts, restorer=restorer)
        run(source, sink, Chain(parts, config), Hooks(report, arrange=sink.arrange))
    row = meter.row
    row.restored = report.restored
    row.seconds = sum(spent for stage, spent in report.stage_seconds.items() if stage != "encode")
    if restorer is not None:
        row.calls, row.given = restorer.calls, restorer.faces
    return row


def _soft_truth(truth: FileSource, survey: _Survey, instruments: Instruments, like: Row) -> Row:
    """The row of the ground truth softened to the sharpness of the row `like`."""
    sigma = softening(truth, survey.places, like.mean(Metric.SHARPNESS) or 0.0)
    meter = Meter(SOFT_TRUTH, instruments, survey.geometry)
    for frame, places in zip(truth, survey.places, strict=False):
        native = frame.native
        meter.add(softened(native, sigma), places, reference=native, truth=native)
    return meter.row


class CountingRestorer:
    """Counts the calls and faces of `restorer`."""

    def __init__(self, restorer: Restorer) -> None:
        self._restorer = restorer
        self.needs = restorer.needs
        self.calls = 0
        self.faces = 0

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        """Results of the restorer."""
        self.calls += 1
        self.faces += len(requests)
        return self._restorer.restore(requests)


class _MeasuringSink:
    """Sink that measures each restored picture."""

    def __init__(
        self, meter: Meter, places: Iterator[tuple[Place, ...]], truth: Iterator[Frame | None]
    ) -> None:
        self._meter, self._places, self._truth = meter, places, truth
        self._before: av.VideoFrame | None = None

    def arrange(self, before: av.VideoFrame, after: av.VideoFrame) -> av.VideoFrame:
        self._before = before
        return after

    def write(self, native: av.VideoFrame, pts: int) -> None:
        truth = next(self._truth)
        target = truth.native if truth is not None else None
        reference = self._before if target is None else target
        assert reference is not None
        self._meter.add(native, next(self._places), reference=reference, truth=target)


def _frames(source: Iterable[Frame] | None) -> Generator[Frame | None, None, None]:
    """Frames of a source; without one, endless None."""
    yield from repeat(None) if source is None else source
