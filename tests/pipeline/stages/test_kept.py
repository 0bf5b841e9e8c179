"""What a restorer keeps of a track travels by value: given back in order, and never over an event."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import Tensor

from models.align import at_size
from models.protocols import Needs, References, Request, Result
from pipeline.flow import ChainState
from pipeline.frames import Effort, TrackedFace, TrackedFrame
from pipeline.people.cast import Restorers
from pipeline.runs.chunks import carry
from pipeline.stages.restore import RestoreConfig, make_reuse, restore
from pipeline.stages.reuse import Reuse
from pipeline.stages.threads import Stages
from support.crops import SIZE, SOFT, clip_of, face, noisy, shifted

EACH = RestoreConfig(most_carried=0, most_still=0)
"""Every face goes to the restorer."""


class Counting:
    """Counts the faces of a track in what it keeps, and shows the count."""

    needs = Needs(SIZE, kept=True)

    def __init__(self) -> None:
        self.given: list[int | None] = []
        self.batches: list[int] = []

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        self.batches.append(len(requests))
        return [self._restored(request) for request in requests]

    def _restored(self, request: Request) -> Result:
        before = None if request.kept is None else int(request.kept)
        self.given.append(before)
        count = torch.tensor([0.0 if before is None else before + 1.0])
        return Result((request.crop // 2 + int(count)).to(torch.uint8), count)


def run(
    frames: Sequence[TrackedFrame],
    config: RestoreConfig = EACH,
    restorer: Counting | None = None,
    reuse: Reuse | None = None,
) -> list[list[Tensor]]:
    done = restore(frames, restorer or Counting(), config, None, 0.0, reuse)
    return [[each.image for each in frame.faces] for frame in done]


def drifting(count: int, track_id: int = 1) -> list[TrackedFace]:
    return [
        face(noisy(shifted(SOFT, 1.3 * index, 0.6 * index), index, 1.0), track_id) for index in range(count)
    ]


def given(faces: Sequence[TrackedFace], config: RestoreConfig = EACH) -> list[int | None]:
    restorer = Counting()
    # One by one, else a batch would hold what comes after an event beside what comes before.
    run(clip_of([[each] for each in faces]), replace(config, batch_size=1, max_waiting=0), restorer)
    return restorer.given


def test_what_was_kept_of_a_track_is_given_back_with_its_next_face() -> None:
    assert given(drifting(4)) == [None, 0, 1, 2]
    both = clip_of(zip(drifting(3), drifting(3, track_id=2), strict=True))
    restorer = Counting()
    run(both, EACH, restorer)
    assert restorer.given == [None, None, 0, 0, 1, 1]


def test_a_carried_face_hands_it_on() -> None:
    config = RestoreConfig(most_carried=1)
    assert given(drifting(6), config) == [None, 0, 1]


def test_only_who_asks_for_it_is_given_it() -> None:
    assert given(drifting(3), replace(EACH, reuse=False)) == [None] * 3

    class Forgetful(Counting):
        needs = Needs(SIZE)

    restorer = Forgetful()
    run(clip_of([[each] for each in drifting(3)]), EACH, restorer)
    assert restorer.given == [None] * 3


@pytest.mark.parametrize("event", ["cut", "jump", "person", "known", "hand", "references"])
def test_after_an_event_nothing_is_given_back(event: str) -> None:
    before = drifting(4)
    after = drifting(3)
    if event == "cut":
        after = [replace(each, track_id=2) for each in after]
    elif event == "jump":
        away = np.array([[0, 0, 80], [0, 0, 0]], np.float32)
        after = [replace(each, matrix=each.matrix + away) for each in after]
    elif event == "person":
        after = [replace(each, person_id=9) for each in after]
    elif event == "known":
        before = [replace(each, person_id=None) for each in before]
    elif event == "references":
        after = [replace(each, references=References(version=77)) for each in after]
    else:
        hand = np.full_like(SOFT, 90)
        hand[::7] = 140
        after = [face(noisy(hand, 60 + index)) for index in range(3)]
    assert given([*before, *after]) == [None, 0, 1, 2, None, 0, 1]


def test_results_depend_on_no_batch_and_no_thread() -> None:
    second = [face(noisy(np.ascontiguousarray(SOFT[:, ::-1]), index), 2) for index in range(10)]
    frames = clip_of(
        [[one, two][: 1 + (n > 3)] for n, (one, two) in enumerate(zip(drifting(10), second, strict=True))]
    )
    config = RestoreConfig(batch_size=1, max_waiting=0, most_carried=1)
    wanted = run(frames, config)
    for batch_size, waiting in ((4, 3), (16, 100)):
        other = run(frames, replace(config, batch_size=batch_size, max_waiting=waiting))
        for one, two in zip(wanted, other, strict=True):
            assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    with Stages(depth=2) as stages:
        done = stages.start("restore", restore(frames, Counting(), config))
        for frame, images in zip(done, wanted, strict=True):
            assert all(torch.equal(a.image, b) for a, b in zip(frame.faces, images, strict=True))


def test_faces_of_several_people_still_fill_a_batch() -> None:
    many = [drifting(3, track_id=track) for track in range(1, 5)]
    restorer = Counting()
    run(clip_of(zip(*many, strict=True)), replace(EACH, batch_size=4, max_waiting=20), restorer)
    assert restorer.batches == [4, 4, 4]


@pytest.mark.parametrize("most_carried", [0, 1])
def test_a_chunk_goes_on_as_if_the_film_had_not_been_cut_in_two(most_carried: int) -> None:
    faces = [replace(each, references=References(version=5)) for each in drifting(9)]
    frames, config = clip_of([[each] for each in faces]), RestoreConfig(most_carried=most_carried)
    straight = run(frames, config)
    for cut in (3, 4, 5):
        first, second = (make_reuse(config, 0.0, Counting()) for _ in range(2))
        halves = run(frames[:cut], config, reuse=first)
        second.go_on_from(carry.from_bytes(carry.to_bytes(ChainState(first.last))).faces)
        halves += run(frames[cut:], config, reuse=second)
        for one, other in zip(straight, halves, strict=True):
            assert torch.equal(one[0], other[0])


def test_several_restorers_hand_on_what_each_of_them_keeps() -> None:
    small = Counting()
    small.needs = Needs(SIZE // 2, kept=True)
    both = Restorers(small, {"other": Counting()})
    assert both.needs.kept
    assert not Restorers(None, {"other": type("Plain", (Counting,), {"needs": Needs(SIZE)})()}).needs.kept
    crop = face(SOFT).crop
    for name in ("", "other"):
        [result] = both.restore([Request(crop, References(), restorer=name, kept=torch.tensor([4.0]))])
        assert result.kept is not None
        assert float(result.kept) == 5


def test_only_faces_that_are_given_something_back_wait_for_it() -> None:
    """What the others are restored with is known at once, so they fill batches."""
    plain = Counting()
    plain.needs = Needs(SIZE)
    keeping = Counting()
    both = Restorers(plain, {"other": keeping})
    first, second = drifting(8), [replace(each, restorer="other") for each in drifting(8, track_id=2)]
    config = replace(EACH, batch_size=8, max_waiting=16)
    frames = clip_of([list(pair) for pair in zip(first, second, strict=True)])
    list(restore(frames, both, config, None, 0.0))
    assert max(plain.batches) > 4
    assert keeping.given == [None, *range(7)]


def test_a_face_that_is_told_of_the_one_before_does_not_wait_for_what_it_is_not_given() -> None:
    restorer = Counting()
    restorer.needs = Needs(SIZE, previous=True, kept=True)
    config = replace(EACH, batch_size=4, max_waiting=16, previous=True, window=4)
    run(clip_of([[each] for each in drifting(12)]), config, restorer)
    # The first window is told of nothing, and so goes one by one.
    assert restorer.batches == [1, 1, 1, 1, 4, 4]


def test_a_face_that_is_put_off_does_not_hide_that_its_references_changed() -> None:
    """Live asks for few faces in a frame, and carries others in their place."""
    config, restorer = replace(EACH, batch_size=1, max_waiting=0), Counting()
    faces = drifting(4)
    faces[2:] = [replace(each, references=References(version=77)) for each in faces[2:]]
    frames = clip_of([[each] for each in faces])
    frames[2] = replace(frames[2], frame=replace(frames[2].frame, effort=Effort(most_asked=0)))
    list(restore(frames, restorer, config, None, 0.0))
    assert restorer.given == [None, 0, None]


def test_crops_of_another_size_begin_anew() -> None:
    faces = drifting(3)
    crop = torch.nn.functional.interpolate(faces[2].crop[None].float(), size=(192, 192), mode="area")[0]
    faces[2] = replace(faces[2], crop=crop.to(torch.uint8), matrix=at_size(faces[2].matrix, SIZE, 192))
    assert given(faces) == [None, 0, None]
