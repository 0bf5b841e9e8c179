"""Restored crops go back without a seam, a colour shift or a plastic patch."""

from __future__ import annotations

from dataclasses import replace

import av
import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from pipeline.frames import Frame, RestoredFace, RestoredFrame, TrackedFrame
from pipeline.pixels.blend import BlendConfig, blend, crop_mask, noise_level
from pipeline.pixels.colour import read_crop
from support.fakes import gray_frame, tracked_face

PLAIN = BlendConfig(colour_match=0, grain=0)


def luma(native: av.VideoFrame) -> NDArray[np.uint8]:
    return native.to_ndarray()[: native.height]


def noisy_frame(sigma: float) -> Frame:
    """A flat grey frame with grain."""
    frame = gray_frame(0, (96, 96))
    picture = frame.native.to_ndarray()
    grain = np.random.default_rng(0).normal(0, sigma, (96, 96))
    picture[:96] = np.clip(picture[:96] + grain, 16, 235)
    native = av.VideoFrame.from_ndarray(picture, format="yuv420p")
    native.pts, native.time_base = frame.pts, frame.time_base
    return replace(frame, native=native)


def restored(
    change: object = 0, *, frame: Frame | None = None, strength: float = 1.0, monochrome: bool = False
) -> RestoredFrame:
    """A frame whose face was changed by `change` (added to the crop, or the crop itself)."""
    frame = frame or gray_frame(0)
    face = tracked_face(strength=strength)
    face = replace(face, crop=read_crop(frame.native, face.matrix, 64))
    image = (
        change
        if isinstance(change, torch.Tensor)
        else (face.crop.int() + change).clamp(0, 255).to(torch.uint8)
    )
    tracked = TrackedFrame(frame, (face,), monochrome)
    return RestoredFrame(tracked, (RestoredFace(face, image),))


def test_a_frame_without_faces_is_the_decoders_own() -> None:
    frame = gray_frame(0)
    assert blend(RestoredFrame(TrackedFrame(frame, (), False), ()), BlendConfig()) is frame.native


def test_a_restorer_that_changes_nothing_changes_no_sample() -> None:
    frame = restored(0, frame=noisy_frame(5))
    after = blend(frame, BlendConfig())
    assert np.array_equal(after.to_ndarray(), frame.tracked.frame.native.to_ndarray())


def test_the_face_changes_and_the_rest_stays_bit_identical() -> None:
    frame = restored(60)
    before, after = frame.tracked.frame.native.to_ndarray(), blend(frame, PLAIN).to_ndarray()
    changed = before != after
    assert after[48, 48] > before[48, 48] + 40
    assert not changed[:16].any()
    assert not changed[:96, :16].any()
    assert not changed[80:96].any()


@pytest.mark.parametrize("share", [0.25, 0.5])
def test_strength_is_linear_wherever_it_comes_from(share: float) -> None:
    whole = luma(blend(restored(60), PLAIN)).astype(float) - 90
    of_face = luma(blend(restored(60, strength=share), PLAIN)).astype(float) - 90
    of_run = luma(blend(restored(60), replace(PLAIN, strength=share))).astype(float) - 90
    assert np.abs(of_face - share * whole).max() <= 1
    assert np.array_equal(of_face, of_run)


def test_the_edge_has_no_step() -> None:
    after = luma(blend(restored(60), PLAIN)).astype(int)
    assert np.abs(np.diff(after, axis=0)).max() < 20
    assert np.abs(np.diff(after, axis=1)).max() < 20


def test_mask_reaches_from_nought_to_one_and_widens_with_feather() -> None:
    narrow, wide = crop_mask(256, 8), crop_mask(256, 64)
    for mask in (narrow, wide):
        assert mask.max() == 1
        assert max(mask[0].max(), mask[-1].max(), mask[:, 0].max(), mask[:, -1].max()) == 0
    assert ((wide > 0.05) & (wide < 0.95)).sum() > 3 * ((narrow > 0.05) & (narrow < 0.95)).sum()


def test_a_colour_shift_of_the_restorer_is_taken_back() -> None:
    shift = torch.tensor([25, -10, -20])[:, None, None]
    without, with_match = (blend(restored(shift), replace(PLAIN, colour_match=match)) for match in (0, 1))
    before = gray_frame(0).native.to_ndarray().astype(int)
    assert np.abs(without.to_ndarray() - before).max() > 5
    assert np.abs(with_match.to_ndarray() - before).max() <= 2


def test_colour_match_keeps_detail() -> None:
    stripes = 40 * (torch.arange(64) // 4 % 2 * 2 - 1)[None, None, :]
    after = luma(blend(restored(stripes), replace(PLAIN, colour_match=1)))
    assert after[40:56, 40:56].std() > 20


def test_a_black_and_white_shot_stays_black_and_white() -> None:
    shift = torch.tensor([60, 0, -60])[:, None, None]
    after = blend(restored(shift, monochrome=True), PLAIN).to_ndarray()
    assert (after[96:] == 128).all()
    assert (blend(restored(shift), PLAIN).to_ndarray()[96:] != 128).any()


def test_grain_that_restoration_removed_is_given_back() -> None:
    frame = noisy_frame(6)
    flat = torch.full(
        (3, 64, 64), int(read_crop(frame.native, tracked_face().matrix, 64).float().mean()), dtype=torch.uint8
    )
    face = np.zeros((96, 96), bool)
    face[36:60, 36:60] = True
    level = {
        grain: noise_level(
            luma(blend(restored(flat, frame=frame), replace(PLAIN, grain=grain, grain_kind="film"))).astype(
                np.float32
            ),
            face,
        )
        for grain in (0.0, 1.0)
    }
    source = noise_level(luma(frame.native).astype(np.float32), face)
    assert level[0.0] < 0.3 * source
    assert 0.6 * source < level[1.0] < 1.4 * source


def test_grain_depends_on_the_frame_and_the_seed_alone() -> None:
    frame = noisy_frame(6)
    flat = torch.full((3, 64, 64), 90, dtype=torch.uint8)
    config = BlendConfig(grain=1, grain_kind="film")
    first, again = (blend(restored(flat, frame=frame), config).to_ndarray() for _ in range(2))
    other = blend(restored(flat, frame=frame), replace(config, seed=1)).to_ndarray()
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)


def test_noise_level_measures_noise_and_not_features() -> None:
    y, x = np.mgrid[:128, :128]
    smooth = (128 + 60 * np.sin(x / 9) * np.cos(y / 11)).astype(np.float32)
    everywhere = np.ones((128, 128), bool)
    assert noise_level(smooth, everywhere) < 0.6
    noisy = smooth + np.random.default_rng(0).normal(0, 4, smooth.shape).astype(np.float32)
    assert 3 < noise_level(noisy, everywhere) < 5


@pytest.mark.parametrize(
    "setting", [{"strength": 1.5}, {"grain": -1}, {"feather": 0}, {"min_feather_px": -1}]
)
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        BlendConfig(**setting)
