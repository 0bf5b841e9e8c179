"""A few frames a second are frames of the film at their own times, and come without decoding all others."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest

from pipeline.media.source import FileSource
from support.clips import write_clip

RATE = Fraction(25)


def sparse(path: Path, every: float, **stretch: float) -> list[tuple[float, float]]:
    """Seconds and mean luma."""
    source = FileSource(path, **stretch)  # type: ignore[arg-type]
    return [
        (float(frame.pts * frame.time_base), float(np.frombuffer(frame.native.planes[0], np.uint8).mean()))
        for frame in source.sparse(every)
    ]


def film(path: Path, **options: str) -> Path:
    return write_clip(path, frames=50, rate=RATE, options={"preset": "veryfast", "qp": "12", **options})


@pytest.mark.parametrize("keys", ["5", "250"], ids=["key frames alone", "all that others lean on"])
def test_frames_are_those_of_the_film_at_their_times(tmp_path: Path, keys: str) -> None:
    path = film(tmp_path / "in.mkv", g=keys, bf="2")
    every = {
        float(frame.pts * frame.time_base): float(np.frombuffer(frame.native.planes[0], np.uint8).mean())
        for frame in FileSource(path)
    }
    found = sparse(path, 0.4)
    assert 4 <= len(found) <= 6
    assert dict(found).items() <= every.items()
    steps = np.diff([seconds for seconds, _ in found])
    assert steps.min() >= 0.2
    assert steps.max() <= 0.6


def test_key_frames_a_little_apart_are_not_left_out(tmp_path: Path) -> None:
    """Every 0.48 s, where one every half second is wanted."""
    path = write_clip(
        tmp_path / "in.mkv", frames=96, rate=RATE,
        options={"preset": "ultrafast", "qp": "12", "g": "12", "sc_threshold": "0"},
    )  # fmt: skip
    assert len(sparse(path, 0.5)) >= 7


def test_a_stretch_is_looked_at_alone_and_counted_from_its_start(tmp_path: Path) -> None:
    path = film(tmp_path / "in.mkv")
    found = sparse(path, 0.2, start_seconds=0.8, duration_seconds=0.6)
    assert found[0][0] <= 0.12
    assert max(seconds for seconds, _ in found) < 0.6
    assert len(found) >= 2


def test_a_film_without_times_is_decoded_whole(tmp_path: Path) -> None:
    path = film(tmp_path / "in.h264")
    seconds = [seconds for seconds, _ in sparse(path, 0.4)]
    assert seconds[:5] == pytest.approx([0.4 * n for n in range(5)], abs=0.1)
