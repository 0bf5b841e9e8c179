"""Windows of aligned faces: the same part of the same crop, degraded and not, whatever stands beside them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut

from models.degradation.stills import CodedFaces
from models.training.dataset import Faces
from models.training.pairs import PairSource


@pytest.fixture(scope="module")
def source() -> PairSource:
    face = astronaut()[:256, 96:352]
    pictures = np.stack([face, face[:, ::-1], np.roll(face, 20, 0)])
    return PairSource(
        Faces(Path("made"), pictures, ("a", "b", "c"), ("",) * 3, ("made",) * 3, np.full(3, 512)), CPU
    )


CPU = torch.device("cpu")
SEEDS = list(range(12))
INDICES = np.arange(12) % 3
CORNERS = torch.tensor([[32, 64]]).expand(12, 2)


def test_a_window_is_that_part_of_the_crop(source: PairSource) -> None:
    whole = source.pairs(INDICES, torch.zeros(12, 2, dtype=torch.int64), 256, SEEDS).targets
    window = source.pairs(INDICES, CORNERS, 96, SEEDS).targets
    assert torch.allclose(window, whole[:, :, 64:160, 32:128], atol=1e-4)


def test_windows_do_not_depend_on_their_neighbours(source: PairSource) -> None:
    together = source.pairs(INDICES, CORNERS, 96, SEEDS)
    alone = source.pairs(INDICES[5:6], CORNERS[5:6], 96, SEEDS[5:6])
    assert torch.allclose(together.degraded[5:6], alone.degraded, atol=1e-4)
    assert torch.allclose(together.targets[5:6], alone.targets, atol=1e-4)


def test_degraded_and_target_lie_on_each_other(source: PairSource) -> None:
    pairs = source.pairs(INDICES, CORNERS, 96, SEEDS)
    here = (pairs.degraded - pairs.targets).abs().mean()
    shifted = (pairs.degraded[..., 12:] - pairs.targets[..., :-12]).abs().mean()
    assert 0.005 < here < 0.7 * shifted


def test_faces_are_mirrored_and_moved(source: PairSource) -> None:
    seeds = list(range(40))
    indices = np.zeros(40, np.int64)
    targets = source.pairs(indices, torch.zeros(40, 2, dtype=torch.int64), 256, seeds).targets
    grey = targets.mean(1)
    grey = (grey - grey.mean((1, 2), keepdim=True)) / grey.std((1, 2), keepdim=True)
    face = torch.from_numpy(astronaut()[:256, 96:352].astype(np.float32)).mean(2)
    face = (face - face.mean()) / face.std()
    straight, mirrored = (grey * face).mean((1, 2)), (grey * face.flip(1)).mean((1, 2))
    assert 8 <= int((mirrored > straight).sum()) <= 32
    best = torch.maximum(straight, mirrored)
    assert int((best < 0.97).sum()) >= 8, best


def test_some_windows_come_out_of_a_real_video_stream() -> None:
    """The stream is moved and toned like its target; here it is the target's negative, so it is easy to find."""
    face = astronaut()[:256, 96:352]
    faces = Faces(Path("made"), np.stack([face, face]), ("a", "b"), ("",) * 2, ("made",) * 2, np.full(2, 512))
    streams = CodedFaces(255 - face[None], np.array([1]))
    source, plain = PairSource(faces, CPU, streams), PairSource(faces, CPU)
    seeds = list(range(60))
    corners = torch.full((60, 2), 64)

    def negatives(source: PairSource, face: int) -> int:
        pairs = source.pairs(np.full(60, face), corners, 96, seeds)
        grey = [pictures.mean(1).flatten(1) for pictures in (pairs.degraded, pairs.targets)]
        first, second = (values - values.mean(1, keepdim=True) for values in grey)
        return int(((first * second).sum(1) < 0).sum())

    assert negatives(source, 1) in range(2, 12)
    assert negatives(source, 0) == negatives(plain, 1) == 0
