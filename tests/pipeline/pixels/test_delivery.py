"""What was restored arrives in the picture at every size, and what is finer than the crop stays where it is signal."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.align import invert, scale_of
from models.protocols import Needs, Request, Result
from pipeline.frames import Detail, Frame, TrackedFace, TrackedFrame
from pipeline.media.coding import planes_of
from pipeline.pixels.blend import BlendConfig, blend, giving_way, noise_level
from pipeline.pixels.colour import read_crop
from pipeline.stages.restore import RestoreConfig, restore
from support.fakes import tracked_face

CROP = 64
PLAIN = BlendConfig(colour_match=0, steadiness=0)


class Engraver:
    """Adds one and the same pattern to every crop, which a crop just holds."""

    needs = Needs(CROP)

    def restore(self, requests: list[Request]) -> list[Result]:
        return [
            Result((request.crop.int() + pattern()).clamp(0, 255).to(torch.uint8)) for request in requests
        ]


class Untouching(Engraver):
    """Changes next to nothing: one sample."""

    def restore(self, requests: list[Request]) -> list[Result]:
        images = [request.crop.clone() for request in requests]
        for image in images:
            image[:, CROP // 2, CROP // 2] += 1
        return [Result(image) for image in images]


def pattern() -> Tensor:
    """int (3, S, S), alike in all colours."""
    waves = 15 * np.sin(np.arange(CROP) / 1.3)
    return torch.from_numpy(np.rint(np.add.outer(waves, waves)).astype(np.int32)).expand(3, CROP, CROP)


def film(side: float, luma: NDArray[np.float32], detail: Detail) -> TrackedFrame:
    """A grey frame, (H, W), in whose middle is a face whose crop is `side` pixels wide on screen."""
    height, width = luma.shape
    native = av.VideoFrame(width, height, "gray")
    planes_of(native)[0][:] = np.clip(np.rint(luma), 0, 255).astype(np.uint8)
    native.pts, native.time_base = 0, Fraction(1, 25)
    scale = CROP / side
    shift = [(CROP - 1) / 2 - scale * (length - 1) / 2 for length in (width, height)]
    matrix = np.array([[scale, 0, shift[0]], [0, scale, shift[1]]], np.float32)
    face = replace(tracked_face(), matrix=matrix, crop=read_crop(native, matrix, CROP), detail=detail)
    return TrackedFrame(Frame(0, 0, Fraction(1, 25), native), (face,), monochrome=False)


def delivered(tracked: TrackedFrame, restorer: Engraver, config: BlendConfig = PLAIN) -> av.VideoFrame:
    (frame,) = restore([tracked], restorer, RestoreConfig(), steadiness=config.steadiness)
    return blend(frame, config)


def share(tracked: TrackedFrame, after: av.VideoFrame) -> float:
    """Of the pattern, where it lies on screen, in the middle of the face."""
    (face,) = tracked.faces
    before, now = (planes_of(native)[0].astype(np.float64) for native in (tracked.frame.native, after))
    shown = (before.shape[1], before.shape[0])
    whole = np.ascontiguousarray(pattern()[0].numpy().astype(np.float32))
    wanted = cv2.warpAffine(whole, invert(face.matrix), shown, flags=cv2.INTER_CUBIC).astype(np.float64)
    reach = round(CROP / scale_of(face.matrix) / 4)
    middle = tuple(slice(length // 2 - reach, length // 2 + reach) for length in before.shape)
    return float(((now - before) * wanted)[middle].sum() / (wanted * wanted)[middle].sum())


def blurred(shape: tuple[int, int], sigma: float = 12) -> NDArray[np.float32]:
    rough = np.random.default_rng(0).normal(0, 1, shape).astype(np.float32)
    soft = cv2.GaussianBlur(rough, (0, 0), sigma)
    return np.asarray(120 + 25 * soft / soft.std(), np.float32)


@pytest.mark.parametrize("side", [64, 100, 175, 225])
def test_the_full_change_arrives_at_every_size(side: int) -> None:
    # 225 pixels on screen are to a crop of 64 what 900 are to one of 256.
    tracked = film(side, blurred((240, 240)), Detail(fine=0))
    assert share(tracked, delivered(tracked, Engraver())) == pytest.approx(1, abs=0.06)


def test_strength_does_not_jump_while_a_face_grows() -> None:
    sides = np.geomspace(50, 140, 40)
    shares = [
        share(tracked, delivered(tracked, Engraver()))
        for tracked in (film(side, blurred((180, 180)), Detail(fine=0)) for side in sides)
    ]
    assert np.abs(np.diff(shares)).max() <= 0.03
    assert min(shares) > 0.9


def test_a_sharp_face_keeps_its_fine_band() -> None:
    sharp = np.clip(blurred((200, 200)) + blurred((200, 200), 0.7) - 120, 0, 255)
    tracked = film(175, sharp, Detail(fine=1))
    before, after = (edges(planes_of(n)[0]) for n in (tracked.frame.native, delivered(tracked, Untouching())))
    assert after >= 0.98 * before
    soft = film(175, sharp, Detail(fine=0))
    assert edges(planes_of(delivered(soft, Untouching()))[0]) < 0.3 * before


def edges(luma: NDArray[np.generic]) -> float:
    """Gradient energy in the middle of the face."""
    middle = np.asarray(luma, np.float32)[60:140, 60:140]
    return float((np.diff(middle, axis=0) ** 2).mean() + (np.diff(middle, axis=1) ** 2).mean())


@pytest.mark.parametrize(
    ("kind", "detail", "kept"),
    [
        ("auto", Detail(fine=0, grain=0), 0.0),
        ("auto", Detail(fine=0, grain=6), 1.0),
        ("film", Detail(fine=0, grain=0), 1.0),
        ("damage", Detail(fine=0, grain=6), 0.0),
    ],
    ids=["no film grain", "film grain", "said to be film", "said to be damage"],
)
def test_noise_stays_only_where_it_is_film_grain(kind: str, detail: Detail, kept: float) -> None:
    noisy = blurred((200, 200)) + np.random.default_rng(1).normal(0, 6, (200, 200)).astype(np.float32)
    tracked = film(175, noisy, detail)
    config = replace(PLAIN, grain_kind=kind)  # type: ignore[arg-type]
    after = planes_of(delivered(tracked, Untouching(), config))[0].astype(np.float32)
    inside = np.zeros(after.shape, bool)
    inside[60:140, 60:140] = True
    left = noise_level(after, inside) / noise_level(np.rint(noisy).astype(np.float32), inside)
    assert left == pytest.approx(kept, abs=0.25)


def test_grain_is_given_back_up_to_the_films_own() -> None:
    noisy = blurred((140, 140)) + np.random.default_rng(1).normal(0, 8, (140, 140)).astype(np.float32)

    class Smoother(Engraver):
        def restore(self, requests: list[Request]) -> list[Result]:
            return [Result(torch.full_like(request.crop, 120)) for request in requests]

    levels = {}
    for grain in (0.0, 4.0, 20.0):
        tracked = film(CROP, noisy, Detail(grain=grain))
        after = planes_of(delivered(tracked, Smoother(), replace(PLAIN, grain=1)))[0].astype(np.float32)
        inside = np.zeros(after.shape, bool)
        inside[50:90, 50:90] = True
        levels[grain] = noise_level(after, inside)
    assert levels[0.0] < 1
    assert levels[4.0] == pytest.approx(4, rel=0.3)
    assert levels[20.0] == pytest.approx(8, rel=0.3)


def test_nothing_gives_way_while_the_crop_holds_the_face() -> None:
    def away(side: float, fine: float = 0) -> float:
        face: TrackedFace = film(side, blurred((100, 100)), Detail(fine=fine)).faces[0]
        assert scale_of(face.matrix) == pytest.approx(CROP / side)
        return float(giving_way(face, PLAIN))

    assert [away(40), away(64), away(70)] == [0, 0, 0]
    assert 0 < away(85) < 1
    assert (away(110), away(110, 1), away(110, 0.5)) == (1, 0, 0.5)
