"""Each kind of damage by name, and sheets of them: `python -m models.degradation.show --clip CLIP --out PICTURE`.

Writes a sheet with a row for each named degradation and a column for each strength, and beside it, named
`..._presets`, one of the presets and of the free course at several seeds. Arguments of a degradation as in
`models.degradation.film`: strength 0 changes nearly nothing, 1 is the worst that training meets.

Shapes: B pictures, H W pixels, S side of the aligned crop.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from models.align import crop_matrix
from models.decord_library import load_decord
from models.degradation.batch import degrade_batch, plain_passage, preset_batch
from models.degradation.coding import video_tables
from models.degradation.film import (
    TONES,
    Degradation,
    chroma_bleed,
    dust,
    film_grain,
    halftone,
    interlacing,
    scan_lines,
    scratches,
)
from models.degradation.kernels import RESIZING, Draws, Numbers, numbers
from models.degradation.passage import Passage, through
from models.degradation.stills import MODERATE, REFERENCE_SIDE_PX, SEVERE
from models.detector import CenterFaceDetector
from models.pictures import Picture, to_floats, to_picture

SIDE_PX = 256
STRENGTHS = (0.0, 0.25, 0.5, 0.75, 1.0)
_LABEL_PX = 150
_HEAD_PX = 26
_SHOWN_PX = 152
"""Of the crop's middle, at its own size: reduced pictures would hide what is shown."""
_SEEDS = {"interlacing": 3, "scan lines": 0, "film grain": 2, "scratches": 3}
"""Where another seed shows more than the first."""


def _passing(plan: Callable[[Numbers, float, Draws], Passage]) -> Degradation:
    """The degradation whose passage `plan` makes of strengths, the crop's side and each sample's random numbers."""

    def degradation(
        pictures: Tensor, strengths: ArrayLike, seeds: Sequence[int], side_px: ArrayLike
    ) -> Tensor:
        side = float(np.asarray(side_px, np.float64).reshape(-1)[0])
        passage = plan(numbers(strengths, len(pictures)), side, Draws(seeds, "angle"))
        return through(pictures, seeds, passage, side)

    return degradation


def _blur(lens: str) -> Degradation:
    return _passing(
        lambda strength, side, draws: plain_passage(
            len(strength),
            lens=lens,
            sigma=strength * 14 * side / REFERENCE_SIDE_PX,
            angle=draws.uniform(0, np.pi),
            grid_px=side,
        )
    )


def _resized(kind: str) -> Degradation:
    """Down by up to 16 with the kernel `kind`, and up again with it where it is no box."""
    return _passing(
        lambda strength, side, draws: plain_passage(
            len(strength),
            grid_px=_grid(strength, side),
            reducing=RESIZING.index(kind),
            enlarging=RESIZING.index("bilinear" if kind == "area" else kind),
        )
    )


def _noise(spread: float) -> Degradation:
    return _passing(
        lambda strength, side, draws: plain_passage(
            len(strength), grid_px=side, noise=strength * 26 / 255, noise_spread=spread
        )
    )


def _jpeg(strength: Numbers, side: float, draws: Draws) -> Passage:
    """JPEG from quality 95 to 20."""
    return plain_passage(len(strength), grid_px=side, quality=np.round(95 - 75 * strength))


def _video(strength: Numbers, side: float, draws: Draws) -> Passage:
    """Blocks of a video codec with dead zone and loop filter, from quantiser 14 to 42."""
    tables = video_tables(14 + 28 * strength, np.full(len(strength), 0.5))
    return plain_passage(len(strength), grid_px=side, video=tables)


def _small_video(strength: Numbers, side: float, draws: Draws) -> Passage:
    """A small picture, coded, enlarged: the blocks are as large as in an old stream."""
    tables = video_tables(14 + 20 * strength, np.full(len(strength), 0.5))
    return plain_passage(len(strength), grid_px=_grid(0.5 * strength, side), video=tables)


def _grid(strength: Numbers, side: float) -> Numbers:
    """Grid for a reduction from 1 to 16 of what the crop has."""
    return np.floor(side / 16**strength)


DEGRADATIONS: dict[str, Degradation] = {
    "Gaussian blur": _blur("gaussian"),
    "anisotropic blur": _blur("anisotropic"),
    "motion blur": _blur("motion"),
    "defocus": _blur("defocus"),
    "area resizing": _resized("area"),
    "bicubic resizing": _resized("bicubic"),
    "nearest resizing": _resized("nearest"),
    "white noise": _noise(0.0),
    "grainy noise": _noise(1.0),
    "JPEG": _passing(_jpeg),
    "video blocks": _passing(_video),
    "small coded video": _passing(_small_video),
    "interlacing": interlacing,
    "scan lines": scan_lines,
    "chroma bleed": chroma_bleed,
    "halftone": halftone,
    "film grain": film_grain,
    "scratches": scratches,
    "dust": dust,
}
"""Onto the degraded picture alone; changes of tone are in `tone.TONES`."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Reads the clip, writes both sheets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--clip", type=Path, required=True, help="a clip with a face")
    parser.add_argument("--out", type=Path, required=True, help="for example docs/degradations.jpg")
    parser.add_argument("--frame", type=int, default=0, help="which frame of the clip")
    options = parser.parse_args(arguments)
    face = aligned_face(options.clip, options.frame)
    pictures = to_floats(face[None])
    _write(options.out, strength_sheet(pictures))
    presets = options.out.with_name(f"{options.out.stem}_presets{options.out.suffix}")
    _write(presets, preset_sheet(pictures))


def aligned_face(clip: Path, frame: int) -> Picture:
    """The best face of one frame, (S, S, 3) RGB. Raises `ValueError` where there is none."""
    image: Picture = load_decord().VideoReader(str(clip))[frame].asnumpy()
    faces = CenterFaceDetector().detect(image)
    if not faces:
        raise ValueError(f"{clip}: no face in frame {frame}; choose another with --frame")
    matrix = crop_matrix(faces[0].landmarks, SIDE_PX)
    crop = cv2.warpAffine(
        image, matrix, (SIDE_PX, SIDE_PX), flags=cv2.INTER_CUBIC, borderMode=cv2.BORDER_REFLECT_101
    )
    return np.ascontiguousarray(crop, np.uint8)


def strength_sheet(pictures: Tensor) -> Picture:
    """Rows of degradations and then of tones, columns of `STRENGTHS`; `pictures` float32 (1, 3, S, S)."""
    many = pictures.expand(len(STRENGTHS), -1, -1, -1)
    rows, names = [], []
    for name, change in {**DEGRADATIONS, **TONES}.items():
        seeds = [_SEEDS.get(name, 1)] * len(STRENGTHS)
        rows.append(_middle(change(many, STRENGTHS, seeds, SIDE_PX)))
        names.append(name if name in DEGRADATIONS else f"{name} *")
    return _sheet(rows, names, [f"{strength:g}" for strength in STRENGTHS])


def preset_sheet(pictures: Tensor) -> Picture:
    """Rows of the presets and the course, columns of seeds; `pictures` float32 (1, 3, S, S)."""
    seeds = list(range(5))
    many = pictures.expand(len(seeds), -1, -1, -1)
    rows = [
        _middle(preset_batch(many, seeds, MODERATE, SIDE_PX)),
        _middle(preset_batch(many, seeds, SEVERE, SIDE_PX)),
        _middle(degrade_batch(many, [seed + 10 for seed in seeds], 0.3, SIDE_PX)),
        _middle(degrade_batch(many, [seed + 20 for seed in seeds], 0.6, SIDE_PX)),
        _middle(degrade_batch(many, [seed + 30 for seed in seeds], 0.9, SIDE_PX)),
    ]
    names = ["moderate", "severe", "course at 0.3", "course at 0.6", "course at 0.9"]
    return _sheet(rows, names, [f"seed {seed}" for seed in seeds])


def _middle(pictures: Tensor) -> Picture:
    """The features of the face side by side, (P, B P, 3)."""
    left, top = (SIDE_PX - _SHOWN_PX) // 2, (SIDE_PX - _SHOWN_PX) * 5 // 8
    parts = pictures[:, :, top : top + _SHOWN_PX, left : left + _SHOWN_PX]
    return np.concatenate(list(to_picture(parts)), 1)


def _sheet(rows: Sequence[Picture], names: Sequence[str], columns: Sequence[str]) -> Picture:
    head = np.full((_HEAD_PX, _LABEL_PX + rows[0].shape[1], 3), 255, np.uint8)
    for index, text in enumerate(columns):
        _text(head, text, (_LABEL_PX + index * _SHOWN_PX + 6, 18))
    lines = [head]
    for row, name in zip(rows, names, strict=True):
        label = np.full((_SHOWN_PX, _LABEL_PX, 3), 255, np.uint8)
        _text(label, name, (6, _SHOWN_PX // 2))
        lines.append(np.concatenate([label, row], 1))
    return np.concatenate(lines, 0)


def _text(image: NDArray[np.uint8], text: str, place: tuple[int, int]) -> None:
    cv2.putText(image, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1, cv2.LINE_AA)


def _write(path: Path, image: Picture) -> None:
    quality = (cv2.IMWRITE_JPEG_QUALITY, 72) if path.suffix == ".jpg" else ()
    cv2.imwrite(str(path), cv2.cvtColor(image, cv2.COLOR_RGB2BGR), quality)
    print(f"{path}: {image.shape[1]} x {image.shape[0]} pixels")


if __name__ == "__main__":
    main()
