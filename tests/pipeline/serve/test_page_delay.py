"""The measurement of the page's delay reads the numbers that it writes."""

from __future__ import annotations

from pathlib import Path

import av
import pytest

pytest.importorskip("aiortc", reason="needs the extra `serve`")

from support.live import write_square_clip
from support.page_delay import BITS, BLOCK, delays, write_camera


def test_each_picture_of_the_camera_has_its_own_number(tmp_path: Path) -> None:
    clip, camera = tmp_path / "in.mp4", tmp_path / "camera.y4m"
    write_square_clip(clip, 5)
    write_camera(clip, camera, 30)
    numbers = []
    with av.open(str(camera)) as container:
        for frame in container.decode(video=0):
            row = frame.to_ndarray(format="gray")[-BLOCK // 2]
            blocks = [int(row[round((place + 0.5) * BLOCK)] > 127) for place in range(2 * BITS)]
            assert all(bit != inverse for bit, inverse in zip(blocks[:BITS], blocks[BITS:], strict=True))
            numbers.append(sum(bit << place for place, bit in enumerate(blocks[:BITS])))
    assert numbers == list(range(8))


def test_a_delay_is_that_from_the_last_capture_of_the_same_number() -> None:
    before = [[0, 10], [1, 43], [2, 76], [0, 110], [1, 143]]
    after = [[0, 60], [1, 95], [0, 150], [1, 190], [7, 200]]
    assert delays(before, after) == [(50, 60), (52, 95), (40, 150), (47, 190)]
