"""Who is in an aligned crop, and whether a restored face is still the person.

The embedded encoder gives raw embeddings whose norm says how much of the person can be seen. It was taught to answer
a degraded view with the embedding of the clean picture. Where the evidence vanishes the best answer shrinks towards
the mean of all people, so the norm falls with the quality of the view, as in AdaFace (Kim et al., CVPR 2022), and
weights references (IConFace, arXiv 2605.02814).

Shapes: N crops, C channels, R references, D width of an embedding, S side of an aligned crop in pixels.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.weak import WeakIdKeyDictionary

from models.packing import fold_norms, pack_convolutions
from models.pictures import VIEW_PX, recogniser_crop
from models.protocols import Recogniser, References
from models.quality import ramp, sharpness
from models.weights import Checkpoint, built, load_embedded

_CLEAR = (0.07, 0.12)
"""Sharpness (`models.quality`) of a view that says nothing surely of who somebody is, and of one that does: .06 to .11
in severely degraded portraits, .09 to .33 in moderately degraded ones, .28 and more in clean ones."""


@dataclass(frozen=True, slots=True)
class EncoderShape:
    """What an `Encoder` is built from; kept in the header of its checkpoint."""

    widths: tuple[int, ...] = (16, 48, 112, 224)
    """Channels at 1/2, 1/4, 1/8 and 1/16 of the crop."""
    depths: tuple[int, ...] = (1, 2, 3, 1)
    """Residual blocks at each of them."""
    features: int = 384
    """Channels that are weighed over the 7 x 7 cells before the embedding."""
    embedding: int = 128
    """D."""


class EmbeddedRecogniser:
    """The project's own encoder, shipped with the package."""

    name = "embedded-encoder"
    same_person = 0.5
    clear_norm = 6.0

    def __init__(self, checkpoint: Checkpoint | None = None, device: str | torch.device = "cpu") -> None:
        self.device = torch.device(device)
        self.network = build_encoder(checkpoint or load_embedded("encoder"))
        fold_norms(self.network)
        self.network.to(self.device).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        if self.device.type == "cpu":
            pack_convolutions(self.network, torch.zeros(2, 3, VIEW_PX, VIEW_PX))

    @torch.inference_mode()
    def embed(self, crops: Tensor) -> Tensor:
        """Raw embeddings, float32 (N, 128) on the CPU, of `crops`, uint8 (N, 3, 112, 112) RGB.

        Crops in the ArcFace alignment; the mirrored crop is averaged in. Raises `ValueError` for another
        shape or dtype.
        """
        check_crops(crops)
        if len(crops) == 0:
            return torch.zeros(0, self.network.shape.embedding)
        pictures = _exposed(crops.to(self.device).float().div_(255))
        # In one batch, so that the weights are read once for a crop and its mirrored twin.
        both = torch.cat([pictures, pictures.flip(3)]).contiguous(memory_format=torch.channels_last)
        # In float32 also within a restorer of lower precision: small differences decide who a person is.
        with torch.autocast(self.device.type, enabled=False):
            embeddings: Tensor = self.network(both).unflatten(0, (2, -1)).mean(0)  # (N, D)
        return embeddings.cpu()


def identity_anchor(embeddings: Tensor, temperature: float = 1.0) -> Tensor:
    """The direction of a person's identity, from several views, each weighted by how clear it is.

    `embeddings`: float32 (R, D), raw; the norm of each is its quality. Returns float32 (D,), unit length;
    zeros where no view says anything. Source: IConFace (arXiv 2605.02814): w = softmax(log |z| / T), anchor
    = Norm(sum of w_r z_r / |z_r|).
    """
    norms = embeddings.norm(dim=1).clamp_min(1e-6)  # (R,)
    weights = torch.softmax(norms.log() / temperature, dim=0)
    return F.normalize((weights[:, None] * embeddings / norms[:, None]).sum(0), dim=0)


def build_encoder(checkpoint: Checkpoint) -> Encoder:
    """An `Encoder` in evaluation mode. Raises `CheckpointError` for the weights of something else."""
    return built(checkpoint, lambda shape: Encoder(EncoderShape(**shape)), "the embedded encoder")


def check_crops(crops: Tensor) -> None:
    """Raises `ValueError` unless `crops` is uint8 (N, 3, 112, 112)."""
    if crops.dtype != torch.uint8 or crops.ndim != 4 or tuple(crops.shape[1:]) != (3, VIEW_PX, VIEW_PX):
        raise ValueError(
            f"crops must be uint8 (N, 3, {VIEW_PX}, {VIEW_PX}), got {crops.dtype} {tuple(crops.shape)}"
        )


def _exposed(pictures: Tensor) -> Tensor:
    """`pictures` (N, 3, H, W) in [0, 1], dark ones brightened to what the encoder was trained with.

    Without it all faces of a dark scene look alike to the encoder (cosine 0.93 between strangers at an eighth of
    the light, 0.07 with it).
    """
    mean = pictures.mean((1, 2, 3), keepdim=True)
    return (pictures * (0.41 / mean.clamp_min(1e-3)).clamp(1, 10)).clamp_(0, 1)


class Encoder(nn.Module):
    """A small residual network with a global depthwise convolution (MobileFaceNets, arXiv 1804.07573).

    Dense 3 x 3 convolutions instead of depthwise ones: on CPUs they are faster at equal accuracy.
    """

    def __init__(self, shape: EncoderShape) -> None:
        super().__init__()
        self.shape = shape
        stages: list[nn.Module] = []
        previous = 3
        for width, depth in zip(shape.widths, shape.depths, strict=True):
            stages += [
                nn.Conv2d(previous, width, 3, 2, 1, bias=False),
                nn.BatchNorm2d(width),
                nn.PReLU(width),
            ]
            stages += [_Block(width) for _ in range(depth)]
            previous = width
        self.stages = nn.Sequential(*stages)  # (N, 192, 7, 7)
        cells = VIEW_PX // 2 ** len(shape.widths)
        self.widen = nn.Sequential(
            nn.Conv2d(previous, shape.features, 1, bias=False),
            nn.BatchNorm2d(shape.features),
            nn.PReLU(shape.features),
        )
        self.weigh = nn.Conv2d(shape.features, shape.features, cells, groups=shape.features, bias=False)
        self.norm = nn.BatchNorm2d(shape.features)
        self.embedding = nn.Linear(shape.features, shape.embedding)

    def forward(self, pictures: Tensor) -> Tensor:
        """`pictures`: float32 (N, 3, 112, 112) in [0, 1]. Returns raw embeddings, float32 (N, D)."""
        x = self.widen(self.stages(pictures * 2 - 1))  # (N, F, 7, 7)
        x = self.norm(self.weigh(x)).flatten(1)  # (N, F)
        embeddings: Tensor = self.embedding(x)
        return embeddings


class _Block(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.first_norm = nn.BatchNorm2d(width)
        self.activation = nn.PReLU(width)
        self.second = nn.Conv2d(width, width, 3, padding=1, bias=False)
        self.second_norm = nn.BatchNorm2d(width)
        self.last = nn.PReLU(width)

    def forward(self, x: Tensor) -> Tensor:
        inner = self.activation(self.first_norm(self.first(x)))
        return F.prelu(x + self.second_norm(self.second(inner)), self.last.weight)


@dataclass(frozen=True, slots=True)
class Likeness:
    """How like a person a face is before and after restoration; cosines of embeddings in [-1, 1]."""

    before: float
    """The degraded face to the person's anchor; 1 where there are no references, as it is its own anchor then."""
    after: float
    """The restored face to the same anchor."""
    loss: float
    """By how much less the restored face than the degraded one is like the mean of anchor and degraded face; negative
    where it is more like it."""
    evidence: float = 1.0
    """In [0, 1]: how clear the clearest of the views is that say who the person is, references and degraded face."""


class LikenessMeter:
    """Measures faces one by one, so that no figure depends on other faces. Not thread-safe."""

    def __init__(self, encoder: Recogniser) -> None:
        self._encoder = encoder
        # Embeddings of references, which many faces share: kept as long as the reference itself is.
        self._embeddings = WeakIdKeyDictionary()
        self._sharpness = WeakIdKeyDictionary()

    def measure(self, degraded: Tensor, restored: Tensor, references: References) -> Likeness:
        """Likeness of `restored` to the person of `degraded`, both uint8 (3, S, S) RGB in the FFHQ alignment.

        The anchor is that of `references` (IConFace, arXiv 2605.02814), whose crops are embedded here: their own
        embeddings may be of another encoder.
        """
        pair = self._encoder.embed(torch.stack([recogniser_crop(degraded), recogniser_crop(restored)]))
        found = likeness(pair[0], pair[1], self.anchor(references))
        clearest = max([sharpness(degraded), *map(self._sharpness_of, references.crops)])
        return replace(found, evidence=ramp(clearest, _CLEAR))

    def resemblance(self, degraded: Tensor, references: References) -> float:
        """Cosine in [-1, 1] of `degraded`, uint8 (3, S, S) RGB in the FFHQ alignment, to the anchor of `references`."""
        anchor = self.anchor(references)
        if anchor is None:
            raise ValueError("without references there is nobody to resemble")
        return float(F.normalize(self._encoder.embed(recogniser_crop(degraded)[None])[0], dim=0) @ anchor)

    def anchor(self, references: References) -> Tensor | None:
        """float32 (D,), unit length; None without references."""
        if len(references) == 0:
            return None
        return identity_anchor(torch.stack([self._embedding(crop) for crop in references.crops]))

    def _sharpness_of(self, crop: Tensor) -> float:
        if crop not in self._sharpness:
            self._sharpness[crop] = sharpness(crop)
        return float(self._sharpness[crop])

    def _embedding(self, crop: Tensor) -> Tensor:
        if crop not in self._embeddings:
            self._embeddings[crop] = self._encoder.embed(recogniser_crop(crop)[None])[0]
        embedding: Tensor = self._embeddings[crop]
        return embedding


def likeness(degraded: Tensor, restored: Tensor, anchor: Tensor | None) -> Likeness:
    """From raw embeddings (D,) of the degraded and the restored face, and the references' anchor (D,), if any.

    The loss is measured against the direction half way between the anchor and the degraded face. So a result between
    the two loses nothing, whichever it is nearer to. The anchor alone would not do, as a severely degraded face is
    nearly as far from it as a stranger is.
    """
    before, after = F.normalize(degraded, dim=0), F.normalize(restored, dim=0)
    known = before if anchor is None else anchor
    between = F.normalize(known + before, dim=0)
    return Likeness(float(before @ known), float(after @ known), float((before - after) @ between))
