"""The frames beside a face: the last crops of its track, moved to where the face lies now.

A degraded frame shows part of a face, and the frames before show it again with other noise and other blocks. Only
frames before are used, so live pictures and chunks of a film get what a straight run gets.

Legend: S side of an aligned crop in pixels.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace

import numpy as np
import torch

from models.pictures import to_picture, to_tensor
from models.protocols import Neighbour
from pipeline.frames import TrackedFace, TrackedFrame
from pipeline.stages.motion import MotionMeter, is_other, is_same, look_at, moved


class Neighbours:
    """Remembers the last crops of each track. One thread gives it the frames, in their order."""

    def __init__(self, most: int, *, quick: bool = False) -> None:
        """`most`: maximum number of frames before. `quick`: see `MotionMeter`."""
        self._most = most
        self._meter = MotionMeter(quick=quick)
        self._last: dict[int, TrackedFace] = {}

    @property
    def last(self) -> dict[int, TrackedFace]:
        """The faces of the last frame, by track: all that later frames depend on."""
        return dict(self._last)

    def go_on_from(self, last: Mapping[int, TrackedFace]) -> None:
        """Goes on as after the frame whose `last` this is."""
        self._last = dict(last)

    def gathered(self, frames: Iterable[TrackedFrame]) -> Iterator[TrackedFrame]:
        """`frames` whose faces know the crops before."""
        if not self._most:
            yield from frames
            return
        for frame in frames:
            faces = tuple(replace(face, recent=self._recent(face)) for face in frame.faces)
            self._last = {face.track_id: face for face in faces}
            yield replace(frame, faces=faces)

    def laid_onto(self, face: TrackedFace) -> tuple[Neighbour, ...]:
        """The crops before, moved onto the crop of `face`; those that motion does not explain are left out."""
        if not face.recent:
            return ()
        now, laid = look_at(face.crop), []
        for crop in face.recent:
            motion = self._meter.measure(now, look_at(crop))
            if not is_same(motion):
                break
            image, gate = moved(to_picture(crop).astype(np.float32), motion)
            picture = image.round().clip(0, 255).astype(np.uint8)
            laid.append(Neighbour(to_tensor(picture), torch.from_numpy(gate)))
        return tuple(laid)

    def _recent(self, face: TrackedFace) -> tuple[torch.Tensor, ...]:
        last = self._last.get(face.track_id)
        if last is None or last.crop.shape != face.crop.shape or is_other(last, face):
            return ()
        return (last.crop, *last.recent)[: self._most]
