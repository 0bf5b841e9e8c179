"""The recipes of the flow restorer and of its autoencoder, in small."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.data import astronaut
from torch import nn

from configs import ConfigError, load
from models.iconface.model import build_autoencoder, build_iconface
from models.iconface.restorer import IconFaceRestorer
from models.iconface.shape import IconFaceShape
from models.pictures import recogniser_view
from models.protocols import References, Request
from models.training import fixed_networks
from models.training.autoencoder import AutoencoderTask
from models.training.fixed_networks import Teacher
from models.training.flow import FlowTask
from models.training.loop import TrainingConfig, train
from models.training.pairs import Pairs, another_view, other_views
from models.training.publish import publish
from models.training.settings import AutoencoderSettings
from models.weights import load_checkpoint, load_embedded
from support.training_networks import (
    CPU,
    SMALL_CODEC,
    SMALL_FLOW,
    small_flow_config,
    small_flow_task,
    write_flow_folder,
)

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module", autouse=True)
def narrow_teacher() -> Iterator[None]:
    """The teacher as it is, but narrow: the real one would take minutes."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fixed_networks, "TAEF2_WIDTH", 8)
        yield


@pytest.fixture(scope="module")
def folder(narrow_teacher: None, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four faces cut from the astronaut, two of one person; teacher, encoder and autoencoder of random weights."""
    folder = tmp_path_factory.mktemp("faces")
    torch.manual_seed(0)
    save_file(fixed_networks.taef2_encoder().state_dict(), folder / "taef2_encoder.safetensors")
    save_file(fixed_networks.taef2_decoder().state_dict(), folder / "taef2_decoder.safetensors")
    write_flow_folder(folder)
    return folder


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> TrainingConfig:
    return small_flow_config(folder, tmp_path / "run")


@pytest.fixture
def flow_task(folder: Path) -> Callable[..., FlowTask]:
    return partial(small_flow_task, folder)


@pytest.fixture
def autoencoder_task(folder: Path) -> AutoencoderTask:
    settings = AutoencoderSettings(teacher=folder, part_px=64, blind=0.0, shape=SMALL_CODEC)
    return AutoencoderTask(settings, folder, folder / "cache", seed=0, device=CPU)


def reported(run: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (run / "status.jsonl").read_text().splitlines()]


def test_flow_learns_and_its_checkpoint_restores(
    flow_task: Callable[..., FlowTask], config: TrainingConfig
) -> None:
    """On one batch with references over and over, so that chance cannot hide a step in the wrong direction."""
    task = flow_task(references=(0.0, 1.0), pure_noise=1.0, no_degraded=0.0)
    batch = task.batch(0, 2)
    task.batch = lambda images_seen, batch_size: batch  # type: ignore[method-assign]
    path = train(task, config)
    for name in ("flow", "pixel"):
        values = reported(config.run, name)
        assert values[-1] < 0.9 * values[0], (name, values)
    assert {"identity", "texture"} <= json.loads(
        (config.run / "status.jsonl").read_text().splitlines()[0]
    ).keys()
    crop = torch.from_numpy(np.asarray(task.faces.pictures[0]).copy()).permute(2, 0, 1)
    result = IconFaceRestorer(load_checkpoint(path)).restore([Request(crop, References())])[0]
    assert tuple(result.image.shape) == (3, 256, 256)


def test_a_run_of_the_flow_is_published_as_iconface(
    flow_task: Callable[..., FlowTask], config: TrainingConfig, tmp_path: Path
) -> None:
    train(flow_task(references=(1.0,)), replace(config, images=2))
    recipe = tmp_path / "train_tiny.toml"
    recipe.write_text(
        f'task = "flow"\nfaces = "{config.faces}"\ncache = "{config.cache}"\nrun = "{config.run}"\n'
    )
    with pytest.raises(ConfigError, match="task is flow, and fast is made by fast"):
        publish("fast", recipe, "2026-01-31", tmp_path)
    publish("iconface", recipe, "2026-01-31", tmp_path)
    assert build_iconface(load_embedded("iconface", tmp_path)).network.shape.rows == 16


def test_flow_batches_depend_on_seed_and_images_only(flow_task: Callable[..., FlowTask]) -> None:
    task = flow_task(shape=replace(SMALL_FLOW, previous=True), previous=1.0, no_degraded=0.0)
    first, second, following = task.batch(8, 4), task.batch(8, 4), task.batch(12, 4)
    assert first.steps
    for one, other in ((first, second), *zip(first.steps, second.steps, strict=True)):
        for part in dataclasses.fields(one):
            if part.name != "steps":
                assert torch.equal(getattr(one, part.name), getattr(other, part.name))
    assert not torch.equal(first.noise, following.noise)
    assert not torch.equal(first.degraded, following.degraded)


def test_batches_have_no_to_three_references_as_often_as_asked(
    flow_task: Callable[..., FlowTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = flow_task(stranger=0.25)
    monkeypatch.setattr(task, "_references", lambda index, stranger, views, random: torch.zeros(views))
    blank = Pairs(torch.zeros(1, 3, 256, 256), torch.zeros(1, 3, 256, 256))
    monkeypatch.setattr(task.source, "pairs", lambda *_: blank)
    counts, strangers, pure = [], [], []
    for step in range(300):
        batch = task.batch(step, 1)
        counts.append(batch.references.shape[1])
        strangers += batch.strangers.tolist() if counts[-1] else []
        pure += (batch.sigma == 1).tolist()
        assert 0.2 <= float(batch.sigma.min()) <= 1
        assert counts[-1] or not batch.strangers.any()
    shares = np.bincount(counts, minlength=4) / len(counts)
    assert shares == pytest.approx([0.3, 0.3, 0.2, 0.2], abs=0.08)
    assert np.mean(strangers) == pytest.approx(0.25, abs=0.1)
    assert np.mean(pure) == pytest.approx(0.5, abs=0.1)


def test_references_show_the_same_person_where_the_set_has_more(
    flow_task: Callable[..., FlowTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = flow_task()
    monkeypatch.setattr(
        "models.training.flow.other_views",
        lambda pictures, random: torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2).float() / 255,
    )
    random = np.random.default_rng(0)

    def shown(index: int) -> set[int]:
        given = (task._references(index, False, 3, random) * 255).round().byte().permute(0, 2, 3, 1).numpy()
        return {k for k in range(4) for view in given if np.array_equal(view, task.faces.pictures[k])}

    assert shown(0) == {1}
    assert shown(1) == {0}
    assert shown(2) == {2}


@pytest.mark.parametrize("references", [(1.0,), (0.0, 1.0)])
def test_identity_counts_only_with_references(
    flow_task: Callable[..., FlowTask], references: tuple[float, ...]
) -> None:
    task = flow_task(references=references, no_degraded=0.0)
    losses = task.losses(task.network(), None, task.batch(0, 2))
    assert ("identity" in losses) == (len(references) == 2)


@pytest.mark.parametrize("references", [(1.0,), (0.0, 1.0)])
def test_own_identity_asks_for_the_target_with_references_and_without(
    flow_task: Callable[..., FlowTask], references: tuple[float, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = flow_task(references=references, own_identity_weight=2.0, decoded_part=1.0)
    drawn = replace(task.batch(0, 2), sigma=torch.tensor([0.5, 1.0]), blind=torch.tensor(False))
    network = task.network()
    nn.init.normal_(network.network.backbone.proj_out.weight, std=0.1)
    term = task.losses(network, None, drawn)["own_identity"]
    gradient = torch.autograd.grad(term, network.network.backbone.proj_out.weight)[0]
    assert float(gradient.abs().max()) > 0

    # The target alone shows a person, and what is restored another: each of distance 1.
    def embed(pictures: torch.Tensor) -> torch.Tensor:
        return torch.eye(128)[int(torch.equal(pictures, drawn.targets))].expand(len(pictures), 128)

    monkeypatch.setattr(task, "_embed", embed)
    term = task.losses(network, None, drawn)["own_identity"]
    assert float(term) == pytest.approx(2.0 * (0.25 + 0.0625) / 2)


def test_nobody_is_drawn_towards_a_stranger(flow_task: Callable[..., FlowTask]) -> None:
    """With strangers the term must not depend on the references, only on the target."""
    task = flow_task(references=(0.0, 1.0), no_degraded=0.0, decoded_part=1.0)
    network, batch = task.network(), task.batch(0, 2)
    other = replace(batch, references=batch.references.flip(0))
    known = [task.losses(network, None, each)["identity"] for each in (batch, other)]
    everyone = torch.ones(2, dtype=torch.bool)
    strange = [
        task.losses(network, None, replace(each, strangers=everyone))["identity"] for each in (batch, other)
    ]
    assert not torch.allclose(*known, rtol=1e-4, atol=0)
    assert torch.allclose(*strange, rtol=1e-3, atol=0)


def test_both_papers_identity_terms_can_be_chosen(flow_task: Callable[..., FlowTask]) -> None:
    tasks = [flow_task(identity=name, references=(0.0, 1.0)) for name in ("iconface", "refid")]
    network, batch = tasks[0].network(), tasks[0].batch(0, 2)
    one, other = (task.losses(network, None, batch)["identity"] for task in tasks)
    assert not torch.allclose(one, other, rtol=1e-3)


def test_a_blind_batch_trains_the_flow_alone(flow_task: Callable[..., FlowTask]) -> None:
    task = flow_task()
    network, batch = task.network(), replace(task.batch(0, 2), blind=torch.tensor(True))
    losses = task.losses(network, None, batch)
    assert losses.keys() == {"flow"}
    changed = task.losses(network, None, replace(batch, degraded=torch.rand_like(batch.degraded)))
    if not batch.references.shape[1]:
        pytest.skip("without references the degraded face is the anchor")
    assert torch.equal(changed["flow"], losses["flow"])


def test_the_encoder_rests_and_the_decoder_learns(flow_task: Callable[..., FlowTask]) -> None:
    task = flow_task(no_degraded=0.0)
    network = task.network()
    nn.init.normal_(network.network.backbone.proj_out.weight, std=0.1)
    torch.stack(list(task.losses(network, None, task.batch(0, 2)).values())).sum().backward()
    assert all(parameter.grad is None for parameter in network.autoencoder.encoder.parameters())
    assert all(parameter.grad is not None for parameter in network.autoencoder.decoder.parameters())
    assert network.network.backbone.proj_out.weight.grad is not None
    assert not flow_task(decoder_learns=False).network().autoencoder.decoder.enter.weight.requires_grad


def test_patterns_of_the_networks_own_cells_cost_what_the_recipe_says(
    flow_task: Callable[..., FlowTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("models.training.flow.grid", lambda restored, targets: (restored - targets).mean())
    task = flow_task(no_degraded=0.0, grid_weight=3.0)
    batch, network = task.batch(0, 2), task.network()
    assert "grid" not in flow_task(no_degraded=0.0).losses(network, None, batch)
    nn.init.normal_(network.network.backbone.proj_out.weight, std=0.1)
    term = task.losses(network, None, batch)["grid"]
    monkeypatch.setattr(
        "models.training.flow.charbonnier", lambda restored, targets: (restored - targets).mean()
    )
    pixel = task.losses(network, None, batch)["pixel"]
    assert torch.allclose(term, 3.0 * pixel, rtol=1e-3)
    assert float(torch.autograd.grad(term, network.network.backbone.proj_out.weight)[0].abs().max()) > 0


@pytest.mark.parametrize("learns", [False, True])
def test_the_draft_learns_only_where_it_shall(
    flow_task: Callable[..., FlowTask], folder: Path, learns: bool
) -> None:
    task = flow_task(no_degraded=0.0, draft=folder / "fast.safetensors", draft_learns=learns)
    network = task.network()
    assert network.draft is not None
    torch.stack(list(task.losses(network, None, task.batch(0, 2)).values())).sum().backward()
    learnt = [
        float(each.grad.abs().sum()) > 0 for each in network.draft.parameters() if each.grad is not None
    ]
    assert any(learnt) == learns
    assert all(parameter.grad is None for parameter in network.autoencoder.encoder.parameters())


def test_a_recogniser_of_clean_faces_asks_for_the_target(
    flow_task: Callable[..., FlowTask], monkeypatch: pytest.MonkeyPatch
) -> None:
    task = flow_task(references=(1.0,), teacher_weight=2.0, decoded_part=1.0)
    batch, network = replace(task.batch(0, 2), blind=torch.tensor(False)), task.network()
    assert "teacher" not in task.losses(network, None, batch)
    nn.init.normal_(network.network.backbone.proj_out.weight, std=0.1)
    monkeypatch.setattr(task, "teacher", Teacher.__new__(Teacher))
    monkeypatch.setattr(Teacher, "one_sided", lambda _, views: views.mean((2, 3)) + 1)
    term = task.losses(network, None, batch)["teacher"]
    assert float(torch.autograd.grad(term, network.network.backbone.proj_out.weight)[0].abs().max()) > 0
    # Two people at a right angle and equally clear: their squared distance is twice the target's.
    wanted = recogniser_view(batch.targets)
    people = 3 * torch.eye(2)

    def seen(_: object, views: torch.Tensor) -> torch.Tensor:
        return people[int(torch.equal(views, wanted))].expand(len(views), 2)

    monkeypatch.setattr(Teacher, "one_sided", seen)
    monkeypatch.setattr("models.training.flow.known", lambda restored, _: torch.tensor([1.0, 0.5]))
    assert float(task.losses(network, None, batch)["teacher"]) == pytest.approx(2.0 * 2 * 0.75)


def test_autoencoder_learns_pictures_and_the_teachers_latents(
    autoencoder_task: AutoencoderTask, config: TrainingConfig
) -> None:
    batch = autoencoder_task.batch(0, 4)
    assert batch.degraded.shape[-1] == 256
    autoencoder_task.batch = lambda images_seen, batch_size: batch  # type: ignore[method-assign]
    path = train(autoencoder_task, config)
    for name in ("pixel", "latent"):
        values = reported(config.run, name)
        assert values[-1] < 0.9 * values[0], (name, values)
    network = build_autoencoder(load_checkpoint(path))
    latents, _ = network.encode(batch.targets)
    assert float(network.get_buffer("deviation").min()) > 0
    assert not torch.equal(network.get_buffer("mean"), torch.zeros(128))
    assert network.tokens(latents).shape == (1, 256, 128)


def test_autoencoder_batches_depend_on_seed_and_images_only(autoencoder_task: AutoencoderTask) -> None:
    first, second = autoencoder_task.batch(4, 4), autoencoder_task.batch(4, 4)
    assert torch.equal(first.degraded, second.degraded)
    assert first.degraded.shape == (4, 3, 64, 64)
    assert autoencoder_task.batch(12, 4).degraded.shape == (1, 3, 256, 256)


def test_the_decoder_learns_from_latents_drawn_towards_the_degraded(
    autoencoder_task: AutoencoderTask,
) -> None:
    batch = autoencoder_task.batch(4, 4)
    network = autoencoder_task.network()
    exact, inexact = (
        autoencoder_task.losses(network, None, replace(batch, inexact=torch.full((4,), part)))["pixel"]
        for part in (0.0, 0.7)
    )
    assert not torch.equal(exact, inexact)


def test_another_view_is_moved_and_lit_otherwise() -> None:
    picture = np.asarray(Image.fromarray(astronaut()).crop((130, 10, 290, 170)).resize((256, 256)))
    views = [another_view(picture, np.random.default_rng(seed)) for seed in range(6)]
    differences = [np.abs(view.astype(float) - picture).mean() for view in views]
    assert min(differences) > 8
    assert views[0].dtype == np.uint8
    first, again = (other_views([picture] * 3, np.random.default_rng(5)) for _ in range(2))
    assert torch.equal(first, again)
    assert not torch.equal(first[0], first[1])


@pytest.mark.parametrize("name", ["train_autoencoder", "train_tiny"])
def test_shipped_recipes_are_readable(name: str) -> None:
    config = load(TrainingConfig, ROOT / "configs" / f"{name}.toml")
    assert config.task in ("autoencoder", "flow")
    assert config.flow.shape == IconFaceShape(previous=name == "train_tiny")
