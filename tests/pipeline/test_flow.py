"""The one chain: files, parts of files and live pictures give the same, and an effort is that of one frame."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from fractions import Fraction

import av
import cv2
import numpy as np
import pytest
from numpy.typing import NDArray
from torch import Tensor

from models.protocols import Needs, References, Request, Result
from models.recogniser import Likeness
from pipeline.config import PipelineConfig
from pipeline.flow import START, Chain, ChainState, Hooks, Parts, TrackedSource, run
from pipeline.frames import FULL, Effort, Frame, RestoredFrame, TrackedFrame
from pipeline.live.faces import Faces
from pipeline.media.coding import planes_of
from pipeline.report.counts import Report
from pipeline.runs.chunks import carry
from pipeline.stages.effort import Quick
from pipeline.stages.gate import Gate, GateConfig
from pipeline.stages.perception import Perception, PerceptionConfig
from pipeline.stages.restore import RestoreConfig
from pipeline.stages.track import TrackConfig
from support.fakes import ColourRecogniser, InvertingRestorer, SquareDetector
from trackers.people import People
from trackers.shots import ShotDetector
from trackers.tracks import NorfairTracker

COUNT = 14
LOOKING = PerceptionConfig(detect_every=4)
CONFIG = PipelineConfig(
    track=TrackConfig(lookahead=0, perception=LOOKING), restore=RestoreConfig(most_carried=1, most_still=0)
)
"""With all that goes on from frame to frame."""
ALONE = replace(
    CONFIG,
    restore=RestoreConfig(most_carried=0, most_still=0),
    blend=replace(CONFIG.blend, steadiness=1e-12),
)
"""Each face is restored by itself. With all but no steadiness keyframes are known, so that an effort can carry them."""


def drifting(index: int) -> Frame:
    """Two bright squares on a dark ground, which `SquareDetector` takes for faces; both move to the right."""
    image = np.full((160, 260, 3), 40, np.uint8)
    rng = np.random.default_rng(2)
    for left, side in ((20, 60), (130, 50)):
        place = slice(50, 50 + side), slice(left, left + side)
        image[place] = (230, 215, 200)
        image[place] -= cv2.resize(rng.integers(0, 40, (9, 9, 3), np.uint8), (side, side))
    shift = np.array([[1, 0, 1.5 * index], [0, 1, 0.5 * index]])
    image = cv2.warpAffine(image, shift, (260, 160), borderMode=cv2.BORDER_REPLICATE)  # type: ignore[assignment]
    native = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
    native.pts, native.time_base = index, Fraction(1, 25)
    return Frame(index, index, Fraction(1, 25), native)


FRAMES = [drifting(index) for index in range(COUNT)]


class Wavering:
    """Measures a likeness that comes and goes with the crop."""

    def measure(self, degraded: Tensor, restored: Tensor, references: References) -> Likeness:
        return Likeness(1.0, 1.0, float(degraded.float().mean()) * 5 % 0.6)


class Darkening(InvertingRestorer):
    def restore(self, requests: Sequence[Request]) -> list[Result]:
        self.batches.append(len(requests))
        return [Result(request.crop // 2) for request in requests]


def parts(*, gated: bool = True) -> Parts:
    perception = Perception(
        LOOKING,
        detector=SquareDetector(),
        recogniser=ColourRecogniser(),
        tracker=NorfairTracker(),
        shots=ShotDetector(),
        people=People(),
        crop_size=64,
    )
    gate = Gate(GateConfig(), Wavering()) if gated else None  # type: ignore[arg-type]
    return Parts(
        perception, InvertingRestorer(), gate=gate, quick=Quick(Darkening(), Darkening(crop_size=48))
    )


@dataclass
class Given:
    """A source of made frames."""

    frames: Sequence[Frame]
    live = False

    def __iter__(self) -> Iterator[Frame]:
        return iter(self.frames)


@dataclass
class Kept:
    """A sink, and a hook, that keep all."""

    pictures: list[list[NDArray[np.generic]]] = field(default_factory=list)
    restored: list[RestoredFrame] = field(default_factory=list)

    def write(self, native: av.VideoFrame, pts: int) -> None:
        self.pictures.append(samples(native))

    def note(self, frame: RestoredFrame, after: av.VideoFrame) -> None:
        self.restored.append(frame)

    @property
    def hooks(self) -> Hooks:
        return Hooks(Report(), note=self.note)


def samples(native: av.VideoFrame) -> list[NDArray[np.generic]]:
    return [plane.copy() for plane in planes_of(native)]


def same(one: Sequence[NDArray[np.generic]], other: Sequence[NDArray[np.generic]]) -> bool:
    return all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


def as_file(frames: Sequence[Frame], config: PipelineConfig = CONFIG, *, gated: bool = True) -> Kept:
    kept = Kept()
    run(Given(frames), kept, Chain(parts(gated=gated), config), kept.hooks)
    return kept


def followed() -> list[TrackedFrame]:
    """What a first pass keeps of the frames."""
    watching = replace(parts(), restorer=None)
    return list(Chain(watching, CONFIG).follow(FRAMES))


def part(frames: Sequence[TrackedFrame], state: ChainState) -> tuple[Kept, ChainState]:
    kept = Kept()
    return kept, run(TrackedSource(frames), kept, Chain(parts(), CONFIG), kept.hooks, state)


def by_value(state: ChainState) -> ChainState:
    return state


def as_bytes(state: ChainState) -> ChainState:
    return carry.from_bytes(carry.to_bytes(state))


def test_the_frames_have_all_that_goes_on_from_one_to_the_next() -> None:
    """Else the tests below would compare nothing."""
    kept = as_file(FRAMES)
    faces = [face for frame in kept.restored for face in frame.faces]
    assert {face.origin for face in faces} == {"network", "carried"}
    assert len({face.tracked.track_id for face in faces}) == 2
    assert len({round(face.allowed, 3) for face in faces}) > 3
    assert not any(
        same(picture, samples(frame.native)) for picture, frame in zip(kept.pictures, FRAMES, strict=True)
    )


@pytest.mark.parametrize("depth", [0, 4])
def test_live_pictures_at_full_effort_are_those_of_a_file(depth: int) -> None:
    live = Faces(parts(), replace(CONFIG, track=replace(CONFIG.track, lookahead=24)))
    shown = [samples(live.restore(frame)[1]) for frame in FRAMES]
    file = as_file(FRAMES, replace(CONFIG, depth=depth)).pictures
    assert [same(*pair) for pair in zip(shown, file, strict=True)] == [True] * COUNT


def test_a_source_of_tracked_frames_gives_what_following_gives() -> None:
    kept, _ = part(followed(), START)
    straight = as_file(FRAMES)
    assert [same(*pair) for pair in zip(kept.pictures, straight.pictures, strict=True)] == [True] * COUNT


@pytest.mark.parametrize("through", [by_value, as_bytes])
@pytest.mark.parametrize("cut", [3, 6, 9])
def test_a_state_that_goes_out_and_in_again_gives_a_straight_run(
    cut: int, through: Callable[[ChainState], ChainState]
) -> None:
    frames = followed()
    straight, end = part(frames, START)
    first, left = part(frames[:cut], START)
    state = through(left)
    # Twice, as a value is not used up.
    for _ in range(2):
        second, after = part(frames[cut:], state)
        pictures = first.pictures + second.pictures
        assert [same(*pair) for pair in zip(pictures, straight.pictures, strict=True)] == [True] * COUNT
        assert after.standings == end.standings
    afresh, _ = part(frames[cut:], START)
    assert not same(afresh.pictures[0], straight.pictures[cut])


def test_a_run_begins_with_its_state_and_not_with_what_its_chain_did_before() -> None:
    frames, chain, runs = followed(), Chain(parts(), CONFIG), []
    for _ in range(2):
        runs.append(Kept())
        run(TrackedSource(frames), runs[-1], chain, runs[-1].hooks)
    assert all(same(*pair) for pair in zip(runs[0].pictures, runs[1].pictures, strict=True))


@pytest.mark.parametrize(
    "effort",
    [
        Effort(light=True),
        Effort(small=True),
        Effort(most_faces=1),
        Effort(most_carried=3),
        Effort(least_carried=3),
        Effort(most_asked=1),
    ],
    ids=str,
)
def test_an_effort_changes_only_its_own_frame(effort: Effort) -> None:
    full = as_file(FRAMES, ALONE, gated=False)
    frames = [replace(frame, effort=effort if frame.index == 5 else FULL) for frame in FRAMES]
    # In batches, where faces of frames with other efforts lie beside those of this one.
    less = as_file(frames, ALONE, gated=False)
    equal = [same(*pair) for pair in zip(full.pictures, less.pictures, strict=True)]
    assert equal == [index != 5 for index in range(COUNT)]


def test_each_frame_goes_to_the_restorer_that_its_effort_asks_for() -> None:
    both = parts(gated=False)
    frames = [replace(frame, effort=Effort(light=frame.index % 2 == 1)) for frame in FRAMES[:8]]
    kept = Kept()
    run(Given(frames), kept, Chain(both, ALONE), kept.hooks)
    assert isinstance(both.restorer, InvertingRestorer)
    assert isinstance(both.quick.light, Darkening)
    assert (sum(both.restorer.batches), sum(both.quick.light.batches)) == (8, 8)
    for frame in kept.restored:
        for face in frame.faces:
            crop = face.tracked.crop
            made = crop // 2 if frame.tracked.effort.light else 255 - crop
            assert (face.image.int() - made.int()).abs().max() <= 1


def detections(effort_at: dict[int, Effort]) -> list[int]:
    """Indices of the frames in which faces are detected."""
    frames = [replace(frame, effort=effort_at.get(frame.index, FULL)) for frame in FRAMES]
    chain = Chain(replace(parts(), restorer=None), CONFIG)
    return [frame.frame.index for frame in chain.follow(frames) if frame.detected]


def test_an_effort_puts_off_the_detection_of_its_own_frame_alone() -> None:
    seldom = Effort(detection_interval=2)
    assert detections({}) == [0, 4, 8, 12]
    assert detections({4: seldom, 5: seldom}) == [0, 6, 10]
    assert detections({0: seldom, 1: seldom, 7: seldom}) == [0, 4, 8, 12]
    assert detections(dict.fromkeys(range(COUNT), seldom)) == [0, 8]


def test_smaller_crops_of_tracked_frames_show_what_they_show_where_faces_are_followed() -> None:
    small = Effort(small=True)
    chain = Chain(parts(), CONFIG)
    tracked = [replace(each, frame=replace(each.frame, effort=small)) for each in followed()]
    others = chain.follow([replace(frame, effort=small) for frame in FRAMES])
    for one, other in zip(chain.cut(tracked), others, strict=True):
        for face, wanted in zip(one.faces, other.faces, strict=True):
            assert face.crop.shape == wanted.crop.shape == (3, 48, 48)
            assert np.allclose(face.matrix, wanted.matrix, atol=1e-3)
            assert (face.crop.float() - wanted.crop.float()).abs().mean() < 1


def test_live_gives_its_chosen_restorer_back_what_it_kept() -> None:
    class Keeping(InvertingRestorer):
        def __init__(self) -> None:
            super().__init__()
            self.needs = Needs(64, kept=True)
            self.given: list[bool] = []

        def restore(self, requests: Sequence[Request]) -> list[Result]:
            self.given += [request.kept is not None for request in requests]
            return [Result(255 - request.crop, request.crop.float()) for request in requests]

    restorer = Keeping()
    live = Faces(replace(parts(gated=False), restorer=restorer), ALONE)
    for frame in FRAMES[:3]:
        live.restore(frame)
    assert restorer.given == [False, False, True, True, True, True]
