"""Training of the dense landmarks: a damaged, moved and partly covered view in, the points of the clean picture out.

The loss is the negative log-likelihood of a Gaussian whose sigma the network names, so sigma grows where nothing is
known. Each term is weighted by its own sigma (beta-NLL with beta 0.5, arXiv 2203.09168), or easy points would take
all of the gradient.

Shapes: B views, V views of each picture, N pictures, P points, A anchors.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from configs import ConfigError
from models.degradation.batch import degrade_batch, preset_batch
from models.degradation.film import tone
from models.degradation.kernels import Draws
from models.degradation.stills import MODERATE, SEVERE
from models.landmarks import CELLS, POINTS, VIEW_PX, LandmarkNetwork, LandmarkShape
from models.pictures import Picture
from models.training.dataset import load_faces, read_points

DAMAGE_PX = 96
"""Side at which pictures are degraded."""
MIDLINE = (
    *(0, 1, 2, 4, 5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19),
    *(94, 151, 152, 164, 168, 175, 195, 197, 199, 200),
)
"""Points that stay themselves in a mirrored picture: x = 0 in the canonical face model of mediapipe."""
_FIRST_SIGMA = 0.05
_MODEL_SHAPES = 3000
"""Moved shapes that anchors and linear model are made from."""
_ANCHOR_NOISE = 0.01
"""Deviation that the linear model expects of an anchor, in halves of a crop."""


@dataclass(frozen=True, slots=True)
class LandmarkSettings:
    """What is special to the recipe of the dense landmarks."""

    views: int = 2
    """Differently placed views of each degraded picture, V; degrading takes longer than placing."""
    clean_part: float = 0.2
    """Part of the pictures left clean."""
    covered_part: float = 0.3
    """Part of the pictures with something before the face."""
    turn_degrees: float = 12.0
    """Largest rotation of a view."""
    growth: float = 0.15
    """Largest change of scale."""
    shift: float = 0.06
    """Largest shift in parts of the crop."""
    even_moves: bool = False
    """Moves of all sizes alike; otherwise small ones come more often than large ones."""
    rarity: float = 0.0
    """How much more often turned and strongly expressive faces are drawn; 0 = all alike."""
    maps_weight: float = 1.0
    """Weight of the cross-entropy of the anchors' maps beside the likelihood of the points."""
    shape: LandmarkShape = field(default_factory=LandmarkShape)


@dataclass(frozen=True, slots=True, eq=False)
class LandmarkBatch:
    """Views and where the points of the clean pictures lie in them."""

    views: Tensor
    """float32 (B, 3, 64, 64) in [0, 1]."""
    points: Tensor
    """float32 (B, P, 2); -1 and 1 are the outer edges of the view."""


class LandmarkTask:
    """Batches, losses and network of the dense landmarks for `loop.train`."""

    def __init__(
        self, settings: LandmarkSettings, faces: Path, cache: Path, seed: int, device: torch.device
    ) -> None:
        """Raises `ConfigError` where points and pictures of `faces` do not go together."""
        self.settings = settings
        self.device = device
        self.seed = seed
        known = load_faces(faces, DAMAGE_PX, cache)
        files, points, found = centred_points(faces)
        if files != known.files:
            raise ConfigError(f"{faces}: landmarks.npz and the index name different pictures")
        usable = known.targets(1)
        self.usable = usable[found[usable]]
        self.pictures = known.pictures
        self.points = points
        self.chances = rarity(points[self.usable], settings.rarity)
        random = np.random.default_rng(seed)
        some = random.choice(self.usable, _MODEL_SHAPES)
        matrices = self._placements(random, len(some))
        self.shapes = move(torch.from_numpy(points[some]), matrices).numpy()
        self.anchors = choose_anchors(self.shapes, settings.shape.anchors)

    def network(self) -> LandmarkNetwork:
        """A network that begins with the linear model that best tells all points of the training faces by anchors."""
        network = LandmarkNetwork(self.settings.shape)
        weights, offset = shape_model(self.shapes, self.anchors)
        with torch.no_grad():
            network.model.weight.copy_(torch.from_numpy(weights))
            network.offset.copy_(torch.from_numpy(offset))
            network.rest.weight.zero_()
            network.rest.bias.zero_()
            network.log_sigma.bias.fill_(float(np.log(_FIRST_SIGMA)))
        return network

    def critic(self) -> None:
        """None: nothing here is adversarial."""

    def parameters(self) -> dict[str, object]:
        """What rebuilds the network, for the checkpoint's header."""
        return {key: getattr(self.settings.shape, key) for key in self.settings.shape.__slots__}

    def batch(self, images_seen: int, batch_size: int) -> LandmarkBatch:
        """The batch that follows after `images_seen` images; a function of the seed and this number.

        Raises `ConfigError` where the batch size is no multiple of the views of a picture.
        """
        views = self.settings.views
        if batch_size % views:
            raise ConfigError(f"batch_size must be a multiple of landmarks.views = {views}, got {batch_size}")
        random = np.random.default_rng((self.seed, images_seen))
        indices = random.choice(self.usable, batch_size // views, p=self.chances)
        seeds = [int(seed) for seed in random.integers(2**62, size=len(indices))]
        pictures = torch.from_numpy(self.pictures[indices]).to(self.device)
        pictures = pictures.permute(0, 3, 1, 2).float() / 255
        points = torch.from_numpy(self.points[indices])
        flipped = torch.from_numpy(random.random(len(indices)) < 0.5)
        pictures = torch.where(flipped.to(self.device)[:, None, None, None], pictures.flip(3), pictures)
        points = torch.where(flipped[:, None, None], mirror(points), points)
        pictures = cover(pictures, random, self.settings.covered_part)
        damaged = _damaged(tone(pictures, seeds), seeds, self.settings.clean_part)
        matrices = self._placements(random, batch_size)  # view -> picture
        grid = F.affine_grid(matrices.to(self.device), [batch_size, 1, VIEW_PX, VIEW_PX], align_corners=False)
        placed = F.grid_sample(
            damaged.repeat_interleave(views, 0), grid, padding_mode="reflection", align_corners=False
        )
        moved = move(points.repeat_interleave(views, 0), matrices)
        placed = placed.clamp_(0, 1).contiguous(memory_format=torch.channels_last)
        return LandmarkBatch(placed, moved.to(self.device))

    def losses(self, network: nn.Module, critic: nn.Module | None, batch: LandmarkBatch) -> dict[str, Tensor]:
        """Terms whose sum is minimised, already weighted; the likelihood may be negative."""
        points, log_sigma, log_chances = network(batch.views)
        wanted = cell_chances(batch.points[:, torch.from_numpy(self.anchors).to(batch.points.device)])
        maps = -(wanted * log_chances).sum((2, 3)).mean()
        return {
            "likelihood": likelihood(points, log_sigma, batch.points),
            "maps": self.settings.maps_weight * maps,
        }

    @torch.no_grad()
    def sheet(self, network: nn.Module) -> Picture:
        """Twelve views of a fixed batch with the points found, redder where sigma is larger."""
        batch = self.batch(0, 12 * self.settings.views)
        points, log_sigma, _ = network(batch.views)
        chosen = range(0, len(points), self.settings.views)
        drawn = [
            draw_points(
                (255 * batch.views[k].permute(1, 2, 0)).byte().cpu().numpy(),
                points[k].cpu().numpy(),
                log_sigma[k].exp().cpu().numpy(),
                3 * VIEW_PX,
            )
            for k in chosen
        ]
        return np.vstack([np.hstack(drawn[row : row + 4]) for row in range(0, len(drawn), 4)])

    def _placements(self, random: np.random.Generator, count: int) -> Tensor:
        """float32 (count, 2, 3): similarities in coordinates of [-1, 1]."""
        settings = self.settings
        size = 1.0 if settings.even_moves else random.random((4, count))
        angle, growth, right, down = size * random.uniform(-1, 1, (4, count))
        angle = angle * np.radians(settings.turn_degrees)
        scale = (1 + settings.growth) ** growth
        cosine, sine = scale * np.cos(angle), scale * np.sin(angle)
        rows = [
            np.stack([cosine, -sine, 2 * settings.shift * right], 1),
            np.stack([sine, cosine, 2 * settings.shift * down], 1),
        ]
        return torch.from_numpy(np.stack(rows, 1).astype(np.float32))


def likelihood(points: Tensor, log_sigma: Tensor, wanted: Tensor) -> Tensor:
    """Mean of log sigma + r^2 / (2 sigma^2) over views and points, weighted by sigma, the weights without gradient.

    `points` and `wanted`: (B, P, 2); `log_sigma`: (B, P), one for x and y; r^2 is their mean.
    """
    squared = (points - wanted).square().mean(2)
    terms = log_sigma + 0.5 * squared * (-2 * log_sigma).exp()
    weights = log_sigma.detach().exp()
    return (weights * terms).sum() / weights.sum()


def centred_points(folder: Path) -> tuple[tuple[str, ...], NDArray[np.float32], NDArray[np.bool_]]:
    """`read_points` with the points in [-1, 1] between the outer edges of the crop."""
    files, pixels, found = read_points(folder)
    return files, ((pixels + 0.5) / 256 - 1).astype(np.float32), found


def rarity(points: NDArray[np.float32], power: float) -> NDArray[np.float64]:
    """Chances (N,) of shapes `points` (N, P, 2), adding up to 1: in proportion to a power of the distance to the mean.

    Between half and three times the median distance, so that no few faces fill the batches.
    """
    distance = np.linalg.norm(points - points.mean(0), axis=2).mean(1, dtype=np.float64)
    weights = np.clip(distance / max(np.median(distance), 1e-9), 0.5, 3) ** power
    return np.asarray(weights / weights.sum())


def choose_anchors(shapes: NDArray[np.float32], count: int) -> NDArray[np.int64]:
    """Indices (A,) of the points that tell most of `shapes` (N, P, 2): each the one that the others tell least of.

    Pivoted Gram-Schmidt, as in QR with column pivoting.
    """
    rest = (shapes - shapes.mean(0)).transpose(0, 2, 1).reshape(-1, shapes.shape[1]).astype(np.float64)
    chosen: list[int] = []
    for _ in range(count):
        chosen.append(int((rest**2).sum(0).argmax()))
        direction = rest[:, chosen[-1]] / max(np.linalg.norm(rest[:, chosen[-1]]), 1e-9)
        rest -= direction[:, None] * (direction @ rest)
    return np.array(chosen, np.int64)


def shape_model(
    shapes: NDArray[np.float32], anchors: NDArray[np.int64]
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Weights (P, A) and offset (P, 2): all points as the same weighted sum of anchors in x and in y.

    Least squares over `shapes` (N, P, 2) with anchors that are off a little, so that their errors average out.
    """
    mean = shapes.mean(0, dtype=np.float64)
    flat = (shapes - mean).transpose(0, 2, 1).reshape(-1, len(mean))
    known = flat[:, anchors]
    noise = len(known) * _ANCHOR_NOISE**2 * np.eye(len(anchors))
    weights = np.linalg.solve(known.T @ known + noise, known.T @ flat).T
    return weights.astype(np.float32), (mean - weights @ mean[anchors]).astype(np.float32)


def cell_chances(places: Tensor) -> Tensor:
    """Chances (B, A, 16, 16), rows first, of anchors at `places` (B, A, 2): a Gaussian of one cell."""
    centres = (torch.arange(CELLS, device=places.device) + 0.5) * (2 / CELLS) - 1
    off = (places[..., None] - centres) * (CELLS / 2)  # (B, A, 2, 16)
    across, down = torch.softmax(-0.5 * off.square(), 3).unbind(2)
    return down[..., :, None] * across[..., None, :]


def mirrored_order() -> NDArray[np.int64]:
    """For each point the one that it becomes in a mirrored picture, (P,); its own inverse.

    The mesh numbers one half of the face up to 247 and the other, in the same order, from 248 on. On the training
    shapes it is the order in which mean and covariance of the mirrored shapes come nearest to those of the shapes.
    """
    order = np.arange(POINTS)
    half = np.setdiff1d(np.arange(248), MIDLINE)
    order[half], order[248:468] = np.arange(248, 468), half
    # Irises: the middle, then the rim from the side that is on the right of the picture, against the clock.
    irises = np.array([[468, 473], [469, 476], [470, 475], [471, 474], [472, 477]])
    order[irises] = irises[:, ::-1]
    return order


def mirror(points: Tensor) -> Tensor:
    """`points` (N, P, 2) in [-1, 1] of the mirrored pictures."""
    return points[:, torch.from_numpy(mirrored_order())] * points.new_tensor([-1.0, 1.0])


def move(points: Tensor, matrices: Tensor) -> Tensor:
    """Where picture `points` (B, P, 2) lie in views that `matrices` (B, 2, 3) take to the picture."""
    inverse = torch.linalg.inv(matrices[:, :, :2])
    moved: Tensor = (points - matrices[:, None, :, 2]) @ inverse.transpose(1, 2)
    return moved


def cover(pictures: Tensor, random: np.random.Generator, part: float) -> Tensor:
    """`pictures`, float32 (N, 3, S, S), `part` of them with one or two ellipses or boxes before the face.

    They are filled with a plain colour or with a piece of another picture.
    """
    result, side = pictures.clone(), pictures.shape[-1]
    for index in np.flatnonzero(random.random(len(pictures)) < part):
        for _ in range(random.integers(1, 3)):
            mask = np.zeros((side, side), np.float32)
            centre = (random.uniform(0.2, 0.8, 2) * side).tolist()
            axes = (random.uniform(0.06, 0.28, 2) * side).tolist()
            box = (centre, (2 * axes[0], 2 * axes[1]), random.uniform(0, 180))
            if random.random() < 0.5:
                cv2.ellipse(mask, box, 1.0, -1, cv2.LINE_AA)
            else:
                cv2.fillConvexPoly(mask, np.rint(cv2.boxPoints(box)).astype(np.int32), 1.0)
            other = pictures[random.integers(len(pictures))]
            shift = [int(step) for step in random.integers(side // 4, 3 * side // 4, 2)]
            fill = torch.roll(other, shift, (1, 2))
            if random.random() < 0.5:
                fill = fill[:, :1, :1].expand_as(fill)
            result[index] = torch.lerp(result[index], fill, torch.from_numpy(mask).to(result))
    return result


def draw_points(
    picture: Picture, points: NDArray[np.floating], sigma: NDArray[np.floating], size: int
) -> Picture:
    """`picture`, uint8 (S, S, 3), enlarged to `size`, with `points` (P, 2) in [-1, 1] as dots.

    Green where `sigma` (P,), in the same unit, is near nothing, red from 4 % of the side on.
    """
    canvas = np.asarray(cv2.resize(picture, (size, size), interpolation=cv2.INTER_CUBIC), np.uint8)
    for (x, y), spread in zip((points + 1) * (size / 2) - 0.5, sigma, strict=True):
        red = min(float(spread) / 0.08, 1.0)
        cv2.circle(
            canvas, (round(float(x)), round(float(y))), 1, (255 * red, 255 * (1 - red), 0), -1, cv2.LINE_AA
        )
    return canvas


def _damaged(pictures: Tensor, seeds: list[int], clean_part: float) -> Tensor:
    """All but `clean_part` of `pictures` degraded."""
    draws = Draws(seeds, "landmarks")
    rest = 1 - clean_part
    kind = draws.choice((clean_part, 0.15 * rest, 0.2 * rest, 0.65 * rest))
    strength, result = draws.uniform() ** 1.3, pictures.clone()
    for number in (1, 2, 3):
        chosen = np.flatnonzero(kind == number)
        if not len(chosen):
            continue
        index = torch.from_numpy(chosen).to(pictures.device)
        some = [seeds[place] for place in chosen]
        if number == 3:
            result[index] = degrade_batch(pictures[index], some, strength[chosen], DAMAGE_PX)
        else:
            preset = MODERATE if number == 1 else SEVERE
            result[index] = preset_batch(pictures[index], some, preset, DAMAGE_PX)
    return result
