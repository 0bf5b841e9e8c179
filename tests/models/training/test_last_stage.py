"""The last stage of the flow restorer's training: a critic, and samples as a restorer of one step meets them."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from configs import ConfigError
from models.training.flow import FlowTask
from models.training.loop import TrainingConfig, train
from models.weights import CheckpointError, load_checkpoint, save_checkpoint
from support.training_networks import small_flow_config, small_flow_task, write_flow_folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("faces")
    torch.manual_seed(0)
    write_flow_folder(folder)
    return folder


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> TrainingConfig:
    return small_flow_config(folder, tmp_path / "run")


@pytest.fixture
def few_step_task(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., FlowTask]:
    """With a critic, and all samples at sigma = 1; what untrained networks restore counts as known."""
    monkeypatch.setattr("models.training.flow.known", lambda restored, targets: torch.ones(len(restored)))

    def make(**changes: object) -> FlowTask:
        last = {"perceptual": folder / "perceptual.safetensors", "adversarial_weight": 0.1, "pure_noise": 1.0}
        return small_flow_task(folder, **(last | {"no_degraded": 0.0, "decoded_part": 1.0} | changes))

    return make


def test_each_adversarial_term_reaches_its_own_side(few_step_task: Callable[..., FlowTask]) -> None:
    task = few_step_task()
    network, critic = task.network(), task.critic()
    assert critic is not None
    nn.init.normal_(network.network.backbone.proj_out.weight, std=0.1)
    losses = task.losses(network, critic, task.batch(0, 2))
    sides: list[list[Tensor]] = [
        [network.network.backbone.proj_out.weight],
        list(network.autoencoder.decoder.parameters()),
        list(critic.parameters()),
    ]
    moved = {
        name: [
            any(
                gradient is not None and float(gradient.abs().max()) > 0
                for gradient in torch.autograd.grad(losses[name], side, retain_graph=True, allow_unused=True)
            )
            for side in sides
        ]
        for name in ("adversarial", "critic")
    }
    assert moved == {"adversarial": [True, True, False], "critic": [False, False, True]}


def test_the_critic_sees_only_what_a_restorer_of_one_step_shows(
    few_step_task: Callable[..., FlowTask],
) -> None:
    task = few_step_task()
    network, critic, batch = task.network(), task.critic(), task.batch(0, 2)
    with torch.no_grad():
        shown = task.losses(network, critic, batch)
        unseen = task.losses(network, critic, replace(batch, sigma=torch.full((2,), 0.99)))
    for name in ("adversarial", "critic"):
        assert float(shown[name]) != 0
        assert float(unseen[name]) == 0


def test_without_a_weight_there_is_no_critic(few_step_task: Callable[..., FlowTask]) -> None:
    assert few_step_task(adversarial_weight=0.0).critic() is None
    with pytest.raises(ConfigError, match="`perceptual`, which is not set"):
        few_step_task(perceptual=None).critic()


def test_a_run_with_a_critic_resumes_as_if_it_had_not_stopped(
    few_step_task: Callable[..., FlowTask], config: TrainingConfig, tmp_path: Path
) -> None:
    task, config = few_step_task(), replace(config, images=6, critic_rate=0.05)
    straight = load_checkpoint(train(task, config)).state
    divided = replace(config, run=tmp_path / "divided")
    train(task, divided, minutes=0)
    resumed = load_checkpoint(train(task, divided)).state
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_a_critic_joins_a_run_that_had_none(
    few_step_task: Callable[..., FlowTask], config: TrainingConfig
) -> None:
    config = replace(config, images=4, status_images=2)
    train(few_step_task(adversarial_weight=0.0), config, minutes=0)
    assert load_checkpoint(train(few_step_task(), config)).images_seen == 4
    lines = [json.loads(line) for line in (config.run / "status.jsonl").read_text().splitlines()]
    assert ["adversarial" in line for line in lines] == [False, True]


def test_a_new_run_begins_with_the_whole_model_of_another(
    few_step_task: Callable[..., FlowTask], config: TrainingConfig, folder: Path, tmp_path: Path
) -> None:
    """Transformer, autoencoder and the network that drafts come from the checkpoint, not from the recipe."""
    earlier = few_step_task(adversarial_weight=0.0, draft=folder / "fast.safetensors").network()
    with torch.no_grad():
        for parameter in earlier.parameters():
            parameter.add_(0.01)
    initial = tmp_path / "earlier.safetensors"
    save_checkpoint(initial, earlier.state_dict(), earlier.shapes(), 8)
    config = replace(config, images=2, initial=initial, learning_rate=0.0)
    task = few_step_task(draft=folder / "fast.safetensors")
    state = load_checkpoint(train(task, config)).state
    expected = load_checkpoint(initial).state
    assert {name.split(".")[0] for name in state} == {"network", "autoencoder", "draft"}
    assert state.keys() == expected.keys()
    for name, value in expected.items():
        assert torch.equal(state[name], value), name
    with pytest.raises(CheckpointError, match="the network to train has no weights 'draft"):
        train(few_step_task(), replace(config, run=tmp_path / "without"))
