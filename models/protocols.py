"""The parts a pipeline is made of, and the values they exchange. Implementations need not inherit.

Legend: R references, D width of an identity embedding, S side of an aligned crop in pixels.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol, cast, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


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


@dataclass(frozen=True, slots=True, eq=False, weakref_slot=True)
class References:
    """Best views of one person, as a snapshot that never changes. Empty = restore without references."""

    crops: tuple[Tensor, ...] = ()
    """R views, each uint8 (3, S, S) RGB, aligned like the crop to be restored."""
    embeddings: Tensor = field(default_factory=lambda: torch.zeros(0, 0))
    """float32 (R, D), raw embeddings of the views; the norm of each is its quality."""
    version: int = 0
    """Grows whenever the set changes: the key of everything cached from it."""
    sources: tuple[str, ...] = ()
    """Where each view comes from, in words; empty where unknown. Restorers ignore it."""

    def __post_init__(self) -> None:
        if len(self.crops) != len(self.embeddings):
            raise ValueError(f"{len(self.crops)} reference crops but {len(self.embeddings)} embeddings")
        if self.sources and len(self.sources) != len(self.crops):
            raise ValueError(f"{len(self.crops)} reference crops but {len(self.sources)} sources")

    def __len__(self) -> int:
        return len(self.crops)


@dataclass(frozen=True, slots=True, eq=False)
class Previous:
    """The previous restoration of the same face, moved to where the face lies in the crop of a request.

    The picture is the state. A restorer that needs latents encodes it again (as KEEP does, arXiv 2408.05205), since a
    picture can be moved by parts of a pixel, and cells of latents cannot.
    """

    image: Tensor
    """uint8 (3, S, S) RGB full range: an earlier `Result.image`, moved."""
    gate: Tensor
    """float32 (S, S) in [0, 1]: how surely each pixel of it still holds; 0 = not at all."""


@dataclass(frozen=True, slots=True, eq=False)
class Neighbour:
    """The same face in a frame beside this one, degraded alike, moved to where the face lies in the crop of a request.

    Its noise and its blocks are others, so that several neighbours show more than one frame does.
    """

    image: Tensor
    """uint8 (3, S, S) RGB full range: the crop of that frame, moved."""
    gate: Tensor
    """float32 (S, S) in [0, 1]: how surely each pixel shows the same as the crop; 0 = not at all."""


@dataclass(frozen=True, slots=True, eq=False)
class Request:
    """One face to be restored."""

    crop: Tensor
    """uint8 (3, S, S) RGB full range, the degraded face in the FFHQ alignment."""
    references: References
    previous: Previous | None = None
    """None = the face was not restored before, or the restorer does not need it (`Needs.previous`)."""
    restorer: str = ""
    """The restorer that is wanted for this face, where a run has several; empty = the run's own."""
    kept: Tensor | None = None
    """`Result.kept` of the previous face of the same track with the same references; None = there is none. Given only
    to a restorer that needs it (`Needs.kept`)."""
    neighbours: tuple[Neighbour, ...] = ()
    """The nearest frame first; no more than the restorer needs (`Needs.neighbours`)."""


@dataclass(frozen=True, slots=True)
class Needs:
    """What a restorer takes, and which parts of a `Request` can change its results."""

    crop_size: int
    """S, the side in pixels of the crops that it takes and gives."""
    references: bool = True
    """Whether `Request.references` can change a result."""
    neighbours: int = 0
    """Maximum number of `Request.neighbours` that can change a result."""
    previous: bool = False
    """Whether `Request.previous` can change a result."""
    kept: bool = False
    """Whether `Request.kept` can change a result."""
    kept_for: frozenset[str] | None = None
    """Where only some faces need `kept`: their `Request.restorer`; None = all faces."""
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    """Where it computes. Requests and results are on the CPU."""

    def keeps(self, restorer: str) -> bool:
        """Whether a face with this `Request.restorer` needs `Request.kept`."""
        return self.kept and (self.kept_for is None or restorer in self.kept_for)


@dataclass(frozen=True, slots=True, eq=False)
class Result:
    """One restored face."""

    image: Tensor
    """uint8 (3, S, S) RGB full range, in the alignment of the request's crop."""
    kept: Tensor | None = None
    """float32 of any shape: state that the restorer gets back with the next face of the track. It goes by value: only
    the restorer reads it, and it keeps nothing itself."""


def check_crop(crop: Tensor, side: int) -> None:
    """Raises `ValueError` unless `crop` is uint8 (3, side, side)."""
    if crop.dtype != torch.uint8 or tuple(crop.shape) != (3, side, side):
        raise ValueError(f"crop must be uint8 (3, {side}, {side}), got {crop.dtype} {tuple(crop.shape)}")


def check_previous(request: Request) -> None:
    """Raises `ValueError` where what was restored before is of another form than the crop of `request`."""
    crop, previous = request.crop, request.previous
    if previous is None:
        return
    for name, given, dtype, shape in (
        ("image", previous.image, torch.uint8, crop.shape),
        ("gate", previous.gate, torch.float32, crop.shape[1:]),
    ):
        if given.dtype != dtype or given.shape != shape:
            wanted = f"{dtype} {tuple(shape)}"
            raise ValueError(f"previous.{name} must be {wanted}, got {given.dtype} {tuple(given.shape)}")


class Detector(Protocol):
    """Finds faces."""

    def detect(self, image: NDArray[np.uint8]) -> list[Face]:
        """Faces of `image`, uint8 (H, W, 3) RGB, best score first, without embeddings."""
        ...


@runtime_checkable
class Doubting(Protocol):
    """What a detector may have beside `detect`, so that doubtful faces count where two looks agree on them."""

    min_score: float
    """Score from which `detect` gives a face."""

    def candidates(self, image: NDArray[np.uint8], min_score: float) -> list[Face]:
        """Faces of `image` from a lower score on, sought at the size that it has: it is not enlarged."""
        ...


class Recogniser(Protocol):
    """Recognises people."""

    name: str
    """The embedding space; embeddings of different names cannot be compared."""

    same_person: float
    """Cosine similarity above which two clear views are taken for the same person."""

    clear_norm: float
    """Norm of a clear view's raw embedding; 0 = unknown, so each film is its own measure."""

    def embed(self, crops: Tensor) -> Tensor:
        """Raw embeddings, float32 (N, D), of `crops`, uint8 (N, 3, 112, 112) RGB in the ArcFace alignment."""
        ...


class Restorer(Protocol):
    """Restores faces; keeps nothing between calls."""

    @property
    def needs(self) -> Needs:
        """What it takes; the same for the whole run."""
        ...

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        """One result per request, in order; each depends on its own request alone, not on its neighbours."""
        ...


def with_needs(restorer: Any) -> Restorer:
    """`restorer` itself if it declares `needs`, else a restorer that takes them from single attributes.

    Attributes and their defaults: `crop_size` (required), `uses_references` (True), `uses_previous` (False),
    `uses_kept` (False), `device` (the CPU). They are read once, here. Raises `ValueError` for an object without
    `restore`, or with neither `needs` nor `crop_size`.
    """
    if not hasattr(restorer, "restore"):
        raise ValueError("it lacks restore")
    if isinstance(getattr(restorer, "needs", None), Needs):
        return cast(Restorer, restorer)
    if not hasattr(restorer, "crop_size"):
        raise ValueError("it lacks needs, and crop_size in their place")
    needs = Needs(
        int(restorer.crop_size),
        references=bool(getattr(restorer, "uses_references", True)),
        previous=bool(getattr(restorer, "uses_previous", False)),
        kept=bool(getattr(restorer, "uses_kept", False)),
        device=torch.device(getattr(restorer, "device", "cpu")),
    )
    return _WithNeeds(restorer, needs)


@dataclass(frozen=True, slots=True, eq=False)
class _WithNeeds:
    """A restorer, and the needs that were read from its attributes."""

    restorer: Any
    needs: Needs

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        results: list[Result] = self.restorer.restore(requests)
        return results


class Masker(Protocol):
    """Finds where a face is not covered: hands, microphones and hair in front of it are not restored."""

    def mask(self, crops: Tensor) -> Tensor:
        """float32 (N, S, S) in [0, 1], 1 = restore here, of degraded `crops`, uint8 (N, 3, S, S) RGB."""
        ...
