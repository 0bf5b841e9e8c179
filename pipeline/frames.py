"""The values that pass between stages. All frozen: a stage that wants another value makes one.

Legend: S side of an aligned crop in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Literal

import av
import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from models.protocols import Face, References
from models.recogniser import Likeness


@dataclass(frozen=True, slots=True)
class Effort:
    """How much is done for one frame. The default is the full effort, with which files are restored."""

    detection_interval: int = 1
    """Multiplier on the detection interval."""
    light: bool = False
    """The light restorer in place of the chosen one, where there is a light one."""
    small: bool = False
    """The restorer of smaller crops in place of either, where there is one."""
    most_carried: int = 0
    """Maximum faces carried after a keyframe, where it is above the setting."""
    least_carried: int = 0
    """Faces carried after a keyframe even where motion does not explain all of them."""
    carried_at_detection: int = 1
    """Multiplier on the maximum of carried faces in a frame in which faces are detected."""
    most_asked: int | None = None
    """Maximum faces that the restorer is asked for while others can be carried; None: all that need it."""
    most_faces: int | None = None
    """Maximum faces that are restored at all, the largest; None: all."""


FULL = Effort()
"""Everything, at its best."""


@dataclass(frozen=True, slots=True, eq=False)
class Frame:
    """One decoded frame. `native` is the decoder's own picture: nobody writes into it."""

    index: int
    """Position in the stream as decoded, from 0."""
    pts: int
    """Presentation time in ticks of `time_base`."""
    time_base: Fraction
    """Seconds per tick."""
    native: av.VideoFrame
    """Planar YUV, grey or planar RGB (gbrp), 8 to 16 bits, with the stream's own matrix and range."""
    effort: Effort = FULL
    """How much is done for this frame, and for no other."""


@dataclass(frozen=True, slots=True)
class Detail:
    """What the film shows of a face beyond the network's crop, and of itself."""

    fine: float = 1.0
    """In [0, 1]: how far what is finer than a crop of 256 pixels is the face's own; the rest is noise and blocks."""
    grain: float = 0.0
    """Standard deviation of the film's grain in 8-bit code values; 0: what noise there is is damage."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFace:
    """One followed face of a frame, ready to be restored."""

    track_id: int
    """One continuous appearance of a person."""
    person_id: int | None
    """The person, over shots; equal ids are the same person. None: not clear enough yet to say."""
    face: Face
    """Where it is, with smoothed landmarks."""
    crop: Tensor
    """uint8 (3, S, S) RGB full range, FFHQ alignment."""
    matrix: NDArray[np.float32]
    """float32 (2, 3), frame to crop."""
    references: References
    """Snapshot of the person's best views."""
    strength: float
    """In [0, 1]: how much of the restoration may be used here (eased where landmarks cannot be trusted; with what the
    user wants for this person in it)."""
    reason: str
    """Why `strength` is 0 ("small", "profile", "covered", "lost", "not chosen"), or empty."""
    restorer: str = ""
    """The restorer that the user wants for this person; empty = the run's own."""
    name: str = ""
    """Of the person, where the user gave one."""
    wish: float = 1.0
    """The most that `strength` may be, by what the user wants for this person."""
    detail: Detail = Detail()
    """Of this face, evened out over neighbouring frames."""
    recent: tuple[Tensor, ...] = ()
    """Crops of the track in the frames before, uint8 (3, S, S) each, the nearest first; empty where none are used."""


@dataclass(frozen=True, slots=True, eq=False)
class TrackedFrame:
    """A frame and the faces followed in it."""

    frame: Frame
    faces: tuple[TrackedFace, ...]
    monochrome: bool
    """The shot is black-and-white: its colour planes must stay as they are."""
    shot: int = 0
    """Cuts before this frame; over a cut nothing of a frame is used again."""
    detected: bool = False
    """Faces were detected in this frame, and not only followed; False where that was not kept."""

    @property
    def effort(self) -> Effort:
        """How much is done for this frame."""
        return self.frame.effort


@dataclass(frozen=True, slots=True, eq=False)
class Patch:
    """What is to be added to a frame for one face."""

    delta: NDArray[np.float32]
    """float32 (S, S, 3), RGB difference in 8-bit code values, already weighted by mask and strength."""
    mask: NDArray[np.float32]
    """float32 (S, S) in [0, 1]; pixels of the frame where it vanishes stay bit-identical."""
    matrix: NDArray[np.float32]
    """float32 (2, 3), frame to crop."""
    grain: NDArray[np.float32] | None
    """float32 (h, w), luma grain in 8-bit code values at the frame's own resolution, top-left at `grain_origin`,
    already weighted by the mask; None where no grain is added."""
    grain_origin: tuple[int, int] = (0, 0)
    """x, y of the grain's first pixel in the frame."""
    coarse: NDArray[np.float32] | None = None
    """float32 (S, S, 4): the degraded crop in RGB, 8-bit code values, weighted by how far what is finer than it gives
    way in the frame, and that weight in [0, 1]. None: all that is finer stays."""


Origin = Literal["network", "carried", "still"]
"""Where a restored face comes from: the restorer, or the track's last keyframe, carried along the motion of the face
or, where the face is still, as it lies."""


@dataclass(frozen=True, slots=True, eq=False)
class RestoredFace:
    """One face with its restoration."""

    tracked: TrackedFace
    image: Tensor
    """uint8 (3, S, S) RGB full range."""
    free: Tensor | None = None
    """float32 (S, S) in [0, 1], 1 where nothing covers the face; None = everywhere."""
    origin: Origin = "network"
    """What gave the image."""
    likeness: Likeness | None = None
    """Whether it is still the person, as last measured on a keyframe of the track; None = not watched."""
    allowed: float = 1.0
    """In [0, 1]: how much of the restoration may be used so that the person stays the person."""


@dataclass(frozen=True, slots=True, eq=False)
class RestoredFrame:
    """A tracked frame with its restored faces (those whose strength is above 0), not yet blended."""

    tracked: TrackedFrame
    faces: tuple[RestoredFace, ...]
