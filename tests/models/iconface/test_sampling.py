"""Steps along the flow by hand, guidance by its formula, losses by theirs."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from torch import Tensor

from models.iconface.network import ReferenceMemory
from models.iconface.sampling import (
    Condition,
    cleaned,
    fixed_noise,
    guided_velocity,
    klein_shift,
    noised,
    sample,
    sigmas,
    velocity,
)
from models.iconface.settings import IconFaceSettings
from models.training.losses import (
    anchored_identity,
    flow_matching,
    hard_example_identity,
    identity_distance,
    noise_weight,
)

NOISE, DEGRADED, CLEAN = (torch.randn(1, 4, 2, generator=torch.Generator().manual_seed(s)) for s in range(3))
SIGMA = torch.ones(1)


def condition(value: float) -> Condition:
    return Condition(torch.full((1, 1), value), ReferenceMemory(torch.zeros(1, 1, 1)))


@dataclass
class AnchorFlow:
    """A velocity that tells by its value which condition it was asked for."""

    shape: Any
    calls: int = 0

    def __call__(
        self,
        scene: Tensor,
        sigma: Tensor,
        degraded: Tensor | None,
        anchors: Tensor,
        memory: ReferenceMemory,
        before: object = None,
    ) -> Tensor:
        self.calls += 1
        value = anchors[:, :, None] if degraded is not None else torch.full((1, 1, 1), 100.0)
        return value.expand_as(scene)


def flow(clean: bool = False) -> Any:
    return AnchorFlow(SimpleNamespace(clean=clean))


def test_two_steps_by_hand() -> None:
    """u = z: from noise n, z = n - 0.5 n = n / 2, then n / 2 - 0.5 n / 2 = n / 4."""
    network: Any = lambda scene, *others: scene  # noqa: E731
    network = type("Flow", (), {"shape": SimpleNamespace(clean=False), "__call__": staticmethod(network)})()
    drawn = sample(network, NOISE, DEGRADED, condition(0), (), IconFaceSettings(steps=2))
    assert torch.allclose(drawn, NOISE / 4)


def test_the_true_velocity_leads_to_the_clean_face_in_any_number_of_steps() -> None:
    network: Any = type(
        "Flow", (), {"shape": SimpleNamespace(clean=False), "__call__": lambda self, *others: NOISE - CLEAN}
    )()
    for steps in (1, 3):
        drawn = sample(network, NOISE, DEGRADED, condition(0), (), IconFaceSettings(steps=steps, shift=2.0))
        assert torch.allclose(drawn, CLEAN, atol=1e-6)


def test_a_predicted_offset_is_a_velocity_that_leads_there() -> None:
    network: Any = type(
        "Flow", (), {"shape": SimpleNamespace(clean=True), "__call__": lambda self, *others: CLEAN - DEGRADED}
    )()
    scene = noised(CLEAN, NOISE, torch.tensor([0.7]))
    direction = velocity(network, scene, torch.tensor([0.7]), DEGRADED, condition(0))
    assert torch.allclose(direction, NOISE - CLEAN, atol=1e-5)
    assert torch.allclose(cleaned(scene, direction, torch.tensor([0.7])), CLEAN, atol=1e-5)
    drawn = sample(network, NOISE, DEGRADED, condition(0), (), IconFaceSettings(steps=4))
    assert torch.allclose(drawn, CLEAN, atol=1e-5)


def test_noise_levels_are_those_of_the_flow_matching_scheduler() -> None:
    scheduler = FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=[1.0, 0.75, 0.5, 0.25])
    assert sigmas(4, 3.0) == pytest.approx(scheduler.sigmas.tolist(), abs=1e-6)
    assert sigmas(4) == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_klein_takes_its_last_step_from_much_noise() -> None:
    """1024 tokens, 4 steps: mu = 2.03, sigmas 1, .958, .884, .717."""
    shift = klein_shift(1024, 4)
    assert math.log(shift) == pytest.approx(2.03, abs=0.01)
    assert sigmas(4, shift)[:4] == pytest.approx([1, 0.958, 0.884, 0.717], abs=1e-3)
    assert math.log(klein_shift(5000, 4)) == pytest.approx(1.303, abs=1e-3)


@pytest.mark.parametrize(
    ("guidance", "image_guidance", "expected", "calls"),
    [
        (1.0, 1.0, (5 + 7) / 2, 2),
        (2.0, 1.0, (1 - 2) * 3 + 2 * 6, 3),
        (1.2, 1.2, (1 - 1.2) * 100 + 1.2 * 6, 3),
        (1.5, 1.2, (1 - 1.2) * 100 + (1.2 - 1.5) * 3 + 1.5 * 6, 4),
    ],
)
def test_guidance_is_the_two_scale_rule(
    guidance: float, image_guidance: float, expected: float, calls: int
) -> None:
    """Nothing gives 100, the face alone 3, its two views 5 and 7."""
    network = flow()
    settings = IconFaceSettings(guidance=guidance, image_guidance=image_guidance)
    views = (condition(5), condition(7))
    direction = guided_velocity(network, NOISE, SIGMA, DEGRADED, condition(3), views, settings)
    assert torch.allclose(direction, torch.full_like(direction, expected), atol=1e-4)
    assert network.calls == calls


def test_one_step_goes_farther_towards_references_than_each_of_several() -> None:
    assert IconFaceSettings(steps=1).towards_references == 3
    assert IconFaceSettings(steps=4).towards_references == 1
    assert IconFaceSettings(steps=4, guidance=2.0).towards_references == 2


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_without_references_there_is_nothing_to_be_guided_to(guidance: float) -> None:
    network = flow()
    settings = IconFaceSettings(guidance=guidance)
    direction = guided_velocity(network, NOISE, SIGMA, DEGRADED, condition(3), (), settings)
    assert torch.equal(direction, torch.full_like(direction, 3.0))


def test_the_noise_is_one_tensor_a_seed() -> None:
    assert torch.equal(fixed_noise(1, 16, 4), fixed_noise(1, 16, 4))
    assert not torch.equal(fixed_noise(1, 16, 4), fixed_noise(2, 16, 4))


@pytest.mark.parametrize("wrong", [{"steps": 0}, {"shift": 0.0}])
def test_impossible_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match="must be"):
        replace(IconFaceSettings(), **wrong)


def test_flow_matching_asks_for_noise_minus_clean() -> None:
    assert float(flow_matching(NOISE - CLEAN, CLEAN, NOISE)) == 0
    assert float(flow_matching(NOISE - CLEAN + 2, CLEAN, NOISE)) == pytest.approx(4)


def test_identity_counts_less_the_more_noise_there_was() -> None:
    assert noise_weight(torch.tensor([0.0, 0.5, 0.75, 1.0])).tolist() == [1.0, 0.25, 0.0625, 0.0625]


def test_identity_losses_by_hand() -> None:
    """Restored along x, reference along y, target at 45 degrees between them."""
    restored = torch.tensor([[2.0, 0.0]])
    reference, target = torch.tensor([[0.0, 1.0]]), torch.tensor([[3.0, 3.0]])
    off = 1 - 0.5**0.5
    hard = 0.25 * off
    assert float(identity_distance(restored, target)) == pytest.approx(off)
    assert float(anchored_identity(restored, reference, target)) == pytest.approx((1 - hard) * 1 + hard * off)
    assert float(hard_example_identity(restored, reference, target, 0.3)) == pytest.approx(
        0.7 * off + 0.3 * 1
    )


def test_identity_losses_pull_the_restored_face_only() -> None:
    vectors = [torch.randn(2, 4, requires_grad=True) for _ in range(3)]
    anchored_identity(*vectors).sum().backward()
    hard_example_identity(*vectors, 0.5).sum().backward()
    assert vectors[0].grad is not None
    # The weight of the hard term is a number, not something to be learned.
    assert vectors[1].grad is None
    assert vectors[2].grad is None
