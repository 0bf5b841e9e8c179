"""What is seen of one face in one frame."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True, slots=True, eq=False)
class Face:
    """One face in one frame; pixel positions are those of the full decoded frame, pixel centres at integers."""

    box: NDArray[np.float32]
    """float32 (4,), x0 y0 x1 y1 in pixels."""
    landmarks: NDArray[np.float32]
    """float32 (5, 2), x y in pixels: image-left eye, image-right eye, nose tip, image-left and -right mouth corner."""
    score: float
    """Confidence of the detector in [0, 1]."""
    embedding: NDArray[np.float32] | None = None
    """float32 (D,), raw identity embedding (its norm is a quality), or None where it was not computed."""

    def __post_init__(self) -> None:
        if self.box.shape != (4,) or self.landmarks.shape != (5, 2):
            raise ValueError(
                f"a face needs box (4,) and landmarks (5, 2), got {self.box.shape}, {self.landmarks.shape}"
            )

    @property
    def eye_distance_px(self) -> float:
        """Distance of the two eyes in pixels of the frame."""
        return float(np.linalg.norm(self.landmarks[1] - self.landmarks[0]))

    def scaled(self, factor: float) -> Face:
        """The same face where the picture is enlarged `factor` times."""
        box, landmarks = ((places + 0.5) * factor - 0.5 for places in (self.box, self.landmarks))
        return replace(self, box=box.astype(np.float32), landmarks=landmarks.astype(np.float32))
