"""Stage 4: people keep their identity. Where restoration loses likeness, strength eases down to the input.

Restored keyframes are compared with the person's anchor (`models/recogniser.py`); a carried face has the standing of
its keyframe. Nothing is looked ahead for and nothing depends on batches or threads, so that it serves films, their
parts and live pictures alike. How the thresholds were found: `docs/gate.md`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from models.quality import ramp
from models.recogniser import Likeness, LikenessMeter
from pipeline.frames import RestoredFace, RestoredFrame


@dataclass(frozen=True, slots=True)
class GateConfig:
    """When a restored face is held back because it is no longer the person."""

    enabled: bool = True
    """Compare restored faces with the person."""
    loss: tuple[float, ...] = (0.35, 0.2)
    """Loss of likeness (a difference of cosines): nothing of the restoration is used at the first value, all of it at
    the second."""
    unclear_loss: tuple[float, ...] = (0.75, 0.55)
    """The same where neither a reference nor the film has a clear view of the person. Even a true restoration of a face
    that is damaged so much loses as much likeness as `loss` allows."""
    every: int = 2
    """Interval, in restored keyframes of a track, at which likeness is measured; faces between keep the last value."""
    ease_frames: int = 5
    """Frames over which strength goes down to the input, and comes back."""

    def __post_init__(self) -> None:
        for name in ("loss", "unclear_loss"):
            pair = getattr(self, name)
            if len(pair) != 2 or pair[0] <= pair[1]:
                raise ValueError(f"{name} must be two values, the larger first, got {pair}")
        if self.every < 1:
            raise ValueError(f"every must be at least 1, got {self.every}")
        if self.ease_frames < 0:
            raise ValueError(f"ease_frames must not be negative, got {self.ease_frames}")


@dataclass(frozen=True, slots=True)
class Standing:
    """How a track stands after one of its faces."""

    likeness: Likeness
    """As last measured."""
    allowed: float
    """What was allowed of the face, eased."""
    keyframes: int
    """Keyframes of this track so far."""


class Gate:
    """Remembers how each track stood in the frame before. Frames must come in order."""

    def __init__(self, config: GateConfig, meter: LikenessMeter) -> None:
        self._config, self._meter = config, meter
        self._last: dict[int, Standing] = {}

    @property
    def last(self) -> dict[int, Standing]:
        """The standing of the last frame's tracks: all that later frames depend on."""
        return dict(self._last)

    def go_on_from(self, last: dict[int, Standing]) -> None:
        """Goes on as after the frame whose `last` this is."""
        self._last = dict(last)

    def look(self, frame: RestoredFrame) -> RestoredFrame:
        """`frame` with how much of each restored face may be used.

        A track that is not among its faces is forgotten, and starts afresh when it comes back.
        """
        standings = {face.tracked.track_id: self._standing(face) for face in frame.faces}
        self._last = standings
        faces = [(face, standings[face.tracked.track_id]) for face in frame.faces]
        return replace(
            frame, faces=tuple(replace(face, likeness=s.likeness, allowed=s.allowed) for face, s in faces)
        )

    def _standing(self, face: RestoredFace) -> Standing:
        last = self._last.get(face.tracked.track_id)
        is_key = face.origin == "network"
        if last is None:
            # Nothing was shown before: a track may start held back.
            measured = self._measure(face)
            return Standing(measured, allowed_by(measured, self._config), int(is_key))
        due = is_key and last.keyframes % self._config.every == 0
        measured = self._measure(face) if due else last.likeness
        goal = allowed_by(measured, self._config)
        step = 1 / self._config.ease_frames if self._config.ease_frames else 1.0
        allowed = min(max(goal, last.allowed - step), last.allowed + step)
        return Standing(measured, allowed, last.keyframes + is_key)

    def _measure(self, face: RestoredFace) -> Likeness:
        return self._meter.measure(face.tracked.crop, face.image, face.tracked.references)


def gate(frames: Iterable[RestoredFrame], keeper: Gate) -> Iterator[RestoredFrame]:
    """`frames` with how much of each restored face may be used."""
    for frame in frames:
        yield keeper.look(frame)


def allowed_by(likeness: Likeness, config: GateConfig) -> float:
    """How much of a restoration may be used, in [0, 1]: less, the more of the person it lost."""
    pairs = zip(config.loss, config.unclear_loss, strict=True)
    ends = tuple(unclear + likeness.evidence * (clear - unclear) for clear, unclear in pairs)
    return ramp(likeness.loss, ends)
