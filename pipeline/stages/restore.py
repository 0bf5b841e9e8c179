"""Stage 3: faces of several frames and tracks are restored together, and frames leave in order."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import get_args

import torch
from torch import Tensor

from models.protocols import Masker, Request, Restorer, Result
from pipeline.frames import RestoredFace, RestoredFrame, TrackedFrame
from pipeline.stages.effort import NO_QUICK, Quick
from pipeline.stages.neighbours import Neighbours
from pipeline.stages.reuse import Planned, Reuse, ReuseMotion

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class RestoreConfig:
    """How faces are gathered into batches, which change no result, and which results are used again."""

    batch_size: int = 8
    """Faces restored in one call."""
    max_waiting: int = 16
    """Frames that may wait for a batch to fill; 0 restores each frame at once."""
    reuse: bool = True
    """Use what was restored again in later frames: fewer faces to restore, and calmer ones. Without it every face
    is restored by itself, and nothing is steadied."""
    reuse_motion: ReuseMotion = "flow"
    """What carries a restored face into the next frame: `flow` follows the motion in the face; `quick` follows it in
    a tenth of the time and a little less exactly (live); `none` leaves it where it lies in the aligned crop (for
    comparison)."""
    most_carried: int = 2
    """Faces carried on after one that was restored, at most."""
    most_still: int = 12
    """The same while nothing moves at all."""
    neighbours: int = 4
    """Maximum number of frames before that a restorer gets beside a face, where it uses them; 0: it sees one frame."""
    previous: bool = False
    """Give a restorer that needs it its previous restoration of the face; needs `reuse`."""
    window: int = 1
    """Restored faces of one track that get the same previous restoration. 1 is the steadiest; with more, one person
    fills batches."""

    def __post_init__(self) -> None:
        if self.batch_size < 1:
            raise ValueError(f"batch_size must be at least 1, got {self.batch_size}")
        if self.max_waiting < 0:
            raise ValueError(f"max_waiting must not be negative, got {self.max_waiting}")
        if self.reuse_motion not in get_args(ReuseMotion):
            raise ValueError(f"reuse_motion must be flow, quick or none, got {self.reuse_motion!r}")
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")
        for name in ("most_carried", "most_still", "neighbours"):
            if getattr(self, name) < 0:
                raise ValueError(f"{name} must not be negative, got {getattr(self, name)}")


@dataclass(slots=True)
class _Waiting:
    """A frame in the queue; `results` fills up as those of its faces that are not carried are restored."""

    frame: TrackedFrame
    faces: list[Planned]
    results: dict[int, Result] = field(default_factory=dict)
    """By place in `faces`."""

    @property
    def missing(self) -> list[int]:
        """Places of the faces that the restorer has still to be asked for."""
        return [place for place, face in enumerate(self.faces) if face.asks and place not in self.results]

    @property
    def open(self) -> list[int]:
        """Those of them whose whole request is known."""
        return [place for place in self.missing if self.faces[place].is_open]


def restore(
    frames: Iterable[TrackedFrame],
    restorer: Restorer | None,
    config: RestoreConfig,
    masker: Masker | None = None,
    steadiness: float = 0.0,
    reuse: Reuse | None = None,
    quick: Quick = NO_QUICK,
    neighbours: Neighbours | None = None,
) -> Iterator[RestoredFrame]:
    """Restores the faces of `frames`; a face of strength 0 and every face without a restorer passes through.

    `steadiness` in [0, 1): share of the frame before that is used where a face did not change. `reuse`: what is known
    of earlier frames (of `make_reuse`), which goes on here; None begins afresh. `quick`: the restorers that take the
    place of `restorer` where a frame's effort asks for it. `neighbours`: the frames before (of `make_neighbours`).
    """
    reuse = reuse or make_reuse(config, steadiness, restorer)
    neighbours = neighbours or make_neighbours(config, restorer)
    batches = _Batches(restorer, quick, config.batch_size, reuse, neighbours)
    waiting: deque[_Waiting] = deque()
    for frame in neighbours.gathered(frames):
        faces = [] if restorer is None else [face for face in frame.faces if face.strength > 0]
        waiting.append(_Waiting(frame, reuse.plan(faces, frame.effort, detected=frame.detected)))
        while _is_due(waiting, config):
            batches.restore_oldest(waiting)
            yield from _leave(waiting, reuse, masker)
        yield from _leave(waiting, reuse, masker)
    while waiting:
        # The oldest frame is always open: all that it looks back to has left.
        batches.restore_oldest(waiting)
        yield from _leave(waiting, reuse, masker)


def _is_due(waiting: deque[_Waiting], config: RestoreConfig) -> bool:
    """A batch is full, or the oldest frame has waited long enough."""
    return sum(len(w.open) for w in waiting) >= config.batch_size or bool(
        len(waiting) > config.max_waiting and waiting[0].missing
    )


def make_reuse(config: RestoreConfig, steadiness: float, restorer: Restorer | None) -> Reuse:
    """What remembers restored faces as `config` asks for it, and `restorer` can use it."""
    if not config.reuse:
        return Reuse(most_carried=0, most_still=0, steadiness=0)
    needs = restorer.needs if restorer is not None else None
    gives_previous = config.previous and needs is not None and needs.previous
    return Reuse(
        most_carried=config.most_carried,
        most_still=config.most_still,
        steadiness=steadiness,
        motion=config.reuse_motion,
        window=config.window if gives_previous else 0,
        keeps=needs.keeps if needs is not None and needs.kept else None,
    )


def make_neighbours(config: RestoreConfig, restorer: Restorer | None) -> Neighbours:
    """What remembers the frames before, as far as `config` and `restorer` ask for them."""
    wanted = 0 if restorer is None else restorer.needs.neighbours
    return Neighbours(min(wanted, config.neighbours), quick=config.reuse_motion == "quick")


def _leave(waiting: deque[_Waiting], reuse: Reuse, masker: Masker | None) -> Iterator[RestoredFrame]:
    while waiting and not waiting[0].missing:
        done = waiting.popleft()
        results = [done.results.get(place) for place in range(len(done.faces))]
        images = [
            reuse.finish(face, None, None)
            if result is None
            else reuse.finish(face, result.image, result.kept)
            for face, result in zip(done.faces, results, strict=True)
        ]
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

    def __init__(
        self, restorer: Restorer | None, quick: Quick, size: int, reuse: Reuse, neighbours: Neighbours
    ) -> None:
        self._restorer, self._quick = restorer, quick
        self._size = size
        self._reuse, self._neighbours = reuse, neighbours

    def restore_oldest(self, waiting: Iterable[_Waiting]) -> None:
        """Restores the oldest faces that are open and go to one restorer, as many as a batch holds."""
        ready = [(w, place) for w in waiting for place in w.open]
        assert ready
        restorer = self._restorer_for(ready[0][0])
        chosen = [(w, place) for w, place in ready if self._restorer_for(w) is restorer][: self._size]
        requests = [self._request(w.faces[place]) for w, place in chosen]
        try:
            results = restorer.restore(requests)
        except torch.OutOfMemoryError:
            if self._size == 1:
                raise
            self._size = (self._size + 1) // 2
            logger.warning("the device is out of memory: going on with %d faces a batch", self._size)
            self.restore_oldest(waiting)
            return
        for (frame, place), result in zip(chosen, results, strict=True):
            frame.results[place] = result

    def _restorer_for(self, waiting: _Waiting) -> Restorer:
        assert self._restorer is not None
        return self._quick.instead_of(self._restorer, waiting.frame.effort)

    def _request(self, face: Planned) -> Request:
        tracked = face.tracked
        previous, kept = self._reuse.previous(face), self._reuse.kept(face)
        beside = self._neighbours.laid_onto(tracked)
        return Request(tracked.crop, tracked.references, previous, tracked.restorer, kept, beside)
