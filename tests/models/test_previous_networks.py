"""Restorers that take what they restored before: it shows, alone and in company, and begins the way to a face."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from models.fast.network import FastNetwork
from models.fast.restorer import FastRestorer, sample_inputs
from models.iconface.model import IconFaceModel
from models.iconface.network import IconFace
from models.iconface.restorer import IconFaceRestorer
from models.iconface.sampling import sigmas
from models.iconface.settings import IconFaceSettings
from models.protocols import Previous, References, Request
from models.weights import Checkpoint, load_checkpoint, save_checkpoint
from pipeline.build import build_restorer
from pipeline.config import PipelineConfig, RestorerConfig
from pipeline.stages.restore import RestoreConfig
from support.crops import SOFT, face
from support.small_iconface import CODEC
from support.small_iconface import SHAPE as SMALL
from support.training_networks import SMALL_FAST

SHAPE = dataclasses.replace(SMALL, rows=16)
CROP = face(SOFT).crop


def _stirred(network: nn.Module) -> nn.Module:
    """`network` without a weight that is zero."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return network


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Checkpoints with (`fast`, `iconface`) and without (`old fast`, `old iconface`) a place for the face before."""
    folder = tmp_path_factory.mktemp("weights")
    torch.manual_seed(0)
    made: dict[str, Path] = {}
    for previous in (True, False):
        old = "" if previous else "old "
        model = IconFaceModel(dataclasses.replace(SHAPE, previous=previous), CODEC)
        shape = dataclasses.replace(SMALL_FAST, previous=previous)
        for name, network, parameters in (
            (f"{old}iconface", model, model.shapes()),
            (f"{old}fast", FastNetwork(shape), dataclasses.asdict(shape)),
        ):
            made[name] = folder / f"{name}.safetensors"
            save_checkpoint(made[name], _stirred(network).state_dict(), parameters, 0)
    return made


def previous(gate: float = 1.0) -> Previous:
    return Previous(CROP.flip(2), torch.full((256, 256), gate))


def checkpoint(paths: dict[str, Path], name: str) -> Checkpoint:
    return load_checkpoint(paths[name])


def made(paths: dict[str, Path], name: str, **settings: Any) -> FastRestorer | IconFaceRestorer:
    if "fast" in name:
        return FastRestorer(checkpoint(paths, name))
    return IconFaceRestorer(checkpoint(paths, name), settings=IconFaceSettings(**settings))


@pytest.mark.parametrize("name", ["fast", "iconface"])
def test_the_face_before_shows_and_every_request_has_its_own(paths: dict[str, Path], name: str) -> None:
    restorer = made(paths, name)
    assert restorer.needs.previous
    requests = [Request(CROP, References(), given) for given in (None, previous(), previous(0.4), None)]
    together = [result.image for result in restorer.restore(requests)]
    for request, image in zip(requests, together, strict=True):
        assert torch.equal(restorer.restore([request])[0].image, image)
    assert torch.equal(together[0], together[3])
    assert not torch.equal(together[0], together[1])
    assert not torch.equal(together[1], together[2])


@pytest.mark.parametrize("name", ["old fast", "old iconface"])
def test_earlier_checkpoints_load_and_take_no_notice(paths: dict[str, Path], name: str) -> None:
    restorer = made(paths, name)
    assert not restorer.needs.previous
    one, other = (restorer.restore([Request(CROP, References(), given)])[0] for given in (None, previous()))
    assert torch.equal(one.image, other.image)


@pytest.mark.parametrize("name", ["fast", "iconface"])
def test_a_previous_face_of_another_form_is_refused(paths: dict[str, Path], name: str) -> None:
    wrong = Previous(CROP[:, :128], torch.ones(256, 256))
    with pytest.raises(ValueError, match=r"previous\.image must be"):
        made(paths, name).restore([Request(CROP, References(), wrong)])


def test_the_group_can_be_left_out(paths: dict[str, Path]) -> None:
    restorer = made(paths, "iconface", previous_group=False)
    assert not restorer.needs.previous
    one, other = (restorer.restore([Request(CROP, References(), given)])[0] for given in (None, previous()))
    assert torch.equal(one.image, other.image)


def test_a_face_that_changed_little_begins_where_it_was_with_fewer_steps(
    paths: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    levels: list[float] = []
    forward = IconFace.forward

    def counted(self: IconFace, scene: Tensor, sigma: Tensor, *rest: Any) -> Tensor:
        levels.append(float(sigma[0]))
        return forward(self, scene, sigma, *rest)

    monkeypatch.setattr(IconFace, "forward", counted)
    restorer = made(paths, "old iconface", steps=4, previous_sigma=0.5)
    assert restorer.needs.previous
    for given, wanted in (
        (None, [1, 0.75, 0.5, 0.25]),
        (previous(), [0.5, 0.25]),
        (previous(0.3), [1, 0.75, 0.5, 0.25]),
    ):
        levels.clear()
        restorer.restore([Request(CROP, References(), given)])
        assert levels == pytest.approx(wanted)


def test_levels_from_a_lower_start_are_those_of_the_whole_way() -> None:
    assert sigmas(4, start=0.5) == pytest.approx([0.5, 0.25, 0])
    assert sigmas(1, start=0.5) == pytest.approx([0.5, 0])
    shifted = sigmas(4, 3.0)
    assert sigmas(4, 3.0, shifted[2]) == pytest.approx(shifted[2:])


def test_noise_of_its_own_is_a_function_of_the_crop(paths: dict[str, Path]) -> None:
    own = made(paths, "old iconface", own_noise=True)
    one, again = (own.restore([Request(CROP, References())])[0].image for _ in range(2))
    assert torch.equal(one, again)
    assert not torch.equal(one, made(paths, "old iconface").restore([Request(CROP, References())])[0].image)


def test_samples_for_an_engine_hold_a_face_before() -> None:
    crops, anchors, told = sample_inputs(256, 128, previous=True)
    assert told.shape == (len(crops), 4, 256, 256)
    assert len(sample_inputs(256, 128)) == 2
    assert anchors.shape == (len(crops), 128)


@pytest.mark.parametrize("level", [0.05, 1.5])
def test_levels_that_cannot_be_are_refused(level: float) -> None:
    with pytest.raises(ValueError, match=r"previous_sigma must be above 0\.05 and at most 1"):
        IconFaceSettings(previous_sigma=level)


def test_a_start_at_the_face_before_is_refused_where_nobody_tells_of_it() -> None:
    late = RestorerConfig(iconface=IconFaceSettings(previous_sigma=0.5))
    with pytest.raises(ValueError, match=r"add restore\.previous=true"):
        PipelineConfig(restorer=late)
    PipelineConfig(restorer=late, restore=RestoreConfig(previous=True))


def test_settings_reach_the_restorer(paths: dict[str, Path]) -> None:
    config = RestorerConfig(
        kind=str(paths["iconface"]),
        iconface=IconFaceSettings(previous_sigma=0.4, previous_group=False, own_noise=True),
    )
    restorer = build_restorer(config)
    assert isinstance(restorer, IconFaceRestorer)
    settings = restorer.settings
    assert (settings.previous_sigma, settings.previous_group, settings.own_noise) == (0.4, False, True)
