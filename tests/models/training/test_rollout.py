"""Frames before a training picture, and what both networks learn from what they restored there."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor, nn

from models.fast.network import FastNetwork
from models.iconface.model import IconFaceModel
from models.iconface.sampling import Condition, velocity
from models.training import fixed_networks
from models.training.fast import FastTask
from models.training.flow import FlowTask
from models.training.pairs import PairSource
from models.training.rollout import Step, frames_before, moved, steadiness
from models.training.settings import FastSettings, FlowSettings
from models.training.state import begin_with
from models.weights import load_checkpoint, save_checkpoint
from support.training_networks import (
    CPU,
    SMALL_CODEC,
    SMALL_FAST,
    SMALL_FLOW,
    small_flow_task,
    write_flow_folder,
)

RECURRENT = replace(SMALL_FLOW, previous=True)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_networks, "TAEF2_WIDTH", 8)
        torch.manual_seed(0)
        folder = tmp_path_factory.mktemp("faces")
        write_flow_folder(folder)
        yield folder


def faces(count: int = 4) -> Tensor:
    cuts = [astronaut()[20 * k : 20 * k + 256, 100:356] for k in range(count)]
    return torch.from_numpy(np.stack(cuts)).permute(0, 3, 1, 2).float() / 255


def as_they_are(targets: Tensor, seeds: list[int]) -> Tensor:
    return targets


def rollout(seed: int, frames: int = 1) -> tuple[Tensor, Step]:
    targets = faces()
    for attempt in range(100):
        random = np.random.default_rng((seed, attempt))
        steps = frames_before(targets, 1.0, 2, random, as_they_are)
        if len(steps) == frames:
            return targets, steps[0]
    raise AssertionError("no rollout of that length")


def test_the_motion_leads_back_into_the_frame_before() -> None:
    for seed in range(4):
        targets, step = rollout(seed)
        back = moved(step.targets, step.places)
        # The frame before may be lit otherwise: what is compared has no brightness.
        both = [picture - picture.mean((2, 3), keepdim=True) for picture in (back, targets)]
        where = step.holds > 0.5
        away, still = (
            ((one - both[1]).abs().mean(1, keepdim=True) * where).sum() / where.sum().clamp_min(1)
            for one in (both[0], step.targets - step.targets.mean((2, 3), keepdim=True))
        )
        assert float(away) < 0.03
        assert float(away) < 0.8 * float(still)


def test_the_gate_closes_over_what_was_not_there_though_not_wholly() -> None:
    steps = [rollout(seed)[1] for seed in range(12)]
    gates, holds = (torch.cat([getattr(step, name) for step in steps]) for name in ("gate", "holds"))
    assert float(gates.min()) >= 0
    assert float(gates.max()) <= 1
    assert 0.5 < float(gates.mean()) < 0.98
    covered = holds < gates - 0.05
    assert 0.005 < float(covered.float().mean()) < 0.3
    assert float(gates[covered].mean()) < 0.8 * float(gates[~covered].mean())


def test_steadiness_asks_for_the_same_error_and_not_for_the_same_picture() -> None:
    targets, step = rollout(1)
    error = 0.1 * torch.sin(torch.arange(256) / 9)[None, None, None].expand(4, 3, 256, 256)
    before = step.targets + moved(error, _back(step))
    kept = steadiness(targets + error, targets, before, step)
    changed = steadiness(targets - error, targets, before, step)
    assert float(kept) < 0.2 * float(changed)


def _back(step: Step) -> Tensor:
    """The way from the frame before into this one, near enough."""
    identity = torch.nn.functional.affine_grid(torch.eye(2, 3)[None], [1, 1, 256, 256], align_corners=False)
    return 2 * identity - step.places


def test_other_frames_are_degraded_alike_with_other_noise(folder: Path) -> None:
    task = small_flow_task(folder)
    source: PairSource = task.source
    targets, seeds = faces(), [3, 5, 8, 13]
    one, again, other, strange = (
        source.degraded_again(targets, noise, course)
        for noise, course in (
            (seeds, seeds),
            (seeds, seeds),
            ([1, 2, 4, 6], seeds),
            ([1, 2, 4, 6], [1, 2, 4, 6]),
        )
    )
    assert torch.equal(one, again)
    assert 0 < float((one - other).abs().mean()) < 0.6 * float((one - strange).abs().mean())


def test_iconface_grows_out_of_a_checkpoint_without_and_begins_where_that_ended(tmp_path: Path) -> None:
    torch.manual_seed(0)
    earlier = IconFaceModel(SMALL_FLOW, SMALL_CODEC).eval()
    save_checkpoint(tmp_path / "old.safetensors", earlier.state_dict(), earlier.shapes(), 0)
    grown = IconFaceModel(RECURRENT, SMALL_CODEC).eval()
    begin_with(grown, load_checkpoint(tmp_path / "old.safetensors"))
    scene, degraded, anchors = torch.randn(2, 256, 128), torch.randn(2, 256, 128), torch.randn(2, 128)
    crops, gates = faces(2), torch.ones(2, 1, 256, 256)
    with torch.inference_mode():
        answers = []
        for model in (earlier.half().float(), grown):
            condition = Condition(anchors, model.network.without_references(2))
            answers.append(velocity(model.network, scene, torch.ones(2), degraded, condition))
        # To the last bits, in which sums depend on where their numbers happen to lie in memory.
        torch.testing.assert_close(*answers, rtol=0, atol=1e-5)
        features = grown.autoencoder.encode(crops)[1]
        before = grown.before(crops.flip(0), gates)
        assert torch.equal(grown.decoded(scene, features), grown.decoded(scene, features, before))


def test_behind_a_closed_gate_lies_nothing_for_either_network() -> None:
    torch.manual_seed(0)
    model = IconFaceModel(RECURRENT, SMALL_CODEC).eval()
    fast = FastNetwork(replace(SMALL_FAST, previous=True)).eval()
    for parameter in (*model.parameters(), *fast.parameters()):
        if not parameter.any():
            torch.nn.init.normal_(parameter, std=0.3)
    anchors, scene, degraded = torch.zeros(2, 128), torch.randn(2, 256, 128), torch.randn(2, 256, 128)
    crops, gate = faces(2), torch.zeros(2, 1, 256, 256)
    half = torch.cat([torch.ones(2, 1, 128, 256), torch.zeros(2, 1, 128, 256)], 2)
    upper = torch.cat([torch.rand(2, 3, 128, 256), torch.zeros(2, 3, 128, 256)], 2)

    @torch.inference_mode()
    def answers(pictures: Tensor, gates: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        before = model.before(pictures, gates)
        condition = Condition(anchors, model.network.without_references(2), before)
        direction = velocity(model.network, scene, torch.ones(2), degraded, condition)
        features = model.autoencoder.encode(crops)[1]
        return (
            direction,
            model.decoded(scene, features, before),
            fast(crops, anchors, torch.cat([pictures, gates], 1)),
        )

    for one, other in zip(answers(crops, gate), answers(crops.flip(0), gate), strict=True):
        assert torch.equal(one, other)
    for one, other in zip(answers(crops, half), answers(crops + upper, half), strict=True):
        assert not torch.allclose(one, other, atol=1e-3)
    with torch.inference_mode():
        assert torch.equal(fast(crops, anchors), fast(crops, anchors, torch.cat([crops, gate], 1)))


def test_fast_grows_out_of_a_checkpoint_without_and_begins_where_that_ended(tmp_path: Path) -> None:
    torch.manual_seed(0)
    shape = replace(SMALL_FAST, grain=True)
    earlier = FastNetwork(shape).eval()
    save_checkpoint(tmp_path / "old.safetensors", earlier.state_dict(), dataclasses.asdict(shape), 0)
    grown = FastNetwork(replace(shape, previous=True)).eval()
    begin_with(grown, load_checkpoint(tmp_path / "old.safetensors"))
    crops, anchors = faces(2), torch.zeros(2, 128)
    previous = torch.rand(2, 4, 256, 256)
    with torch.inference_mode():
        expected = earlier.half().float()(crops, anchors)
        assert torch.allclose(grown(crops, anchors), expected, atol=1e-5)
        assert torch.allclose(grown(crops, anchors, previous), expected, atol=1e-5)


def test_both_networks_can_learn_to_be_steady(folder: Path) -> None:
    """By what looks back alone: the frame before, which has nothing to look back to, stays as it is."""
    torch.manual_seed(0)
    flow = small_flow_task(
        folder, shape=RECURRENT, previous=1.0, previous_frames=1, pure_noise=1.0, references=(1.0,)
    )
    settings = FastSettings(
        encoder=folder / "encoder.safetensors",
        part_px=64,
        coded_faces=0,
        shape=replace(SMALL_FAST, previous=True),
        previous=1.0,
        previous_frames=1,
    )
    fast = FastTask(settings, folder, folder / "cache", seed=0, device=CPU)
    model, network = flow.network(), fast.network()
    torch.nn.init.normal_(network.leave.weight, std=0.1)
    assert model.network.recurrence is not None
    assert model.recurrence is not None
    assert network.gain is not None
    back = [*model.network.recurrence.parameters(), *model.recurrence.parameters()]
    assert _falls(flow, model, back)
    assert _falls(fast, network, list(network.gain.parameters()))


def _falls(task: FlowTask | FastTask, network: nn.Module, parameters: list[nn.Parameter]) -> bool:
    batch = task.batch(4, 4)
    optimiser = torch.optim.Adam(parameters, lr=1e-2)
    values = []
    for _ in range(12):
        steady = task.losses(network, None, batch)["steady"]  # type: ignore[arg-type]
        optimiser.zero_grad()
        steady.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        values.append(float(steady.detach()))
    return values[-1] < 0.95 * values[0]


@pytest.mark.parametrize("settings", [FlowSettings, FastSettings])
def test_frames_before_ask_for_a_network_that_takes_them(settings: type) -> None:
    with pytest.raises(ValueError, match=r"asks for shape\.previous"):
        partial(settings, previous=0.5)()
    with pytest.raises(ValueError, match="previous_frames must be at least 1"):
        partial(settings, previous_frames=0)()
