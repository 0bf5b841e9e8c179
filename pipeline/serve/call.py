"""One camera's way through the parts of a live run, in threads; what is not ready or fails goes out as it came."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import replace
from fractions import Fraction
from typing import Any

import av
import cv2
import numpy as np

from configs import ConfigError
from models.weights import CheckpointError
from pipeline.config import PipelineConfig
from pipeline.errors import MediaError, SourceError
from pipeline.flow import Parts
from pipeline.frames import Frame
from pipeline.live.addresses import Address
from pipeline.live.capture import TICK, Capture, Newest
from pipeline.live.faces import Faces
from pipeline.live.ladder import steps
from pipeline.live.quick import quick_beside
from pipeline.live.report import LiveReport
from pipeline.live.run import run
from pipeline.live.sinks import NullSink
from pipeline.live.sources import LiveInfo, planar
from pipeline.live.worker import Worker
from pipeline.media.coding import planes_of
from pipeline.pixels.colour import copy_frame
from pipeline.runs.assembly import build
from pipeline.serve.choice import Choice, Wish, chosen

logger = logging.getLogger(__name__)

Show = Callable[[av.VideoFrame, float], None]
"""Takes a picture and the moment, of `time.monotonic`, at which it came; called from several threads."""

_CAMERA = Address("camera", "the camera", "the camera")
_UNTOLD, _BT601, _LIMITED = 2, 6, 1
"""FFmpeg's numbers."""
_KEPT = 32
"""Pictures whose originals are at hand: more than are on their way at any time."""
_RECENT = 60
"""Frames that the shown delay is taken over."""
_RECENT_SECONDS = 2.0
"""The shown frames per second are those of the last so many."""


class Call:
    """Restores the pictures of one camera. Belongs to one thread, which calls all of its methods."""

    def __init__(
        self, config: PipelineConfig, choice: Choice, wish: Wish, show: Show, rate: Fraction
    ) -> None:
        """`rate`: frames per second that the camera promises."""
        self.wish = wish
        """Read by other threads; replaced as a whole."""
        self._config, self._show, self._rate = config, show, rate
        self._came: deque[float] = deque(maxlen=240)
        self._passed = 0
        self._size: tuple[int, int] | None = None
        self._run = self._begin(choice)

    def feed(self, native: av.VideoFrame) -> None:
        """Takes the next picture of the camera. Never waits."""
        now = time.monotonic()
        self._came.append(now)
        try:
            native = planar(_tagged(native), _CAMERA)
        except SourceError as error:
            self._run.problem = str(error)
            return
        if self._size not in (None, (native.width, native.height)):
            # Browsers change it at will; nothing of what was seen before has its place any more.
            self._restart(self._run.choice)
        self._size = native.width, native.height
        self._run.source.put(native)
        if not self._run.goes:
            self._passed += 1
            self._show(native, now)

    def choose(self, choice: Choice) -> None:
        """Builds other parts; until they are ready frames go out as they came."""
        if choice != self._run.choice:
            self._restart(choice)

    @property
    def choice(self) -> Choice:
        """What is restored with, or being made ready."""
        return self._run.choice

    def status(self) -> dict[str, Any]:
        """How it goes, for the page."""
        return {
            "restorer": self._run.choice.restorer,
            "photo": self._run.choice.photo_name,
            "strength": self.wish.strength,
            "bypass": self.wish.bypass,
            "rate_in": _rate(self._came),
            "passed": self._passed,
            **self._run.status(),
        }

    def close(self) -> None:
        """Ends all threads; may wait for a restoration that is being made."""
        self._run.source.end()
        self._run.join()

    def _restart(self, choice: Choice) -> None:
        self._run.source.end()
        self._run = self._begin(choice, self._run)

    def _begin(self, choice: Choice, former: _Run | None = None) -> _Run:
        return _Run(self._config, choice, lambda: self.wish, self._show, self._rate, former)


class _Run:
    """A live run of its own for each choice of parts."""

    def __init__(
        self,
        config: PipelineConfig,
        choice: Choice,
        wish: Callable[[], Wish],
        show: Show,
        rate: Fraction,
        former: _Run | None,
    ) -> None:
        """`former`: the run whose place this one takes, once it has ended."""
        self.choice = choice
        self.source = _Pictures(rate)
        self.problem = ""
        """One sentence on what went wrong; the camera's pictures go out all the same."""
        self.goes = False
        """Frames are shown by this run."""
        self._config, self._wish, self._show = config, wish, show
        self._report = LiveReport()
        self._delays: deque[float] = deque(maxlen=_RECENT)
        self._went: deque[float] = deque(maxlen=240)
        self._told = (0, 0)
        self._thread = threading.Thread(target=self._go, args=(former,), name="call", daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def status(self) -> dict[str, Any]:
        report, delays = self._report, sorted(self._delays)
        written, restored = report.written, report.restored
        frames, faces = written - self._told[0], restored - self._told[1]
        self._told = (written, restored)
        return {
            "ready": self.goes,
            "problem": self.problem,
            "step": report.step,
            "delay_ms": round(delays[len(delays) // 2]) if delays else None,
            "delay_p95_ms": round(delays[min(int(0.95 * len(delays)), len(delays) - 1)]) if delays else None,
            "rate_out": _rate(self._went),
            "dropped": report.dropped,
            "late": report.late,
            "errors": report.errors,
            "restored_share": round(min(faces / frames, 1.0), 2) if frames else 0.0,
        }

    def _go(self, former: _Run | None) -> None:
        if former is not None:
            # Two runs' networks at a time would need twice the memory, and share the processor.
            former.join()
        try:
            first = self.source.first()
            if first is None:
                return
            parts, config = self._parts()
            quick = quick_beside(parts.restorer, config)
            way = steps(
                restores=parts.restorer is not None,
                has_light=quick.light is not None,
                has_small=quick.small is not None,
            )
            with Worker(Faces(parts, quick, config)) as worker:
                worker.warm_up(Frame(0, 0, TICK, first))
                with Capture(self.source, _never, config.live) as capture:
                    self.goes = True
                    rate = self.source.info.rate
                    sink = _Shown(self._write, capture)
                    run(capture, sink, worker, way, config.live, rate=rate, report=self._report)
        except (ConfigError, CheckpointError, MediaError, ModuleNotFoundError) as error:
            self.problem = self._cleaned(error)
        except Exception:
            logger.exception("restoring a camera has failed")
            self.problem = "restoring has failed; the terminal tells more"
        finally:
            self.goes = False

    def _parts(self) -> tuple[Parts, PipelineConfig]:
        """The parts of this choice; without its photo where that cannot be used."""
        # The slider takes strength back from full, frame by frame.
        config = replace(self._config, blend=replace(self._config.blend, strength=1.0))
        ours = chosen(config, self.choice)
        try:
            return build(ours, self.source), ours
        except MediaError as error:
            if self.choice.photo is None:
                raise
            self.problem = self._cleaned(error)
            ours = chosen(config, replace(self.choice, photo=None))
            return build(ours, self.source), ours

    def _cleaned(self, error: Exception) -> str:
        """Where a photo lies is nobody's business."""
        return str(error).replace(str(self.choice.photo), self.choice.photo_name or "the photo")

    def _write(self, picture: av.VideoFrame, came: float) -> None:
        before, wish = self.source.original(picture), self._wish()
        if before is not None:
            # Restoring goes on where its result is not shown, so that a comparison is instant.
            picture = mixed(before, picture, 0.0 if wish.bypass else wish.strength)
        now = time.monotonic()
        self._went.append(now)
        self._delays.append(1000 * (now - came))
        self._show(picture, came)


class _Shown(NullSink):
    """The end of a live run."""

    def __init__(self, show: Show, capture: Capture) -> None:
        self._show, self._capture = show, capture

    def write(self, native: av.VideoFrame, pts: int) -> None:
        self._show(native, self._capture.zero + float(pts * TICK))


class _Pictures:
    """A live source that is fed from another thread. A next picture takes the place of one that waits."""

    def __init__(self, rate: Fraction) -> None:
        self.info = LiveInfo(rate, rotation=0, sample_aspect_ratio=None, paced=False, ends=True)
        self._newest = Newest[av.VideoFrame]()
        self._given: deque[av.VideoFrame] = deque(maxlen=_KEPT)

    def original(self, picture: av.VideoFrame) -> av.VideoFrame | None:
        """What `picture` was made of, which has the same time; None where that is long gone."""
        return next((native for native in list(self._given) if native.pts == picture.pts), None)

    def put(self, native: av.VideoFrame) -> None:
        self._newest.put(native)

    def end(self) -> None:
        self._newest.end()

    def first(self) -> av.VideoFrame | None:
        """The first picture, once it is there; None where none will come."""
        try:
            return self._newest.get()
        except StopIteration:
            return None

    def __iter__(self) -> Iterator[av.VideoFrame]:
        while (native := self.first()) is not None:
            self._given.append(native)
            yield native

    def __exit__(self, *error: object) -> None:
        """Nothing is left open."""

    def seconds(self, native: av.VideoFrame) -> float | None:
        return None

    def listen(self, heard: object) -> None:
        """Pictures alone come from here."""


def _tagged(native: av.VideoFrame) -> av.VideoFrame:
    """`native` with the colours that browsers send where they do not say: BT.601, limited range (RFC 6386, 9.2)."""
    if native.colorspace == _UNTOLD:
        native.colorspace = native.color_primaries = native.color_trc = _BT601
    native.color_range = native.color_range or _LIMITED
    return native


def _never() -> _Pictures:
    raise SourceError("a browser's camera is not opened anew from here")


def _rate(moments: deque[float]) -> float:
    """Frames per second of late."""
    since = time.monotonic() - _RECENT_SECONDS
    recent = np.array(list(moments))
    return round(int((recent > since).sum()) / _RECENT_SECONDS, 1)


def mixed(before: av.VideoFrame, after: av.VideoFrame, strength: float) -> av.VideoFrame:
    """`after` for `strength` 1, `before` for 0, and what lies between; of equal shape, 8 bits, planar.

    Samples that are equal in both keep their value. Writes into neither.
    """
    if after is before or strength >= 1:
        return after
    if strength <= 0:
        return before
    between = copy_frame(after)
    for old, new in zip(planes_of(before), planes_of(between), strict=True):
        new[...] = cv2.addWeighted(new, strength, old, 1 - strength, 0)
    return between
