"""The warping error separates a steady picture from a flickering one."""

from __future__ import annotations

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from pipeline.bench.steadiness import WarpingErrors
from support.faces import moved, textured

SCENE = textured(96, 128, seed=1)


def frame_of(luma: NDArray[np.uint8]) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(luma, format="gray").reformat(format="yuv420p")


def error_after(change: float, times: float) -> tuple[float, float]:
    """Mean errors before and after a restoration that adds `change`, multiplied by `times` in every second frame."""
    errors = WarpingErrors()
    for index in range(4):
        luma, _ = moved(SCENE, x=2 * index)
        added = change * (times if index % 2 else 1)
        after = np.clip(luma + added, 0, 255).astype(np.uint8)
        assert errors.arrange(frame_of(luma), restored := frame_of(after)) is restored
    assert len(errors.errors) == 3
    before, restored_error = np.mean(errors.errors, axis=0)
    return float(before), float(restored_error)


def test_a_change_that_comes_and_goes_trembles_and_a_steady_one_does_not() -> None:
    before, steady = error_after(10, times=1)
    assert before < 4
    assert steady == pytest.approx(before, abs=0.5)
    _, trembling = error_after(10, times=3)
    assert trembling == pytest.approx(20, abs=4)


def test_what_was_not_restored_does_not_count() -> None:
    errors = WarpingErrors()
    for index in range(3):
        same = frame_of(moved(SCENE, x=2 * index)[0])
        errors.arrange(same, same)
    assert errors.errors == []
