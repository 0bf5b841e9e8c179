"""Stage 3: faces of several frames and tracks are restored together, and frames leave in order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from models.protocols import Masker, Request, Restorer
from pipeline.frames import RestoredFace, RestoredFrame, TrackedFace, TrackedFrame

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestoreConfig:
    """How faces are gathered into batches; no result depends on it."""

    batch_size: int = 8
    """Faces restored in one call."""
    max_waiting: int = 16
    """Frames that may wait for a batch to fill; 0 restores each frame at once."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting must not be negative, got {self.max_waiting}")


@dataclass(slots=True)
class _Waiting:
    """A frame in the queue; `restored` fills up as its faces are restored."""

    frame: TrackedFrame
    faces: list[TrackedFace]
    restored: list[RestoredFace] = field(default_factory=list)

    @property
    def missing(self) -> int:
        return len(self.faces) - len(self.restored)


def restore(
    frames: Iterable[TrackedFrame],
    restorer: Restorer | None,
    config: RestoreConfig,
    masker: Masker | None = None,
) -> Iterator[RestoredFrame]:
    """Restores the faces of `frames`; a face of strength 0 and every face without a restorer passes through."""
    batches = _Batches(restorer, masker, config.batch_size)
    waiting: deque[_Waiting] = deque()
    for frame in frames:
        faces = [] if restorer is None else [face for face in frame.faces if face.strength > 0]
        waiting.append(_Waiting(frame, faces))
        while sum(w.missing for w in waiting) >= config.batch_size or (
            len(waiting) > config.max_waiting and waiting[0].missing
        ):
            batches.restore_oldest(waiting)
        yield from _leave(waiting)
    while any(w.missing for w in waiting):
        batches.restore_oldest(waiting)
    yield from _leave(waiting)


def _leave(waiting: deque[_Waiting]) -> Iterator[RestoredFrame]:
    while waiting and not waiting[0].missing:
        done = waiting.popleft()
        yield RestoredFrame(done.frame, tuple(done.restored))


class _Batches:
    """Calls the restorer; remembers a batch size that fits the device's memory."""

    def __init__(self, restorer: Restorer | None, masker: Masker | None, size: int) -> None:
        self._restorer, self._masker = restorer, masker
        self._size = size

    def restore_oldest(self, waiting: Iterable[_Waiting]) -> None:
        chosen = [(w, face) for w in waiting for face in w.faces[len(w.restored) :]][: self._size]
        assert self._restorer is not None
        requests = [Request(face.crop, face.references) for _, face in chosen]
        try:
            results = self._restorer.restore(requests)
        except torch.OutOfMemoryError:
            if self._size == 1:
                raise
            self._size = (self._size + 1) // 2
            logger.warning("the device is out of memory: going on with %d faces a batch", self._size)
            self.restore_oldest(waiting)
            return
        free: Sequence[Tensor | None] = [None] * len(chosen)
        if self._masker is not None:
            free = list(self._masker.mask(torch.stack([face.crop for _, face in chosen])))
        for (frame, face), result, mask in zip(chosen, results, free, strict=True):
            frame.restored.append(RestoredFace(face, result.image, mask))
