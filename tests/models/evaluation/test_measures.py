"""Measures of the evaluation: skin, spectrum, errors of means, verification."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray

from models.evaluation.encoder import area_under_curve, verify
from models.evaluation.measures import skin_ratio, skin_regions, spectrum_ratios
from models.evaluation.meter import mean_and_error

Picture = NDArray[np.uint8]


def skin(seed: int = 0, grain: float = 6.0) -> Picture:
    """A picture that is skin all over: grey with grain, uint8 (256, 256, 3)."""
    noise = grain * np.random.default_rng(seed).standard_normal((256, 256, 1))
    return np.clip(128 + np.repeat(noise, 3, 2), 0, 255).round().astype(np.uint8)


def test_texture_of_equal_skin_is_one() -> None:
    assert skin_ratio(skin(), skin()) == 1
    assert np.array_equal(spectrum_ratios(skin(), skin()), np.ones(3))


def test_half_the_grain_is_a_quarter_of_the_energy() -> None:
    assert skin_ratio(skin(grain=4), skin(seed=1, grain=8)) == pytest.approx(0.25, rel=0.1)


def test_eyes_mouth_and_surroundings_are_not_skin() -> None:
    busy = skin()
    elsewhere = np.random.default_rng(2).integers(0, 256, busy.shape, np.uint8)
    # One pixel around the regions belongs to their gradients.
    near = np.zeros((256, 256), bool)
    for region in skin_regions():
        rows, columns = np.nonzero(region)
        near[rows.min() : rows.max() + 2, columns.min() : columns.max() + 2] = True
    busy[~near] = elsewhere[~near]
    assert skin_ratio(busy, skin()) == 1
    for x, y in ((96, 120), (159, 120), (128, 157), (100, 185), (156, 185), (96, 102), (159, 102)):
        assert not skin_regions()[:, y, x].any()


def test_hair_before_a_forehead_does_not_count() -> None:
    hair = skin_regions()[2]
    target, restored = skin(grain=4), skin(seed=1, grain=4)
    target[hair] = np.random.default_rng(3).integers(0, 256, (int(hair.sum()), 1), np.uint8)
    assert skin_ratio(restored, target) == pytest.approx(1, abs=0.15)


@pytest.mark.parametrize(("period_px", "band"), [(12, 0), (6, 1), (3, 2)])
def test_a_wave_on_the_skin_shows_in_its_own_band(period_px: int, band: int) -> None:
    wave = 10 * np.sin(2 * np.pi * np.arange(256) / period_px)
    waved = np.clip(skin() + wave[None, :, None], 0, 255).round().astype(np.uint8)
    ratios = spectrum_ratios(waved, skin())
    assert ratios.argmax() == band
    assert ratios[band] > 3 * np.delete(ratios, band).max()


def test_error_of_a_mean_is_the_spread_over_the_root_of_the_count() -> None:
    mean, error = mean_and_error(np.array([1.0, 3.0, 1.0, 3.0, np.nan]))
    assert mean == 2
    assert error == pytest.approx(np.sqrt(4 / 3) / 2)


def test_area_counts_ties_half() -> None:
    assert area_under_curve(np.array([1.0, 2.0]), np.array([0.0, 1.0, 1.0, 3.0])) == pytest.approx(0.625)
    assert np.isnan(area_under_curve(np.array([]), np.array([1.0])))


def test_a_picture_is_not_held_against_itself() -> None:
    # Two people whose other picture points the other way: only the picture itself would agree.
    wanted = np.array([[1, 0], [-1, 0.1], [0, 1], [0.1, -1]], np.float32)
    row = verify(wanted, wanted, np.array([0, 0, 1, 1]), ("album", "clean", "own"))
    assert (row.same_pairs, row.other_pairs) == (4, 8)
    assert row.same < -0.9
    assert row.area == 0


def test_the_upper_half_by_norm_is_the_clear_half() -> None:
    people = np.repeat(np.arange(20), 2)
    random = np.random.default_rng(0)
    wanted = np.repeat(random.standard_normal((20, 16)), 2, 0)
    lost = np.arange(40) % 4 == 0
    seen = np.where(lost[:, None], 0.1 * random.standard_normal((40, 16)), wanted)
    row = verify(seen.astype(np.float32), wanted.astype(np.float32), people, ("album", "severe", "own"))
    assert row.area_upper == 1
    assert row.area_lower < row.area < row.area_upper


def test_accepted_is_counted_at_one_per_cent_of_strangers() -> None:
    angles = np.concatenate([np.zeros(2), np.linspace(0.5, 3, 200)])
    vectors = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
    people = np.concatenate([[0, 0], np.arange(1, 201)])
    assert verify(vectors, vectors, people, ("album", "clean", "own")).accepted == 1
    strangers = np.tile(vectors[:1], (202, 1))
    assert verify(strangers, strangers, people, ("album", "clean", "own")).accepted == 0
