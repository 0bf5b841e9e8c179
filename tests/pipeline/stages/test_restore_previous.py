"""A restorer is told what it made of a face before: moved, gated, by windows, and never over an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.protocols import Needs, Previous, Request, Result, check_previous
from pipeline.flow import ChainState
from pipeline.frames import TrackedFace, TrackedFrame
from pipeline.runs.chunks import carry
from pipeline.stages.restore import RestoreConfig, make_reuse, restore
from pipeline.stages.reuse import Reuse
from pipeline.stages.threads import Stages
from support.crops import SIZE, SOFT, clip_of, face, noisy, shifted

EACH = RestoreConfig(most_carried=0, most_still=0, previous=True)
"""Every face goes to the restorer, which is told of the one before."""


class Recurrent:
    """Gives the mean of the crop and of what it gave before, where the gate is open: all of the past shows."""

    needs = Needs(SIZE, previous=True)

    def __init__(self) -> None:
        self.told: dict[int, Previous | None] = {}
        self.batches: list[int] = []

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        self.batches.append(len(requests))
        return [Result(self._restored(request)) for request in requests]

    def _restored(self, request: Request) -> Tensor:
        check_previous(request)
        self.told[int(request.crop.long().sum())] = request.previous
        mixed = request.crop.float()
        if request.previous is not None:
            mixed += 0.5 * request.previous.gate * (request.previous.image.float() - mixed)
        return mixed.round().to(torch.uint8)


def run(
    frames: Sequence[TrackedFrame],
    config: RestoreConfig,
    restorer: Recurrent | None = None,
    reuse: Reuse | None = None,
) -> list[list[Tensor]]:
    done = restore(frames, restorer or Recurrent(), config, None, 0.0, reuse)
    return [[each.image for each in frame.faces] for frame in done]


def drifting(count: int) -> list[TrackedFace]:
    return [face(noisy(shifted(SOFT, 1.3 * index, 0.6 * index), index, 1.0)) for index in range(count)]


def drift(count: int) -> list[TrackedFrame]:
    return clip_of([[each] for each in drifting(count)])


def told(frames: Sequence[TrackedFrame], config: RestoreConfig = EACH) -> list[Previous | None]:
    """What the restorer was told of the first face of each frame."""
    restorer = Recurrent()
    run(frames, config, restorer)
    return [restorer.told[int(frame.faces[0].crop.long().sum())] for frame in frames]


@pytest.mark.parametrize("window", [1, 3])
def test_results_depend_on_no_batch_and_no_thread(window: int) -> None:
    second = [face(noisy(np.ascontiguousarray(SOFT[:, ::-1]), index), 2) for index in range(10)]
    frames = clip_of(
        [
            [one, two][: 1 + (index > 3)]
            for index, (one, two) in enumerate(zip(drifting(10), second, strict=True))
        ]
    )
    config = RestoreConfig(batch_size=1, max_waiting=0, most_carried=1, previous=True, window=window)
    wanted = run(frames, config)
    for batch_size, waiting in ((4, 3), (16, 100)):
        other = run(frames, replace(config, batch_size=batch_size, max_waiting=waiting))
        assert all(
            torch.equal(a, b) for x, y in zip(wanted, other, strict=True) for a, b in zip(x, y, strict=True)
        )
    with Stages(depth=2) as stages:
        done = stages.start("restore", restore(frames, Recurrent(), config, None, 0.0))
        for frame, images in zip(done, wanted, strict=True):
            assert all(torch.equal(a.image, b) for a, b in zip(frame.faces, images, strict=True))


def test_faces_of_one_window_look_back_to_the_same_one_and_fill_a_batch() -> None:
    restorer = Recurrent()
    frames = drift(8)
    images = run(frames, replace(EACH, window=4, batch_size=4, max_waiting=20), restorer)
    assert restorer.batches == [4, 4]
    given = [restorer.told[int(frame.faces[0].crop.long().sum())] for frame in frames]
    assert given[:4] == [None] * 4
    # The last of the first window, moved into each of the second: there again it looks like the crop.
    for index, previous in enumerate(given[4:], 4):
        assert previous is not None
        assert _apart(previous, images[3][0]) > 1
        assert _apart(previous, frames[index].faces[0].crop) < 3
    strict = Recurrent()
    run(frames, replace(EACH, batch_size=4, max_waiting=20), strict)
    assert strict.batches == [1] * 8


def _apart(previous: Previous, picture: Tensor) -> float:
    """Mean difference in code values where the gate is open."""
    difference = (previous.image.float() - picture.float()).abs().mean(0)
    return float((previous.gate * difference).sum() / previous.gate.sum())


def test_what_is_told_is_moved_with_the_face_and_closed_where_it_does_not_hold() -> None:
    covered = SOFT.copy()
    covered[150:210, 60:140] = (40, 90, 160)
    moved = told(clip_of([[face(SOFT)], [face(shifted(SOFT, 4))]]))[1]
    left = told(clip_of([[face(SOFT)], [face(shifted(SOFT, 4))]]), replace(EACH, reuse_motion="none"))[1]
    hidden = told(clip_of([[face(SOFT)], [face(covered)]]))[1]
    assert moved is not None
    assert left is not None
    assert hidden is not None
    target = face(shifted(SOFT, 4)).crop
    everywhere = torch.ones(SIZE, SIZE)
    assert _apart(replace(moved, gate=everywhere), target) < 0.4 * _apart(
        replace(left, gate=everywhere), target
    )
    assert float(moved.gate.mean()) > 0.9
    assert float(hidden.gate[165:195, 75:125].mean()) < 0.1
    assert float(hidden.gate[60:120, 60:200].mean()) > 0.8


def test_only_who_makes_use_of_it_is_told_and_only_as_the_settings_say() -> None:
    frames = drift(3)
    assert told(frames)[0] is None
    assert all(each is not None for each in told(frames)[1:])
    assert told(frames, RestoreConfig(most_carried=0, most_still=0)) == [None] * 3
    assert told(frames, replace(EACH, reuse=False)) == [None] * 3

    class Forgetful(Recurrent):
        needs = Needs(SIZE)

    restorer = Forgetful()
    run(frames, EACH, restorer)
    assert list(restorer.told.values()) == [None] * 3


@pytest.mark.parametrize("event", ["cut", "jump", "person", "hand", "crossing"])
def test_after_an_event_a_face_is_that_of_a_fresh_start(event: str) -> None:
    """No ghost: of a shot before, of a pose before, of another person, of a face under a hand."""
    before = drifting(4)
    after = [face(noisy(shifted(SOFT[:, ::-1], index), 50 + index, 1.0)) for index in range(3)]
    if event == "cut":
        after = [replace(each, track_id=2) for each in after]
    elif event == "jump":
        after = [
            replace(each, matrix=each.matrix + np.array([[0, 0, 80], [0, 0, 0]], np.float32))
            for each in after
        ]
    elif event == "person":
        after = [replace(each, person_id=9) for each in after]
    elif event == "hand":
        hand = np.full_like(SOFT, 90)
        hand[::7] = 140
        after = [face(noisy(hand, 60 + index)) for index in range(3)]
    whole = run(clip_of([[each] for each in [*before, *after]]), EACH)
    fresh = run(clip_of([[each] for each in after]), EACH)
    for one, other in zip(whole[4:], fresh, strict=True):
        assert torch.equal(one[0], other[0])


def test_a_chunk_goes_on_as_if_the_film_had_not_been_cut_in_two() -> None:
    frames = drift(9)
    for config in (replace(EACH, window=2), replace(EACH, window=2, most_carried=1, most_still=12)):
        straight = run(frames, config)
        for cut in (3, 4, 5):
            first, second = (make_reuse(config, 0.0, Recurrent()) for _ in range(2))
            halves = run(frames[:cut], config, reuse=first)
            second.go_on_from(carry.from_bytes(carry.to_bytes(ChainState(first.last))).faces)
            halves += run(frames[cut:], config, reuse=second)
            for one, other in zip(straight, halves, strict=True):
                assert torch.equal(one[0], other[0])


def test_a_window_of_nothing_is_refused() -> None:
    with pytest.raises(ValueError, match="window must be at least 1"):
        RestoreConfig(window=0)


@pytest.mark.parametrize("wrong", ["image", "gate"])
def test_a_previous_face_of_another_form_is_refused(wrong: str) -> None:
    crop = face(SOFT).crop
    good = Previous(crop, torch.ones(SIZE, SIZE))
    check_previous(Request(crop, face(SOFT).references, good))
    bad = replace(good, image=crop[:, :9]) if wrong == "image" else replace(good, gate=torch.ones(3, 3))
    with pytest.raises(ValueError, match=f"previous.{wrong} must be"):
        check_previous(Request(crop, face(SOFT).references, bad))
