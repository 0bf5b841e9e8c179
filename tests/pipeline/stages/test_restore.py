"""Batches: order, fill, bounded waiting, memory."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import pytest
import torch

from models.protocols import Request, Result
from pipeline.frames import TrackedFrame
from pipeline.pixels.blend import BlendConfig, blend
from pipeline.stages.restore import RestoreConfig, restore
from support.fakes import InvertingRestorer, tracked_face, tracked_frame


def clip(frames: int = 20) -> list[TrackedFrame]:
    """Frames with 0, 1, 2, 0, 1, 2, ... faces; one of them too doubtful to be restored."""
    made = []
    for index in range(frames):
        faces = [tracked_face(track, strength=0.0 if index == 5 else 1.0) for track in range(index % 3)]
        made.append(tracked_frame(index, faces))
    return made


@pytest.mark.parametrize("batch_size", [1, 3, 8])
@pytest.mark.parametrize("max_waiting", [0, 2, 100])
@pytest.mark.parametrize("reuse", [True, False])
def test_every_frame_leaves_once_in_order_with_all_its_faces(
    batch_size: int, max_waiting: int, reuse: bool
) -> None:
    frames = clip()
    done = list(restore(frames, InvertingRestorer(), RestoreConfig(batch_size, max_waiting, reuse)))
    assert [frame.tracked for frame in done] == frames
    for frame in done:
        wanted = [face for face in frame.tracked.faces if face.strength > 0]
        assert [face.tracked for face in frame.faces] == wanted
        assert all(torch.equal(face.image, 255 - face.tracked.crop) for face in frame.faces)


@pytest.mark.parametrize("reuse", [True, False])
def test_a_face_larger_than_the_crop_is_changed_in_full(reuse: bool) -> None:
    """What it shows beyond the crop is left to blending."""
    face = tracked_face()
    large = replace(face, matrix=np.array([[0.5, 0, 8], [0, 0.5, 8]], np.float32))
    frames = [tracked_frame(0, [large])]
    (done,) = restore(frames, InvertingRestorer(), RestoreConfig(reuse=reuse), None, 0.8)
    assert torch.equal(done.faces[0].image, 255 - face.crop)


def test_batches_fill_over_frames() -> None:
    restorer = InvertingRestorer()
    frames = [tracked_frame(index, [tracked_face()]) for index in range(16)]
    list(restore(frames, restorer, RestoreConfig(batch_size=8, max_waiting=100, reuse=False)))
    assert restorer.batches == [8, 8]


def test_no_more_frames_wait_than_allowed() -> None:
    taken = 0

    def source() -> Iterator[TrackedFrame]:
        nonlocal taken
        for index in range(50):
            taken += 1
            yield tracked_frame(index, [tracked_face()] if index == 0 else [])

    done = restore(source(), InvertingRestorer(), RestoreConfig(batch_size=64, max_waiting=4))
    next(done)
    assert taken == 5


def test_without_a_restorer_everything_passes_at_once() -> None:
    done = list(restore(clip(), None, RestoreConfig()))
    assert len(done) == 20
    assert all(frame.faces == () for frame in done)


class SmallDevice(InvertingRestorer):
    """Has room for two faces."""

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        if len(requests) > 2:
            raise torch.OutOfMemoryError("out of memory")
        return super().restore(requests)


def test_out_of_memory_halves_the_batch_and_goes_on(caplog: pytest.LogCaptureFixture) -> None:
    restorer = SmallDevice()
    frames = [tracked_frame(index, [tracked_face()]) for index in range(8)]
    done = list(restore(frames, restorer, RestoreConfig(batch_size=8, max_waiting=100, reuse=False)))
    assert len(done) == 8
    assert max(restorer.batches) == 2
    assert "out of memory: going on with 2 faces" in caplog.text


def test_a_single_face_that_does_not_fit_is_an_error() -> None:
    class NoDevice(InvertingRestorer):
        def restore(self, requests: Sequence[Request]) -> list[Result]:
            raise torch.OutOfMemoryError("out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(restore(clip(), NoDevice(), RestoreConfig(batch_size=2)))


def test_a_masker_says_where_the_face_is_free() -> None:
    class LeftHalf:
        def mask(self, crops: torch.Tensor) -> torch.Tensor:
            free = torch.zeros(len(crops), *crops.shape[2:])
            free[:, :, : crops.shape[3] // 2] = 1
            return free

    (done,) = restore([tracked_frame(0, [tracked_face()])], InvertingRestorer(), RestoreConfig(), LeftHalf())
    config = BlendConfig(colour_match=0, grain=0)
    changed = blend(done, config).to_ndarray()[:96] != done.tracked.frame.native.to_ndarray()[:96]
    assert changed[48, 40]
    assert not changed[:, 50:].any()
