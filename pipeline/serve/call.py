"""Restores one browser's camera in the threads of a live run; without parts, or on errors, pictures pass unrestored."""

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
"""Takes a picture and its arrival on `time.monotonic`; called from several threads."""

_CAMERA = Address("camera", "the camera", "the camera")
_UNSPECIFIED, _BT601, _LIMITED = 2, 6, 1
"""FFmpeg's codes of matrices and ranges."""
_KEPT = 32
"""Originals kept for mixing: more than are in work at any time."""
_RECENT = 60
"""Frames over which the displayed delay is taken."""
_RECENT_SECONDS = 2.0
"""Time over which the displayed frame rates are taken."""


class Call:
    """Restores the pictures of one camera. All methods are called by one thread."""

    def __init__(
        self, config: PipelineConfig, choice: Choice, wish: Wish, show: Show, rate: Fraction
    ) -> None:
        """`rate`: frames per second declared by the camera."""
        self.wish = wish
        """Read by other threads, so only ever replaced as a whole."""
        self._config, self._show, self._rate = config, show, rate
        self._came: deque[float] = deque(maxlen=240)
        self._passed = 0
        self._size: tuple[int, int] | None = None
        self._run = self._begin(choice)

    def feed(self, native: av.VideoFrame) -> None:
        """Takes the next picture of the camera. Does not block."""
        now = time.monotonic()
        self._came.append(now)
        try:
            native = planar(_tagged(native), _CAMERA)
        except SourceError as error:
            self._run.problem = str(error)
            return
        if self._size not in (None, (native.width, native.height)):
            # Browsers change the size at any time; earlier faces lose their positions.
            self._restart(self._run.choice)
        self._size = native.width, native.height
        self._run.source.put(native)
        if not self._run.shows:
            self._passed += 1
            self._show(native, now)

    def choose(self, choice: Choice) -> None:
        """Builds other parts; frames pass unrestored until they are ready."""
        if choice != self._run.choice:
            self._restart(choice)

    @property
    def choice(self) -> Choice:
        """Parts in use or being built."""
        return self._run.choice

    def status(self) -> dict[str, Any]:
        """Status for the page."""
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
        """Ends all threads; waits for the restoration in work."""
        self._run.source.end()
        self._run.join()

    def _restart(self, choice: Choice) -> None:
        self._run.source.end()
        self._run = self._begin(choice, self._run)

    def _begin(self, choice: Choice, former: _Run | None = None) -> _Run:
        return _Run(self._config, choice, lambda: self.wish, self._show, self._rate, former)


class _Run:
    """The live run of one choice of parts."""

    def __init__(
        self,
        config: PipelineConfig,
        choice: Choice,
        wish: Callable[[], Wish],
        show: Show,
        rate: Fraction,
        former: _Run | None,
    ) -> None:
        """`former`: the run that must end before this one starts."""
        self.choice = choice
        self.source = _Pictures(rate)
        self.problem = ""
        """Error in one sentence; pictures pass all the same."""
        self.shows = False
        """Whether this run shows the frames."""
        self._config, self._wish, self._show = config, wish, show
        self._report = LiveReport()
        self._delays: deque[float] = deque(maxlen=_RECENT)
        self._went: deque[float] = deque(maxlen=240)
        self._reported = (0, 0)
        self._thread = threading.Thread(target=self._go, args=(former,), name="call", daemon=True)
        self._thread.start()

    def join(self) -> None:
        self._thread.join()

    def status(self) -> dict[str, Any]:
        report, delays = self._report, sorted(self._delays)
        written, restored = report.written, report.restored
        frames, faces = written - self._reported[0], restored - self._reported[1]
        self._reported = (written, restored)
        return {
            "ready": self.shows,
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
            # Two sets of networks would need twice the memory and share the processor.
            former.join()
        try:
            first = self.source.next()
            if first is None:
                return
            parts, config = self._parts()
            quick = quick_beside(parts.restorer, config)
            way = steps(
                restores=parts.restorer is not None,
                has_light=quick.light is not None,
                has_small=quick.small is not None,
            )
            with Worker(Faces(replace(parts, quick=quick), config)) as worker:
                worker.warm_up(Frame(0, 0, TICK, first))
                with Capture(self.source, _never, config.live) as capture:
                    self.shows = True
                    rate = self.source.info.rate
                    sink = _Shown(self._write, capture)
                    run(capture, sink, worker, way, config.live, rate=rate, report=self._report)
        except (ConfigError, CheckpointError, MediaError, ModuleNotFoundError) as error:
            self.problem = self._cleaned(error)
        except Exception:
            logger.exception("restoring a camera failed")
            self.problem = "restoration failed; see the terminal for details"
        finally:
            self.shows = False

    def _parts(self) -> tuple[Parts, PipelineConfig]:
        """The parts of this choice; without its photo if that is unusable."""
        # Built for full strength; the slider reduces it frame by frame.
        config = replace(self._config, blend=replace(self._config.blend, strength=1.0))
        own = chosen(config, self.choice)
        try:
            return build(own, self.source), own
        except MediaError as error:
            if self.choice.photo is None:
                raise
            self.problem = self._cleaned(error)
            own = chosen(config, replace(self.choice, photo=None))
            return build(own, self.source), own

    def _cleaned(self, error: Exception) -> str:
        """The message of `error` with the photo's name instead of its private path."""
        return str(error).replace(str(self.choice.photo), self.choice.photo_name or "the photo")

    def _write(self, picture: av.VideoFrame, came: float) -> None:
        before, wish = self.source.original(picture), self._wish()
        if before is not None:
            # Restoration continues during bypass, so that the comparison is instant.
            picture = mixed(before, picture, 0.0 if wish.bypass else wish.strength)
        now = time.monotonic()
        self._went.append(now)
        self._delays.append(1000 * (now - came))
        self._show(picture, came)


class _Shown(NullSink):
    """Sink that passes pictures on with their arrival."""

    def __init__(self, show: Show, capture: Capture) -> None:
        self._show, self._capture = show, capture

    def write(self, native: av.VideoFrame, pts: int) -> None:
        self._show(native, self._capture.zero + float(pts * TICK))


class _Pictures:
    """A live source fed by another thread. A new picture replaces a waiting one."""

    def __init__(self, rate: Fraction) -> None:
        self.info = LiveInfo(rate, rotation=0, sample_aspect_ratio=None, paced=False, ends=True)
        self._newest = Newest[av.VideoFrame]()
        self._given: deque[av.VideoFrame] = deque(maxlen=_KEPT)

    def original(self, picture: av.VideoFrame) -> av.VideoFrame | None:
        """The original of `picture`, found by its pts; None if it was dropped."""
        return next((native for native in list(self._given) if native.pts == picture.pts), None)

    def put(self, native: av.VideoFrame) -> None:
        self._newest.put(native)

    def end(self) -> None:
        self._newest.end()

    def next(self) -> av.VideoFrame | None:
        """Waits for the next picture; None at the end."""
        try:
            return self._newest.get()
        except StopIteration:
            return None

    def __iter__(self) -> Iterator[av.VideoFrame]:
        while (native := self.next()) is not None:
            self._given.append(native)
            yield native

    def __exit__(self, *error: object) -> None:
        """There is nothing to close."""

    def seconds(self, native: av.VideoFrame) -> float | None:
        return None

    def listen(self, heard: object) -> None:
        """There is no sound."""


def _tagged(native: av.VideoFrame) -> av.VideoFrame:
    """`native` with the default of browsers for missing colour tags: BT.601, limited range (RFC 6386, 9.2)."""
    if native.colorspace == _UNSPECIFIED:
        native.colorspace = native.color_primaries = native.color_trc = _BT601
    native.color_range = native.color_range or _LIMITED
    return native


def _never() -> _Pictures:
    raise SourceError("a browser's camera cannot be reopened by the server")


def _rate(moments: deque[float]) -> float:
    """Frames per second over the last `_RECENT_SECONDS`."""
    since = time.monotonic() - _RECENT_SECONDS
    recent = np.array(list(moments))
    return round(int((recent > since).sum()) / _RECENT_SECONDS, 1)


def mixed(before: av.VideoFrame, after: av.VideoFrame, strength: float) -> av.VideoFrame:
    """Linear mix of two planar 8-bit pictures of one shape: `before` at strength 0, `after` at 1.

    Equal samples keep their value. Changes neither picture.
    """
    if after is before or strength >= 1:
        return after
    if strength <= 0:
        return before
    between = copy_frame(after)
    for old, new in zip(planes_of(before), planes_of(between), strict=True):
        new[...] = cv2.addWeighted(new, strength, old, 1 - strength, 0)
    return between
