"""Where the faces of a frame are: a quick look for faces that are known, a thorough one where none are.

A turned look sees the picture as if a player showed it turned by 90, 180 or 270 degrees more: a face that lies on its
side stands upright there, and its landmarks come back in pixels of the frame like all others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from enum import Enum

import av

from models.detection import (
    Find,
    agreed,
    alike,
    at_one_place,
    halvings,
    look_at_all_sizes,
    look_closely,
    look_once,
    size_px,
)
from models.protocols import Detector, Face
from pipeline.pixels.colour import rgb_thumbnail
from pipeline.pixels.geometry import Geometry

_MIN_EYE_PX = 4
"""Distance of the eyes below which nothing of a face is left."""
_TURNS = (90, 270, 180)
_TURNED_VOTES = 3
"""Three turned pictures have three times the chance to show what is no face."""


class SearchDepth(Enum):
    """How much is done to find faces, in looks of the detector at the picture of the given width."""

    GLANCE = 1
    """One look; halved in addition where known faces are too large for it, turned where they lie."""
    ALL_SIZES = 2
    """All levels of the pyramid: half as much again as one look."""
    THOROUGH = 3
    """Where that finds nothing also without grain and turned: in all about three looks."""


def find_faces(
    native: av.VideoFrame,
    detector: Detector,
    geometry: Geometry,
    width: int,
    depth: SearchDepth = SearchDepth.GLANCE,
    known: Sequence[Face] = (),
) -> list[Face]:
    """Faces in pixels of the whole frame, best score first, sought in a picture of it that is `width` pixels wide.

    `known`: faces of the frame, where they are expected. A doubtful find counts where one of them is.
    """
    search = _Search(native, detector, geometry, width)
    if depth is SearchDepth.GLANCE:
        finds = search.glance(known)
    elif depth is SearchDepth.ALL_SIZES:
        finds = search.stood_up(search.all_sizes())
    else:
        finds = search.stood_up(search.closely()) or search.turned()
    faces = [find.face for find in finds if find.sure or any(alike(find.face, face) for face in known)]
    return [face for face in faces if face.eye_distance_px >= _MIN_EYE_PX]


class _Search:
    """One frame's picture, seen by one detector."""

    def __init__(self, native: av.VideoFrame, detector: Detector, geometry: Geometry, width: int) -> None:
        self._image, self._scale = rgb_thumbnail(native, width)
        self._detector, self._geometry = detector, geometry

    def glance(self, known: Sequence[Face]) -> list[Find]:
        """One look at the picture as faces that are `known` lie in it, or several if they lie unlike each other."""
        halved = sorted({halvings(size_px(face) / self._scale) for face in known} - {0})
        looks = []
        for turn in sorted({self._geometry.turn_of(face.landmarks) for face in known}) or [0]:
            turned = self._geometry.turned(turn)
            finds = look_once(self._detector, turned.upright(self._image), halved)
            looks.append(self._back(finds, turned))
        return agreed(looks)

    def all_sizes(self) -> list[Find]:
        """What is found in the picture as it is."""
        return self._back(
            look_at_all_sizes(self._detector, self._geometry.upright(self._image)), self._geometry
        )

    def closely(self) -> list[Find]:
        """The same, also without grain where nothing is found; sure finds alone."""
        finds = look_closely(self._detector, self._geometry.upright(self._image))
        return self._back([find for find in finds if find.sure], self._geometry)

    def turned(self) -> list[Find]:
        """What stands upright when the picture is turned; of two ways to see one face the surer."""
        return agreed([self._standing(turn) for turn in _TURNS])

    def stood_up(self, finds: Sequence[Find]) -> list[Find]:
        """`finds`, those that lie with the landmarks that they have in the picture turned as they are.

        The network also finds faces that lie, but places their landmarks badly.
        """
        turns = {self._geometry.turn_of(find.face.landmarks) for find in finds if find.sure} - {0}
        better = [find for turn in sorted(turns) for find in self._standing(turn)]
        # Two finds may be one once they stand.
        return agreed(
            [[next((b for b in better if at_one_place(b.face, find.face)), find) for find in finds]]
        )

    def _standing(self, turn: int) -> list[Find]:
        """Sure finds that stand upright in the picture turned by `turn` degrees."""
        turned = self._geometry.turned(turn)
        picture = turned.upright(self._image)
        finds = look_at_all_sizes(self._detector, picture, largest=False, votes=_TURNED_VOTES)
        return [
            find
            for find in self._back(finds, turned)
            if find.sure and self._geometry.turn_of(find.face.landmarks) == turn
        ]

    def _back(self, finds: Sequence[Find], geometry: Geometry) -> list[Find]:
        """Finds in the upright picture at their places in the frame."""
        return [
            replace(find, face=geometry.back(find.face, self._image).scaled(self._scale)) for find in finds
        ]
