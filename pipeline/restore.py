"""Stage 3: faces of several frames and tracks are restored together, and frames leave in order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor

from models.protocols import Masker, Request, Restorer
from pipeline.frames import RestoredFace, RestoredFrame, TrackedFace, TrackedFrame
from pipeline.reuse import Planned, Reuse

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestoreConfig:
    """How faces are gathered into batches, on which no result depends, and what is used again."""

    batch_size: int = 8
    """Faces restored in one call."""
    max_waiting: int = 16
    """Frames that may wait for a batch to fill; 0 restores each frame at once."""
    reuse: bool = True
    """Use what was restored again in later frames: fewer faces to restore, and calmer ones. Without it every face
    is restored by itself, and nothing is steadied."""
    reuse_motion: Literal["flow", "none"] = "flow"
    """What carries a restored face into the next frame: `flow` follows the motion in the face; `none` leaves it
    where it lies in the aligned crop (for comparison)."""
    most_carried: int = 2
    """Faces carried on after one that was restored, at most."""
    most_still: int = 12
    """The same while nothing moves at all."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting must not be negative, got {self.max_waiting}")
        if self.reuse_motion not in ("flow", "none"):
            raise ValueError(f"reuse_motion must be flow or none, got {self.reuse_motion!r}")
        for name in ("most_carried", "most_still"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(slots=True)
class _Waiting:
    """A frame in the queue; `results` fills up as those of its faces that are not carried are restored."""

    frame: TrackedFrame
    faces: list[Planned]
    results: list[Tensor] = field(default_factory=list)

    @property
    def asked(self) -> list[TrackedFace]:
        """The faces that need the restorer."""
        return [face.tracked for face in self.faces if face.asks]

    @property
    def missing(self) -> int:
        return len(self.asked) - len(self.results)


def restore(
    frames: Iterable[TrackedFrame],
    restorer: Restorer | None,
    config: RestoreConfig,
    masker: Masker | None = None,
    steadiness: float = 0.0,
    reuse: Reuse | None = None,
) -> Iterator[RestoredFrame]:
    """Restores the faces of `frames`; a face of strength 0 and every face without a restorer passes through.

    `steadiness` in [0, 1): share of the frame before that is used where a face did not change. `reuse`: what is known
    of earlier frames (of `make_reuse`), which goes on here; None begins afresh.
    """
    batches = _Batches(restorer, config.batch_size)
    reuse = reuse or make_reuse(config, steadiness)
    waiting: deque[_Waiting] = deque()
    for frame in frames:
        faces = [] if restorer is None else [face for face in frame.faces if face.strength > 0]
        waiting.append(_Waiting(frame, reuse.plan(faces)))
        while sum(w.missing for w in waiting) >= config.batch_size or (
            len(waiting) > config.max_waiting and waiting[0].missing
        ):
            batches.restore_oldest(waiting)
        yield from _leave(waiting, reuse, masker)
    while any(w.missing for w in waiting):
        batches.restore_oldest(waiting)
    yield from _leave(waiting, reuse, masker)


def make_reuse(config: RestoreConfig, steadiness: float) -> Reuse:
    """What remembers restored faces as `config` asks for it."""
    if not config.reuse:
        return Reuse(most_carried=0, most_still=0, steadiness=0)
    return Reuse(
        most_carried=config.most_carried,
        most_still=config.most_still,
        steadiness=steadiness,
        follow=config.reuse_motion == "flow",
    )


def _leave(waiting: deque[_Waiting], reuse: Reuse, masker: Masker | None) -> Iterator[RestoredFrame]:
    while waiting and not waiting[0].missing:
        done = waiting.popleft()
        results = iter(done.results)
        images = [reuse.finish(face, next(results) if face.asks else None) for face in done.faces]
        masks: Sequence[Tensor | None] = [None] * len(images)
        if masker is not None and images:
            masks = list(masker.mask(torch.stack([face.tracked.crop for face in done.faces])))
        faces = [
            RestoredFace(face.tracked, image, mask, face.origin)
            for face, image, mask in zip(done.faces, images, masks, strict=True)
        ]
        yield RestoredFrame(done.frame, tuple(faces))


class _Batches:
    """Calls the restorer; remembers a batch size that fits the device's memory."""

    def __init__(self, restorer: Restorer | None, size: int) -> None:
        self._restorer = restorer
        self._size = size

    def restore_oldest(self, waiting: Iterable[_Waiting]) -> None:
        chosen = [(w, face) for w in waiting for face in w.asked[len(w.results) :]][: self._size]
        assert self._restorer is not None
        requests = [Request(face.crop, face.references, restorer=face.restorer) for _, face in chosen]
        try:
            results = self._restorer.restore(requests)
        except torch.OutOfMemoryError:
            if self._size == 1:
                raise
            self._size = (self._size + 1) // 2
            logger.warning("the device is out of memory: going on with %d faces a batch", self._size)
            self.restore_oldest(waiting)
            return
        for (frame, _), result in zip(chosen, results, strict=True):
            frame.results.append(result.image)
