"""Whether a restored face is still the person: its nearness to who the person is known to be.

Shapes: R references, D width of an embedding, S side of an aligned crop in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.weak import WeakIdKeyDictionary

from models.align import ffhq_to_arcface
from models.fast.anchor import identity_anchor
from models.protocols import Recogniser, References

_VIEW_PX = 112


@dataclass(frozen=True, slots=True)
class Likeness:
    """What restoration made of one person's face; cosines of embeddings in [-1, 1]."""

    before: float
    """The degraded face to the person's anchor; 1 where there are no references, as it is its own anchor then."""
    after: float
    """The restored face to the same anchor."""
    loss: float
    """How much less the restored face than the degraded one is like both, anchor and degraded face, taken together;
    negative where it is more like them."""


class LikenessMeter:
    """Measures faces one by one, so that no figure depends on what stands beside a face. Not for several threads."""

    def __init__(self, encoder: Recogniser) -> None:
        self._encoder = encoder
        # Of references, which many faces share: kept as long as somebody holds the reference itself.
        self._embeddings = WeakIdKeyDictionary()

    def measure(self, degraded: Tensor, restored: Tensor, references: References) -> Likeness:
        """Likeness of `restored` to the person of `degraded`, both uint8 (3, S, S) RGB in the FFHQ alignment.

        The anchor is that of `references` (IConFace, arXiv 2605.02814), whose crops are embedded here: their own
        embeddings may be of another encoder.
        """
        pair = self._encoder.embed(torch.stack([recogniser_crop(degraded), recogniser_crop(restored)]))
        return likeness(pair[0], pair[1], self.anchor(references))

    def anchor(self, references: References) -> Tensor | None:
        """float32 (D,), unit length; None without references."""
        if len(references) == 0:
            return None
        return identity_anchor(torch.stack([self._embedding(crop) for crop in references.crops]))

    def _embedding(self, crop: Tensor) -> Tensor:
        if crop not in self._embeddings:
            self._embeddings[crop] = self._encoder.embed(recogniser_crop(crop)[None])[0]
        embedding: Tensor = self._embeddings[crop]
        return embedding


def likeness(degraded: Tensor, restored: Tensor, anchor: Tensor | None) -> Likeness:
    """From raw embeddings (D,) of the degraded and the restored face, and the references' anchor (D,), if any.

    The loss is measured against the direction half way between the anchor and the degraded face. So a result between
    the two loses nothing, be it nearer to the film or to the references; the anchor alone would not do, as a severely
    degraded face is nearly as far from it as a stranger is.
    """
    before, after = F.normalize(degraded, dim=0), F.normalize(restored, dim=0)
    known = before if anchor is None else anchor
    between = F.normalize(known + before, dim=0)
    return Likeness(float(before @ known), float(after @ known), float((before - after) @ between))


def recogniser_crop(crop: Tensor) -> Tensor:
    """The recogniser's crop, uint8 (3, 112, 112), of an FFHQ-aligned one, uint8 (3, S, S)."""
    picture = np.ascontiguousarray(crop.permute(1, 2, 0).numpy())
    while picture.shape[0] >= 4 * _VIEW_PX:
        half = picture.shape[0] // 2
        picture = cv2.resize(picture, (half, half), interpolation=cv2.INTER_AREA)
    view = cv2.warpAffine(
        picture,
        ffhq_to_arcface(picture.shape[0]),
        (_VIEW_PX, _VIEW_PX),
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_REFLECT,
    )
    return torch.from_numpy(np.ascontiguousarray(view.transpose(2, 0, 1)))
