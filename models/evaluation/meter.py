"""All that is measured of a restored face against its target.

Shapes: N faces, D width of an embedding; pictures uint8 (256, 256, 3) RGB in the FFHQ alignment.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray

from models.evaluation import measures
from models.evaluation.cache import Cache, key_of
from models.evaluation.faces import embed_pictures
from models.evaluation.judge import Judge
from models.evaluation.skin import skin_ratio, spectrum_ratios
from models.recogniser import EmbeddedRecogniser
from models.training.degrade import Picture


@dataclass(frozen=True, slots=True, eq=False)
class Measured:
    """All measures of one kind of picture, face by face; float64 (N,) where no other shape is given."""

    psnr: NDArray[np.float64]
    ssim: NDArray[np.float64]
    perceptual: NDArray[np.float64]
    identity: NDArray[np.float64]
    distance: NDArray[np.float64]
    """Of dlib's descriptors to the target's, or nan."""
    gradient: NDArray[np.float64]
    skin: NDArray[np.float64]
    spectrum: NDArray[np.float64]
    """(N, 3), low, mid, high."""
    embeddings: NDArray[np.float64]
    """(N, D), unit length, by the own encoder."""
    anchors: NDArray[np.float64] | None
    """(N, D), unit length: the people of the references the faces were restored with; None without."""

    def toward(self, anchors: NDArray[np.float64] | None) -> NDArray[np.float64]:
        """Cosine of each face's embedding to `anchors`, (N, D) of unit length; nan without."""
        if anchors is None:
            return np.full(len(self.embeddings), np.nan)
        cosines: NDArray[np.float64] = (self.embeddings * anchors).sum(1)
        return cosines


class Meter:
    """All measures of pictures of 256 pixels against their targets."""

    def __init__(
        self, recogniser: EmbeddedRecogniser, perceptual: Path | None, cache: Cache, *, judge: bool
    ) -> None:
        self.recogniser = recogniser
        self.cache = cache
        self.perceptual = measures.SqueezeDistance(perceptual) if perceptual else None
        self._weights_key = key_of(perceptual.read_bytes()) if perceptual else ""
        self.judge = Judge(cache) if judge else None

    def measure(
        self,
        targets: list[Picture],
        kinds: dict[str, list[Picture]],
        anchors: dict[str, NDArray[np.float64]] | None = None,
    ) -> dict[str, Measured]:
        """Every measure of every kind of picture; each list goes with `targets`.

        `anchors`: for kinds restored with references their people, (N, D), unit length.
        """
        wanted = self._directions(targets)
        judged = self.judge.describe(targets, targets) if self.judge else None
        fidelity = self._fidelity(targets, kinds)
        measured: dict[str, Measured] = {}
        for name, pictures in kinds.items():
            embeddings = self._directions(pictures)
            distance = np.full(len(targets), np.nan)
            if self.judge and judged is not None:
                distance = np.linalg.norm(self.judge.describe(pictures, targets) - judged, axis=1)
            both = list(zip(pictures, targets, strict=True))
            measured[name] = Measured(
                psnr=fidelity[name][:, 0],
                ssim=fidelity[name][:, 1],
                perceptual=fidelity[name][:, 2],
                identity=(embeddings * wanted).sum(1),
                distance=distance,
                gradient=np.array([measures.gradient_ratio(*pair) for pair in both]),
                skin=np.array([skin_ratio(*pair) for pair in both]),
                spectrum=np.stack([spectrum_ratios(*pair) for pair in both]),
                embeddings=embeddings,
                anchors=(anchors or {}).get(name),
            )
        return measured

    def _directions(self, pictures: list[Picture]) -> NDArray[np.float64]:
        """Embeddings (N, D) of unit length."""
        embeddings = F.normalize(embed_pictures(self.recogniser, pictures).double(), dim=1)
        return np.asarray(embeddings.numpy(), np.float64)

    def _fidelity(
        self, targets: list[Picture], kinds: dict[str, list[Picture]]
    ) -> dict[str, NDArray[np.float64]]:
        """PSNR, SSIM and perceptual distance, (N, 3) for each kind; face by face, so that the features of
        a target are worked out once."""
        rows: dict[str, list[NDArray[np.float64]]] = {name: [] for name in kinds}
        for index, target in enumerate(targets):
            features = None
            for name, pictures in kinds.items():
                key = key_of(measures, self._weights_key, pictures[index], target)
                row = self.cache.find(key)
                if row is None:
                    if self.perceptual and features is None:
                        features = self.perceptual.features(target)
                    distance = float("nan")
                    if self.perceptual and features is not None:
                        distance = self.perceptual.between(
                            self.perceptual.features(pictures[index]), features
                        )
                    row = np.array(
                        [
                            measures.psnr(pictures[index], target),
                            measures.ssim(pictures[index], target),
                            distance,
                        ]
                    )
                    self.cache.keep(key, row)
                rows[name].append(row.astype(np.float64))
        return {name: np.stack(values) for name, values in rows.items()}
