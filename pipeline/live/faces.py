"""Restores live pictures by the chain of flow.py, one frame in and one picture out.

In two halves, so that the next frame can be followed while one is restored: `follow` finds its faces, `finish` restores
them and gives the picture. `restore` is both, for who has one thread.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Generic, TypeVar

import av
import torch

from models.protocols import References, Request
from pipeline.config import PipelineConfig
from pipeline.flow import Chain, ChainState, Parts
from pipeline.frames import Frame, RestoredFrame, TrackedFrame

T = TypeVar("T")

_WARM_UP = 2
"""Calls after which a network has its memory, and a compiled one its engine."""


class Faces:
    """A chain that holds no frame back. Each half belongs to one thread at a time."""

    def __init__(self, parts: Parts, config: PipelineConfig) -> None:
        at_once = replace(
            config,
            track=replace(config.track, lookahead=0),
            restore=replace(config.restore, max_waiting=0),
        )
        self._chain = Chain(parts, at_once)
        self.restart()

    def restart(self) -> None:
        """Forgets the frames before: the next one has nothing to do with them."""
        self.restart_following()
        self.restart_finishing()

    def restart_following(self) -> None:
        """The same for the first half. The other needs nothing then, as no track goes on."""
        self._chain.parts.perception.start_shot()
        self._frames = _OneByOne[Frame]()
        self._tracked = self._chain.follow(self._frames)

    def restart_finishing(self) -> None:
        """The same for the second half, which is due after an error in it. How people stand goes on."""
        self._chain.go_on_from(ChainState(standings=self._chain.state.standings))
        self._followed = _OneByOne[TrackedFrame]()
        self._restored = self._chain.restore(self._followed)

    def follow(self, frame: Frame) -> TrackedFrame:
        """`frame` with its faces. Frames come in order; after an error `restart_following` is due."""
        self._frames.give(frame)
        return next(self._tracked)

    def finish(self, tracked: TrackedFrame) -> tuple[RestoredFrame, av.VideoFrame]:
        """A frame with its faces restored, and its picture. In order; after an error `restart_finishing` is due."""
        self._followed.give(tracked)
        restored = next(self._restored)
        return restored, self._chain.blend(restored)

    def restore(self, frame: Frame) -> tuple[RestoredFrame, av.VideoFrame]:
        """Both halves, one after the other; after an error `restart` is due."""
        return self.finish(self.follow(frame))

    def warm_up(self, frame: Frame) -> None:
        """Makes every part work once, on `frame` and on an empty crop, so that the first frame shown is quick."""
        parts = self._chain.parts
        for restorer in (parts.restorer, parts.quick.light, parts.quick.small):
            if restorer is not None:
                crop = torch.zeros(3, restorer.needs.crop_size, restorer.needs.crop_size, dtype=torch.uint8)
                for _ in range(_WARM_UP):
                    restorer.restore([Request(crop, References())])
        self.restore(frame)
        self.restart()


class _OneByOne(Generic[T]):
    """Iterates over what is given to it; each item is given just before it is asked for."""

    def __init__(self) -> None:
        self._item: T | None = None

    def give(self, item: T) -> None:
        self._item = item

    def __iter__(self) -> Iterator[T]:
        return self

    def __next__(self) -> T:
        item, self._item = self._item, None
        if item is None:
            raise StopIteration
        return item
