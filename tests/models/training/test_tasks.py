"""The recipes of both networks, in small: losses fall, batches are functions of seed and images seen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from configs import ConfigError
from models.recogniser import Encoder, EncoderShape
from models.training.dataset import read_index
from models.training.encoder import EncoderTask
from models.training.fast import FastTask
from models.training.fixed_networks import MobileFaceNet
from models.training.loop import TrainingConfig, train
from models.training.publish import publish
from models.training.settings import EncoderSettings, FastSettings
from models.weights import load_checkpoint, load_embedded, save_checkpoint
from support.training_networks import write_faces, write_perceptual

CPU = torch.device("cpu")
SMALL_ENCODER = EncoderShape(widths=(4, 8, 8, 8), depths=(0, 0, 0, 1), features=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four faces cut from the astronaut, a teacher and an encoder of random weights."""
    folder = tmp_path_factory.mktemp("faces")
    write_faces(folder)
    torch.manual_seed(0)
    save_file(MobileFaceNet().state_dict(), folder / "teacher.safetensors")
    save_checkpoint(
        folder / "encoder.safetensors",
        Encoder(SMALL_ENCODER).state_dict(),
        dataclasses.asdict(SMALL_ENCODER),
        0,
    )
    return folder


@pytest.fixture
def config(folder: Path, tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(
        task="fast",
        faces=folder,
        cache=folder / "cache",
        run=tmp_path / "run",
        batch_size=4,
        images=96,
        learning_rate=2e-3,
        warmup_images=8,
        status_images=16,
        checkpoint_images=96,
        threads=torch.get_num_threads(),
        device="cpu",
    )


@pytest.fixture
def perceptual(folder: Path) -> Path:
    return write_perceptual(folder / "perceptual.safetensors")


@pytest.fixture
def fast_task(folder: Path) -> FastTask:
    return task_of(folder)


def task_of(folder: Path, **changes: Any) -> FastTask:
    shape = FastSettings().shape
    small = dataclasses.replace(
        shape, widths=(16, 16, 16, 16), encoder_depths=(1, 1, 1), middle_depth=1, decoder_depths=(1, 1, 1)
    )
    settings = FastSettings(
        encoder=folder / "encoder.safetensors", part_px=64, coded_faces=8, shape=small, **changes
    )
    return FastTask(settings, folder, folder / "cache", seed=0, device=CPU)


def losses(run: Path, name: str) -> list[float]:
    return [json.loads(line)[name] for line in (run / "status.jsonl").read_text().splitlines()]


def test_fast_learns(fast_task: FastTask, config: TrainingConfig) -> None:
    """On one batch over and over, so that chance cannot hide a step in the wrong direction."""
    batch = fast_task.batch(4, 4)
    fast_task.batch = lambda images_seen, batch_size: batch  # type: ignore[method-assign]
    train(fast_task, config)
    pixel = losses(config.run, "pixel")
    assert pixel[-1] < 0.9 * pixel[0], pixel


def test_fast_batches_depend_on_seed_and_images_only(fast_task: FastTask) -> None:
    first, second, next_one = fast_task.batch(8, 4), fast_task.batch(8, 4), fast_task.batch(12, 4)
    assert torch.equal(first.degraded, second.degraded)
    assert not torch.equal(first.degraded, next_one.degraded)


def test_fast_sees_parts_and_whole_crops_with_and_without_anchor(fast_task: FastTask) -> None:
    batches = [fast_task.batch(4 * step, 4) for step in range(16)]
    assert {batch.degraded.shape[-1] for batch in batches} == {64, 256}
    norms = torch.cat([batch.anchors.norm(dim=1) for batch in batches])
    assert float((norms < 1e-6).float().mean()) == pytest.approx(0.4, abs=0.2)
    assert torch.allclose(norms[norms > 1e-6], torch.tensor(1.0), atol=1e-4)


def test_the_terms_of_a_recipe_are_those_it_asks_for(folder: Path, perceptual: Path) -> None:
    plain = task_of(folder, identity_weight=0.0)
    batch = plain.batch(0, 4)
    assert plain.critic() is None
    with pytest.raises(ConfigError, match="`perceptual`, which is not set"):
        task_of(folder, adversarial_weight=0.01).critic()
    assert set(plain.losses(plain.network(), None, batch)) == {"pixel", "texture"}
    full = task_of(
        folder,
        perceptual=perceptual,
        adversarial_weight=0.01,
        grid_weight=1.0,
        teacher=folder / "teacher.safetensors",
    )
    names = set(full.losses(full.network(), full.critic(), batch))
    assert names == {"pixel", "texture", "grid", "perceptual", "adversarial", "critic", "identity", "teacher"}


def test_the_adversarial_term_moves_the_network_and_the_critic_term_only_the_critic(
    folder: Path, perceptual: Path
) -> None:
    task = task_of(folder, perceptual=perceptual, adversarial_weight=0.01)
    network, critic = task.network(), task.critic()
    assert critic is not None
    losses = task.losses(network, critic, task.batch(4, 4))
    weights = [network.leave.weight, critic.heads[0].first.weight]  # type: ignore[union-attr]
    moved = [
        [
            gradient is not None
            for gradient in torch.autograd.grad(losses[name], weights, retain_graph=True, allow_unused=True)
        ]
        for name in ("adversarial", "critic")
    ]
    assert moved == [[True, False], [False, True]]


def test_a_recipe_with_a_critic_resumes_as_if_it_had_not_stopped(
    folder: Path, perceptual: Path, config: TrainingConfig, tmp_path: Path
) -> None:
    task = task_of(folder, perceptual=perceptual, adversarial_weight=0.01)
    config = dataclasses.replace(config, images=24)
    straight = load_checkpoint(train(task, config)).state
    divided = dataclasses.replace(config, run=tmp_path / "divided")
    train(task, divided, minutes=0)
    resumed = load_checkpoint(train(task, divided)).state
    assert all(torch.equal(value, resumed[name]) for name, value in straight.items())


def test_large_crops_are_cut_from_large_pictures_only(folder: Path, tmp_path: Path) -> None:
    large = tmp_path / "large"
    large.mkdir()
    rows = (folder / "index.csv").read_text().splitlines()
    for index in range(4):
        with Image.open(folder / f"{index}.png") as image:
            image.resize((512, 512)).save(large / f"{index}.png")
    (large / "index.csv").write_text("\n".join([*rows[:3], *(row[:-3] + "512" for row in rows[3:])]))
    settings = FastSettings(
        encoder=folder / "encoder.safetensors", part_px=64, large_part=1.0, whole_every=2, coded_faces=0
    )
    task = FastTask(settings, large, tmp_path / "cache", seed=0, device=CPU)
    assert task.large_indices.tolist() == [2, 3]
    batches = [task.batch(4 * step, 4) for step in (0, 1, 3)]
    assert [(batch.side_px, batch.targets.shape[-1]) for batch in batches] == [
        (256, 256),
        (512, 64),
        (512, 64),
    ]
    assert int(max(batch.corners.max() for batch in batches)) > 192


def test_encoder_learns_the_teacher_and_is_published(
    folder: Path, config: TrainingConfig, tmp_path: Path
) -> None:
    settings = EncoderSettings(teacher=folder / "teacher.safetensors", invented_people=4, shape=SMALL_ENCODER)
    task = EncoderTask(settings, folder, folder / "cache", seed=0, device=CPU)
    batch = task.batch(0, 4)
    task.batch = lambda images_seen, batch_size: batch  # type: ignore[method-assign]
    train(task, config)
    squared = losses(config.run, "squared")
    assert squared[-1] < 0.9 * squared[0], squared

    recipe = tmp_path / "train_encoder.toml"
    recipe.write_text(
        f'task = "encoder"\nimages_before = 4\nfaces = "{folder}"\ncache = "{folder / "cache"}"\nrun = "{config.run}"\n'
    )
    with pytest.raises(ConfigError, match="task is encoder, and fast is made by fast"):
        publish("fast", recipe, "2026-01-31", tmp_path)
    publish("encoder", recipe, "2026-01-31", tmp_path)
    assert load_embedded("encoder", tmp_path).images_seen == 96
    assert "images_seen = 100\n" in (tmp_path / "manifest.toml").read_text()
    assert 'origins = ["astronaut"]' in (tmp_path / "manifest.toml").read_text()


def test_encoder_targets_do_not_depend_on_the_damage(folder: Path) -> None:
    settings = EncoderSettings(teacher=folder / "teacher.safetensors", invented_people=4, shape=SMALL_ENCODER)
    task = EncoderTask(settings, folder, folder / "cache", seed=0, device=CPU)
    batch = task.batch(0, 32)
    targets = {tuple(np.round(row, 3)) for row in batch.embeddings.numpy()}
    views = {row.tobytes() for row in batch.views.numpy()}
    assert len(targets) <= 8
    assert len(views) == 32


def test_index_keeps_the_order_of_the_file(folder: Path) -> None:
    assert [row.file for row in read_index(folder)] == ["0.png", "1.png", "2.png", "3.png"]
