"""The ground truth, made as soft as what was restored: what a calm restoration of this sharpness would measure.

A real face turns, lights up and speaks: its own warping error is not zero, and most of it is left when the detail is
blurred away. What a restoration has beyond this row is flicker; what it has less, it lost of the face's own motion.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import av
import numpy as np

from pipeline.evaluation.measures import sharpness
from pipeline.evaluation.regions import Place, regions, window_around
from pipeline.frames import Frame
from pipeline.pixels.colour import luma_region, through_filters

_SIGMAS = tuple(float(sigma) for sigma in np.geomspace(0.4, 12.8, 11))
_EVERY = 5
"""Of so many frames one is tried."""


def softened(native: av.VideoFrame, sigma: float) -> av.VideoFrame:
    """`native` after a Gaussian blur of `sigma` pixels, in its own pixel format; at 0 itself."""
    return through_filters(native, ("gblur", f"sigma={sigma:.4f}:steps=3")) if sigma else native


def softening(truth: Iterable[Frame], places: Sequence[Sequence[Place]], wanted: float) -> float:
    """Sigma in pixels of the blur that leaves of the faces of `truth` the mean sharpness `wanted`.

    0 where they are not sharper than that, or there are none.
    """
    energies: list[list[float]] = []
    for index, (frame, faces) in enumerate(zip(truth, places, strict=False)):
        if index % _EVERY == 0 and faces:
            pictures = [softened(frame.native, sigma) for sigma in (0.0, *_SIGMAS)]
            energies += [_sharpness_of(pictures, place) for place in faces]
    if not energies:
        return 0.0
    means = np.nanmean(np.asarray(energies), axis=0)
    if not means[0] > wanted:
        return 0.0
    # Softer and softer: interpolated in the logarithms, in which it is nearly a line.
    return float(np.exp(np.interp(-np.log(wanted), -np.log(means[1:]), np.log(_SIGMAS))))


def _sharpness_of(pictures: Sequence[av.VideoFrame], place: Place) -> list[float]:
    """Sharpness of one face in each of `pictures`; not a number where the face is too small."""
    window = window_around([place.matrix], pictures[0].width, pictures[0].height)
    face, _ = regions(place.matrix, window)
    found = [
        sharpness(luma_region(native, window.left, window.top, window.right, window.bottom), face)
        for native in pictures
    ]
    return [np.nan if value is None else value for value in found]
