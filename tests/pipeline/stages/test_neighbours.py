"""The frames beside a face: which crops a restorer gets, where they lie, and that they go on from part to part."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.protocols import Needs, Neighbour, Request, Result
from pipeline.flow import ChainState
from pipeline.frames import TrackedFace
from pipeline.people.cast import Restorers
from pipeline.runs.chunks import carry
from pipeline.stages.neighbours import Neighbours
from pipeline.stages.restore import RestoreConfig, make_neighbours, restore
from support.crops import SIZE, SOFT, clip_of, face, noisy, shifted

EACH = RestoreConfig(most_carried=0, most_still=0)
"""Every face goes to the restorer."""


class Averaging:
    """Shows the mean of what it is given."""

    def __init__(self, side: int = SIZE, neighbours: int = 3) -> None:
        self.needs = Needs(side, neighbours=neighbours)
        self.given: list[tuple[Neighbour, ...]] = []

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        self.given += [request.neighbours for request in requests]
        return [Result(self._mean(request)) for request in requests]

    def _mean(self, request: Request) -> Tensor:
        pictures = [request.crop, *(beside.image for beside in request.neighbours)]
        return torch.stack(pictures).float().mean(0).round().to(torch.uint8)


def drifting(count: int, deviation: float = 0.5) -> list[TrackedFace]:
    return [face(noisy(shifted(SOFT, 1.3 * n, 0.7 * n), n, deviation)) for n in range(count)]


def recent(faces: Sequence[TrackedFace], most: int = 3) -> list[int]:
    """How many crops before each face knows."""
    frames = Neighbours(most).gathered(clip_of([[each] for each in faces]))
    return [len(frame.faces[0].recent) for frame in frames]


def test_the_nearest_frame_comes_first_and_no_more_are_kept_than_are_asked_for() -> None:
    faces = drifting(5)
    last = list(Neighbours(3).gathered(clip_of([[each] for each in faces])))[-1].faces[0]
    assert [torch.equal(crop, faces[n].crop) for crop, n in zip(last.recent, (3, 2, 1), strict=True)] == [
        True
    ] * 3
    assert recent(faces, 2) == [0, 1, 2, 2, 2]
    assert recent(faces, 0) == [0] * 5


def test_nothing_is_taken_over_a_jump_from_another_person_or_another_size() -> None:
    faces = drifting(4)
    away = faces[2].matrix + np.float32([[0, 0, SIZE], [0, 0, 0]])
    assert recent([*faces[:2], replace(faces[2], matrix=away)]) == [0, 1, 0]
    assert recent([replace(each, person_id=n // 2) for n, each in enumerate(faces)]) == [0, 1, 0, 1]
    small = replace(faces[2], crop=faces[2].crop[:, ::2, ::2])
    assert recent([*faces[:2], small]) == [0, 1, 0]


def test_a_track_that_was_away_starts_afresh() -> None:
    first, second, third = drifting(3)
    frames = list(Neighbours(3).gathered(clip_of([[first], [], [second], [third]])))
    assert [len(face.recent) for frame in frames for face in frame.faces] == [0, 0, 1]


def test_neighbours_lie_where_the_face_lies_and_take_noise_away() -> None:
    clean, restorer = shifted(SOFT, 1.3 * 5, 0.7 * 5), Averaging()
    (*_, frame) = restore(clip_of([[each] for each in drifting(6, 12.0)]), restorer, EACH)
    assert [len(each) for each in restorer.given] == [0, 1, 2, 3, 3, 3]

    def error(picture: Tensor) -> float:
        inner = slice(64, 192)
        return float(np.abs(picture.numpy().transpose(1, 2, 0).astype(float) - clean)[inner, inner].mean())

    degraded = frame.faces[0].tracked.crop
    # Four pictures have half of one's noise; what was not moved would be further off than the noise.
    assert error(frame.faces[0].image) < 0.6 * error(degraded)
    for beside in restorer.given[-1]:
        assert float(beside.gate[64:192, 64:192].mean()) > 0.7
        assert error(beside.image) < 1.1 * error(degraded)


def test_a_restorer_that_does_not_ask_gets_none_and_the_setting_limits_them() -> None:
    silent = Averaging(neighbours=0)
    frames = clip_of([[each] for each in drifting(3)])
    list(restore(frames, silent, EACH))
    assert [len(each) for each in silent.given] == [0, 0, 0]
    restorer = Averaging()
    list(restore(frames, restorer, replace(EACH, neighbours=1)))
    assert [len(each) for each in restorer.given] == [0, 1, 1]
    with pytest.raises(ValueError, match="neighbours"):
        RestoreConfig(neighbours=-1)


@pytest.mark.parametrize("reuse", [True, False])
def test_a_part_that_goes_on_gets_what_a_straight_run_gets(reuse: bool) -> None:
    config = replace(EACH, reuse=reuse)
    frames = clip_of([[each] for each in drifting(6)])
    straight = [frame.faces[0].image for frame in restore(frames, Averaging(), config)]
    first = make_neighbours(config, Averaging())
    begun = [frame.faces[0].image for frame in restore(frames[:3], Averaging(), config, neighbours=first)]
    second = make_neighbours(config, Averaging())
    second.go_on_from(carry.from_bytes(carry.to_bytes(ChainState(crops=first.last))).crops)
    rest = [frame.faces[0].image for frame in restore(frames[3:], Averaging(), config, neighbours=second)]
    assert [torch.equal(*pair) for pair in zip(straight, begun + rest, strict=True)] == [True] * 6
    alone = [frame.faces[0].image for frame in restore(frames[3:], Averaging(), config)]
    assert not torch.equal(alone[0], straight[3])


def test_one_made_of_several_passes_neighbours_on_at_the_size_of_each() -> None:
    small = Averaging(SIZE // 2)
    both = Restorers(Averaging(), {"small": small})
    faces = [replace(each, restorer="small") for each in drifting(2)]
    list(restore(clip_of([[each] for each in faces]), both, EACH))
    (beside,) = small.given[1]
    assert beside.image.shape == (3, SIZE // 2, SIZE // 2)
    assert beside.gate.shape == (SIZE // 2, SIZE // 2)
