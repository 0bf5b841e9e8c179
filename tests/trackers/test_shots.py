from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from numpy.typing import NDArray

from support.faces import moved, textured
from trackers.shots import EveryFrame, ShotConfig, ShotDetector

Picture = NDArray[np.uint8]


def scene(seed: int) -> Picture:
    return textured(120, 200, seed, detail=3)


def cuts(pictures: Iterable[Picture]) -> list[int]:
    detector = ShotDetector()
    return [index for index, picture in enumerate(pictures) if detector.is_cut(picture)]


def with_noise(pictures: Iterable[Picture], sigma: float = 5) -> list[Picture]:
    random = np.random.default_rng(0)
    return [np.clip(p + random.normal(0, sigma, p.shape), 0, 255).astype(np.uint8) for p in pictures]


def lit(picture: Picture, gain: float, offset: float = 0) -> Picture:
    return np.clip(picture * gain + offset, 0, 255).astype(np.uint8)


def test_cuts_are_found_at_the_first_frame_of_a_shot() -> None:
    assert cuts(with_noise([*[scene(1)] * 6, *[scene(2)] * 5, *[scene(3)] * 7])) == [6, 11]


def test_dark_cuts_are_found() -> None:
    assert cuts([lit(scene(seed), 0.15, 4) for seed in [1, 1, 1, 2, 2, 2]]) == [3]


def test_shots_of_one_frame_are_cuts() -> None:
    assert cuts([scene(seed) for seed in (1, 2, 3, 4)]) == [1, 2, 3]


def test_the_first_frame_is_no_cut() -> None:
    assert cuts([scene(1)]) == []


def test_a_standing_picture_with_noise_has_no_cuts() -> None:
    assert cuts(with_noise([scene(1)] * 12, sigma=15)) == []


@pytest.mark.parametrize("step", [2, 8, 16])
def test_a_pan_is_no_cut(step: float) -> None:
    wide = textured(120, 600, 1, detail=3)
    assert cuts([np.ascontiguousarray(wide[:, x : x + 200]) for x in range(0, 400, step)]) == []


def test_pictures_that_get_more_and_more_restless_have_no_cuts() -> None:
    random = np.random.default_rng(0)
    noise = [random.normal(0, sigma, (120, 200)) for sigma in np.linspace(10, 120, 60)]
    assert cuts(np.clip(scene(1) + n, 0, 255).astype(np.uint8) for n in noise) == []


def test_a_zoom_is_no_cut() -> None:
    assert cuts([moved(scene(1), scale=1.07**i)[0] for i in range(10)]) == []


def test_a_fade_is_no_cut() -> None:
    assert cuts([lit(scene(1), 1 - i / 12) for i in range(12)]) == []


def test_a_fade_through_black_to_another_scene_is_one_cut() -> None:
    down = [lit(scene(1), 1 - i / 10) for i in range(11)]
    up = [lit(scene(2), i / 10) for i in range(11)]
    assert len(cuts([*down, *up])) == 1


def test_a_flash_is_no_cut() -> None:
    flash = lit(scene(1), 1.5, 180)  # nearly all of it is white
    assert cuts([*[scene(1)] * 4, flash, *[scene(1)] * 4]) == []


def test_a_cut_to_a_bright_scene_is_found_a_frame_late_at_most() -> None:
    bright = lit(scene(2), 1.5, 60)
    found = cuts([*[scene(1)] * 4, *[bright] * 5])
    assert len(found) == 1
    assert found[0] in (4, 5)


def test_a_black_frame_in_between_is_no_cut() -> None:
    assert cuts([*[scene(1)] * 3, np.zeros((120, 200), np.uint8), *[scene(1)] * 3]) == []


def test_every_unrelated_picture_begins_a_shot() -> None:
    detector = EveryFrame()
    assert [detector.is_cut(scene(1)) for _ in range(3)] == [True, True, True]


def test_other_pictures_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        ShotDetector().is_cut(np.zeros((4, 4, 3), np.uint8))


@pytest.mark.parametrize("setting", [{"min_change": 0.0}, {"contrast_to_motion": 0.5}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        ShotConfig(**setting)  # type: ignore[arg-type]
