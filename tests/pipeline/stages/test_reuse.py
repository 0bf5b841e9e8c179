"""What was restored is used again: fewer calls, the same for every batch, and nothing of another face."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from models.align import at_size
from models.protocols import Needs, References, Request, Result
from pipeline.frames import FULL, Effort, RestoredFace, TrackedFace
from pipeline.stages.motion import carried, look_at, unmoved
from pipeline.stages.restore import RestoreConfig, restore
from pipeline.stages.reuse import Reuse, ReuseMotion
from pipeline.stages.threads import Stages
from pipeline.stages.views import resized
from support.crops import SIZE, SOFT, Picture, clip_of, face, noisy, shifted


class Sharpener:
    """Restores by sharpening, with a detail of its own in each call if it `flickers`."""

    needs = Needs(SIZE)

    def __init__(self, *, flickers: float = 0.0) -> None:
        self.restored: list[Tensor] = []
        self._flickers = flickers

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        self.restored += [request.crop for request in requests]
        return [Result(self.sharpened(request.crop)) for request in requests]

    def sharpened(self, crop: Tensor) -> Tensor:
        picture = crop.numpy().transpose(1, 2, 0).astype(np.float32)
        out: NDArray[np.float32] = picture + 1.5 * (
            picture - np.asarray(cv2.GaussianBlur(picture, (0, 0), 2))
        )
        # From the picture alone, so that a face gives the same in every batch.
        seed = int(crop.long().sum())
        out += np.random.default_rng(seed).normal(0, 1, out.shape).astype(np.float32) * self._flickers
        return torch.from_numpy(out.round().clip(0, 255).astype(np.uint8).transpose(2, 0, 1).copy())


def with_closed_eyes(picture: Picture) -> Picture:
    """Skin where the eyes are."""
    closed = picture.copy()
    for x in (0.415, 0.633):
        left, top = int(x * SIZE) - 16, int(0.47 * SIZE) - 8
        closed[top : top + 16, left : left + 32] = picture[int(0.6 * SIZE), int(x * SIZE)]
    return closed


def restored(
    frames: Iterable[Sequence[TrackedFace]],
    restorer: Sharpener | None = None,
    config: RestoreConfig | None = None,
    steadiness: float = 0.8,
) -> list[tuple[RestoredFace, ...]]:
    done = restore(clip_of(frames), restorer or Sharpener(), config or RestoreConfig(), None, steadiness)
    return [frame.faces for frame in done]


def origins(faces: Iterable[tuple[RestoredFace, ...]]) -> list[str]:
    return [frame[0].origin for frame in faces]


def drifting(count: int, step: float = 1.2) -> list[list[TrackedFace]]:
    """A face that moves within its crop, with a blink on the way."""
    pictures = [shifted(SOFT, step * index, step * index / 2) for index in range(count)]
    pictures[count // 2] = with_closed_eyes(pictures[count // 2])
    return [[face(noisy(picture, index))] for index, picture in enumerate(pictures)]


def two_people() -> list[list[TrackedFace]]:
    other = np.ascontiguousarray(SOFT[:, ::-1] // 2 + 40)
    return [
        [face(shifted(SOFT, index), 1), face(noisy(other, index // 4), 2)][: 1 + (index % 7 != 3)]
        for index in range(14)
    ]


@pytest.mark.parametrize("clip", [lambda: drifting(12), two_people])
def test_results_depend_on_no_batch_and_no_thread(clip: Callable[[], list[list[TrackedFace]]]) -> None:
    wanted = restored(clip(), Sharpener(flickers=6), RestoreConfig(batch_size=1, max_waiting=0))
    assert {face.origin for frame in wanted for face in frame} > {"network"}
    for batch_size in (1, 4, 16):
        for depth in (0, 4):
            config = RestoreConfig(batch_size, max_waiting=8)
            with Stages(depth) as stages:
                frames = stages.start("frames", clip_of(clip()))
                done = list(
                    stages.start("restore", restore(frames, Sharpener(flickers=6), config, None, 0.8))
                )
            for frame, expected in zip(done, wanted, strict=True):
                assert [f.origin for f in frame.faces] == [f.origin for f in expected]
                pairs = zip(frame.faces, expected, strict=True)
                assert all(torch.equal(f.image, e.image) for f, e in pairs)


def test_without_reuse_each_face_is_restored_by_itself() -> None:
    restorer = Sharpener(flickers=6)
    frames = drifting(8)
    done = restored(frames, restorer, RestoreConfig(reuse=False))
    assert len(restorer.restored) == 8
    for (given,), (out,) in zip(frames, done, strict=True):
        assert torch.equal(out.image, restorer.sharpened(given.crop))
        assert out.origin == "network"


@pytest.mark.parametrize("most_still", [0, 3, 12])
def test_a_still_face_is_restored_rarely_but_always_again(most_still: int) -> None:
    frames = [[face(noisy(SOFT, index))] for index in range(30)]
    done = restored(frames, config=RestoreConfig(most_still=most_still, most_carried=0))
    wanted = ["still" if index % (most_still + 1) else "network" for index in range(30)]
    assert origins(done) == wanted


@pytest.mark.parametrize("motion", ["flow", "quick"])
@pytest.mark.parametrize("step", [0.5, 1.0, 1.5])
def test_a_moving_face_is_carried_along(step: float, motion: ReuseMotion) -> None:
    frames = [[face(shifted(SOFT, step * index, -step / 3 * index))] for index in range(6)]
    restorer = Sharpener()
    done = restored(frames, restorer, RestoreConfig(reuse_motion=motion))
    assert origins(done) == ["network", "carried", "carried"] * 2
    inner = np.s_[:, 40:216, 40:216]
    for (given,), (out,) in zip(frames, done, strict=True):
        truth = restorer.sharpened(given.crop).float()
        by_restoring = (truth - given.crop.float())[inner].abs().mean()
        assert (out.image.float() - truth)[inner].abs().mean() < 0.35 * by_restoring


def test_where_motion_is_not_followed_a_moving_face_is_restored() -> None:
    frames = [[face(shifted(SOFT, 4.0 * index))] for index in range(6)]
    assert "carried" not in origins(restored(frames, config=RestoreConfig(reuse_motion="none")))


def test_a_carried_face_is_as_sharp_as_a_restored_one() -> None:
    def detail(face: RestoredFace) -> float:
        picture = face.image.numpy().transpose(1, 2, 0).mean(-1)[48:208, 48:208]
        return float((np.diff(picture, axis=0) ** 2).mean() + (np.diff(picture, axis=1) ** 2).mean())

    frames = [[face(noisy(shifted(SOFT, 1.3 * index), index, 2.0))] for index in range(6)]
    done = restored(frames)
    alone = restored(frames, config=RestoreConfig(reuse=False))
    assert "carried" in origins(done)
    for (out,), (wanted,) in zip(done, alone, strict=True):
        assert detail(out) == pytest.approx(detail(wanted), rel=0.15)


def test_a_blink_is_restored_at_once_and_leaves_no_ghost() -> None:
    closed = with_closed_eyes(SOFT)
    frames = [[face(SOFT)], [face(closed)], [face(SOFT)], [face(SOFT)]]
    restorer = Sharpener()
    done = restored(frames, restorer)
    assert origins(done)[:3] == ["network"] * 3
    eyes = np.s_[:, 115:125, 94:118]
    for index in (1, 2):
        truth = restorer.sharpened(frames[index][0].crop).float()
        assert (done[index][0].image.float() - truth)[eyes].abs().mean() < 3


def test_a_slight_change_of_the_picture_stays_in_a_carried_face() -> None:
    before = np.full((SIZE, SIZE, 3), 120, np.uint8)
    now = before.copy()
    now[100:140, 100:140] -= 2
    motion = unmoved(look_at(face(now).crop), look_at(face(before).crop))
    out = carried(before.astype(np.float32) + 10, now.astype(np.float32), motion)
    assert out[110:130, 110:130].mean() == pytest.approx(128, abs=0.3)
    assert out[:90].mean() == pytest.approx(130, abs=0.01)


def test_better_references_are_asked_for_at_once() -> None:
    better = References((torch.zeros(3, 8, 8, dtype=torch.uint8),), torch.ones(1, 4), version=1)
    frames = [
        [face(SOFT)],
        [face(SOFT)],
        [face(SOFT, references=better)],
        [face(SOFT, references=better)],
    ]
    assert origins(restored(frames)) == ["network", "still", "network", "still"]


OTHER = np.ascontiguousarray(255 - SOFT[::-1])
NEAR = noisy(SOFT, 5, 1.0)
FAR = np.array([[1, 0, -90], [0, 1, -16]], np.float32)


@pytest.mark.parametrize(
    "after",
    [
        pytest.param(face(NEAR, 2), id="cut: another track"),
        pytest.param(face(OTHER), id="another face under the same track"),
        pytest.param(face(NEAR, person_id=7), id="another person under the same track"),
        pytest.param(face(NEAR, matrix=FAR), id="a jump"),
        pytest.param(face(NEAR[:128, :128].copy()), id="a part of it, as large as the whole"),
        pytest.param(
            face(NEAR, face=replace(face(NEAR).face, landmarks=face(NEAR).face.landmarks + np.float32(20))),
            id="a turn of the head",
        ),
    ],
)
def test_the_first_face_after_an_event_is_as_at_the_start(after: TrackedFace) -> None:
    restorer = Sharpener(flickers=6)
    done = restored([[face(SOFT)], [face(SOFT)], [after]], restorer)
    assert torch.equal(done[2][0].image, restorer.sharpened(after.crop))
    assert done[2][0].origin == "network"
    # And without the event it is not.
    calm = restored([[face(SOFT)], [face(SOFT)], [face(NEAR)]], Sharpener(flickers=6))
    assert not torch.equal(calm[2][0].image, restorer.sharpened(face(NEAR).crop))


def at_side(given: TrackedFace, side: int) -> TrackedFace:
    """The same face, read with another size of crop."""
    return replace(given, crop=resized(given.crop, side), matrix=at_size(given.matrix, SIZE, side))


@pytest.mark.parametrize(("before", "after"), [(SIZE, 192), (192, SIZE)])
def test_a_change_of_the_crops_size_is_mixed_in_like_any_other(before: int, after: int) -> None:
    restorer = Sharpener(flickers=6)
    first, second, third = (at_side(face(noisy(SOFT, k)), s) for k, s in enumerate((before, after, after)))
    restore_each = RestoreConfig(most_still=0, most_carried=0)
    mixed = restored([[first], [second], [third]], restorer, restore_each)
    assert [tuple(done.image.shape[1:]) for (done,) in mixed] == [
        (before, before),
        (after, after),
        (after, after),
    ]
    # What was restored of the first is at its place in the second, and four fifths are of it.
    ((alone,),) = restored([[second]], restorer, restore_each)
    at_once = restored([[first], [second], [third]], restorer, replace(restore_each, max_waiting=0))
    assert torch.equal(at_once[1][0].image, mixed[1][0].image)
    shown, own = mixed[1][0].image.float(), alone.image.float()
    was = resized(mixed[0][0].image, after).float()
    inner = np.s_[:, 48:144, 48:144] if after == 192 else np.s_[:, 64:192, 64:192]
    assert (shown - was)[inner].abs().mean() < 0.5 * (shown - own)[inner].abs().mean()


def test_a_face_that_was_carried_goes_on_at_another_size() -> None:
    frames = [[face(SOFT)], [face(noisy(SOFT, 1))], [at_side(face(noisy(SOFT, 2)), 192)]]
    done = restored(frames)
    assert origins(done) == ["network", "still", "still"]
    assert (done[2][0].image.float() - resized(done[0][0].image, 192).float()).abs().mean() < 2


def planned(
    frames: list[list[TrackedFace]],
    effort: Effort = FULL,
    *,
    most_carried: int = 12,
    detected: Sequence[int] = (),
) -> list[list[str]]:
    """The origins of all faces, restored at once; in the frames `detected` faces were detected."""
    reuse = Reuse(most_carried=most_carried, most_still=12, steadiness=0.0)
    found = []
    for index, faces in enumerate(frames):
        plans = reuse.plan(faces, effort, detected=index in detected)
        for plan in plans:
            reuse.finish(plan, plan.tracked.crop if plan.asks else None)
        found.append([plan.origin for plan in plans])
    return found


def test_least_carried_spares_the_restorer_where_motion_does_not_explain_all() -> None:
    blinking = [[face(SOFT if index % 2 else with_closed_eyes(SOFT))] for index in range(7)]
    assert [origin for (origin,) in planned(blinking)].count("network") >= 6
    spared = [origin for (origin,) in planned(blinking, Effort(least_carried=2))]
    assert [origin == "network" for origin in spared] == [index % 3 == 0 for index in range(7)]


def test_a_face_is_carried_further_where_faces_are_detected() -> None:
    frames = [[face(shifted(SOFT, 1.5 * index))] for index in range(6)]
    live = Effort(carried_at_detection=2)

    def asked(effort: Effort, detected: Sequence[int]) -> list[int]:
        found = planned(frames, effort, most_carried=1, detected=detected)
        return [index for index, (origin,) in enumerate(found) if origin == "network"]

    assert asked(live, []) == asked(FULL, [2]) == [0, 2, 4]
    assert asked(live, [2]) == [0, 3, 5]


def test_faces_take_turns_where_so_many_may_be_asked_for() -> None:
    def frame(index: int) -> list[TrackedFace]:
        return [face(shifted(SOFT, 1.5 * index), track) for track in (1, 2, 3)]

    found = planned([frame(index) for index in range(8)], Effort(most_asked=1), most_carried=0)
    # At the start there is nothing to be carried; from then on each is asked for in every third frame.
    assert found[0] == ["network"] * 3
    assert [origin.count("network") for origin in found[1:]] == [1] * 7
    for place in range(3):
        asked = [index for index in range(1, 8) if found[index][place] == "network"]
        assert all(after - before == 3 for before, after in pairwise(asked))
        assert asked


@pytest.mark.parametrize("gap", [[], [face(SOFT, strength=0.0, reason="covered")]])
def test_a_face_that_was_away_or_covered_starts_afresh(gap: list[TrackedFace]) -> None:
    restorer = Sharpener(flickers=6)
    done = restored([[face(SOFT)], [face(SOFT)], gap, [face(NEAR)]], restorer)
    assert done[2] == ()
    assert torch.equal(done[3][0].image, restorer.sharpened(face(NEAR).crop))


def test_crossing_people_do_not_mix() -> None:
    other = np.ascontiguousarray(SOFT[:, ::-1] // 2 + 40)
    apart = [
        [
            frame[0]
            for frame in restored([[face(noisy(picture, i), track)] for i in range(6)], Sharpener(flickers=6))
        ]
        for track, picture in ((1, SOFT), (2, other))
    ]
    together = restored(
        [[face(noisy(SOFT, i), 1), face(noisy(other, i), 2)][:: 1 if i % 2 else -1] for i in range(6)],
        Sharpener(flickers=6),
    )
    for index, faces in enumerate(together):
        for out in faces:
            assert torch.equal(out.image, apart[out.tracked.track_id - 1][index].image)
