"""The recipes of both networks, in small: losses fall, batches are functions of seed and images seen."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from skimage.data import astronaut

from models.recogniser import Encoder, EncoderShape
from models.training.dataset import read_index
from models.training.encoder import EncoderSettings, EncoderTask
from models.training.fast import FastSettings, FastTask
from models.training.loop import TrainingConfig, train
from models.training.publish import publish
from models.training.teacher import MobileFaceNet
from models.weights import load_embedded, save_checkpoint

SMALL_ENCODER = EncoderShape(widths=(4, 8, 8, 8), depths=(0, 0, 0, 1), features=16)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Four faces cut from the astronaut, a teacher and an encoder of random weights."""
    folder = tmp_path_factory.mktemp("faces")
    lines = ["file,identity,origin,true_px"]
    for index in range(4):
        image = Image.fromarray(astronaut()).crop((130 + 8 * index, 10, 290 + 8 * index, 170))
        image.resize((256, 256)).save(folder / f"{index}.png")
        lines.append(f"{index}.png,{'same' if index < 2 else ''},astronaut,256")
    (folder / "index.csv").write_text("\n".join(lines))
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
    )


@pytest.fixture
def fast_task(folder: Path) -> FastTask:
    shape = FastSettings().shape
    small = dataclasses.replace(
        shape, widths=(16, 16, 16, 16), encoder_depths=(1, 1, 1), middle_depth=1, decoder_depths=(1, 1, 1)
    )
    settings = FastSettings(encoder=folder / "encoder.safetensors", part_px=64, shape=small)
    return FastTask(settings, folder, folder / "cache", seed=0)


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


def test_encoder_learns_the_teacher_and_is_published(
    folder: Path, config: TrainingConfig, tmp_path: Path
) -> None:
    settings = EncoderSettings(teacher=folder / "teacher.safetensors", invented_people=4, shape=SMALL_ENCODER)
    task = EncoderTask(settings, folder, folder / "cache", seed=0)
    batch = task.batch(0, 4)
    task.batch = lambda images_seen, batch_size: batch  # type: ignore[method-assign]
    train(task, config)
    squared = losses(config.run, "squared")
    assert squared[-1] < 0.9 * squared[0], squared

    recipe = tmp_path / "train_encoder.toml"
    recipe.write_text(
        f'task = "encoder"\nfaces = "{folder}"\ncache = "{folder / "cache"}"\nrun = "{config.run}"\n'
    )
    publish("encoder", recipe, "2026-01-31", tmp_path)
    assert load_embedded("encoder", tmp_path).images_seen == 96
    assert 'origins = ["astronaut"]' in (tmp_path / "manifest.toml").read_text()


def test_encoder_targets_do_not_depend_on_the_damage(folder: Path) -> None:
    settings = EncoderSettings(teacher=folder / "teacher.safetensors", invented_people=4, shape=SMALL_ENCODER)
    task = EncoderTask(settings, folder, folder / "cache", seed=0)
    batch = task.batch(0, 32)
    targets = {tuple(np.round(row, 3)) for row in batch.embeddings.numpy()}
    views = {row.tobytes() for row in batch.views.numpy()}
    assert len(targets) <= 8
    assert len(views) == 32


def test_index_keeps_the_order_of_the_file(folder: Path) -> None:
    assert [row.file for row in read_index(folder)] == ["0.png", "1.png", "2.png", "3.png"]
