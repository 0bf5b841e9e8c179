"""The training loop: it learns, and a resumed run equals a straight one."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn

from models.training.dataset import load_faces
from models.training.loop import TrainingConfig, TrainingError, train
from models.training.losses import grid, texture
from models.weights import load_checkpoint


@dataclass(frozen=True, slots=True)
class LineBatch:
    """Points of a line."""

    x: Tensor
    y: Tensor


class LineTask:
    """y = 3x - 1 with a little noise: small enough to train in a test."""

    def network(self) -> nn.Module:
        return nn.Linear(1, 1)

    def parameters(self) -> dict[str, object]:
        return {"width": 1}

    def batch(self, images_seen: int, batch_size: int) -> LineBatch:
        random = np.random.default_rng((1, images_seen))
        x = torch.from_numpy(random.normal(size=(batch_size, 1)).astype(np.float32))
        return LineBatch(x, 3 * x - 1)

    def critic(self) -> nn.Module | None:
        return None

    def losses(self, network: nn.Module, critic: nn.Module | None, batch: LineBatch) -> dict[str, Tensor]:
        return {"squared": (network(batch.x) - batch.y).square().mean()}

    def sheet(self, network: nn.Module) -> NDArray[np.uint8] | None:
        return np.zeros((8, 8, 3), np.uint8)


@pytest.fixture
def config(tmp_path: Path) -> TrainingConfig:
    return TrainingConfig(
        task="line",
        faces=tmp_path,
        cache=tmp_path,
        run=tmp_path / "run",
        batch_size=8,
        images=1600,
        learning_rate=0.05,
        warmup_images=80,
        average_images=80,
        status_images=160,
        checkpoint_images=800,
        threads=torch.get_num_threads(),
        device="cpu",
    )


def weights(path: Path) -> dict[str, Tensor]:
    return load_checkpoint(path).state


def test_the_loss_falls_and_the_status_tells_it(config: TrainingConfig) -> None:
    train(LineTask(), config)
    lines = [json.loads(line) for line in (config.run / "status.jsonl").read_text().splitlines()]
    assert lines[-1]["images"] == 1600
    assert lines[-1]["squared"] < 0.05 * lines[0]["squared"]


def test_a_resumed_run_equals_a_straight_one(config: TrainingConfig, tmp_path: Path) -> None:
    straight = train(LineTask(), config)
    divided = replace(config, run=tmp_path / "divided")
    train(LineTask(), divided, minutes=0)
    assert load_checkpoint(divided.run / "checkpoint.safetensors").images_seen == 8
    train(LineTask(), divided, minutes=0)
    resumed = train(LineTask(), divided)
    assert load_checkpoint(resumed).images_seen == 1600
    for name, value in weights(straight).items():
        assert torch.equal(value, weights(resumed)[name]), name


def test_a_failing_batch_reaches_the_caller(config: TrainingConfig) -> None:
    class Broken(LineTask):
        def batch(self, images_seen: int, batch_size: int) -> LineBatch:
            if images_seen > 40:
                raise RuntimeError("no more pictures")
            return super().batch(images_seen, batch_size)

    with pytest.raises(RuntimeError, match="no more pictures"):
        train(Broken(), config)


def test_weights_that_are_no_numbers_do_not_replace_the_last_state(config: TrainingConfig) -> None:
    class Broken(LineTask):
        def losses(self, network: nn.Module, critic: nn.Module | None, batch: LineBatch) -> dict[str, Tensor]:
            scale = float("nan") if float(batch.x[0, 0]) > 1.5 else 1.0
            return {"squared": scale * (network(batch.x) - batch.y).square().mean()}

    train(LineTask(), config, minutes=0)
    before = (config.run / "state.json").read_text()
    with pytest.raises(TrainingError, match="weights are no numbers"):
        train(Broken(), config)
    assert (config.run / "state.json").read_text() == before


@pytest.mark.parametrize("wrong", [{"batch_size": 0}, {"part_megabytes": 0.0}, {"precision": "half"}])
def test_settings_that_cannot_be_are_refused(config: TrainingConfig, wrong: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(wrong))):
        replace(config, **wrong)


def test_sheets_are_written_with_each_checkpoint(config: TrainingConfig) -> None:
    train(LineTask(), config)
    assert sorted(path.name for path in (config.run / "sheets").iterdir()) == [
        "000000800.png",
        "000001600.png",
    ]


def test_texture_loss_asks_for_energy_and_not_for_places() -> None:
    generator = torch.Generator().manual_seed(0)
    target, other, weak = (torch.rand(1, 3, 64, 64, generator=generator) for _ in range(3))
    smooth = 0.5 + 0.2 * (weak - 0.5)
    assert texture(other, target) < 0.25 * texture(smooth, target)
    both, twice = torch.cat([other, smooth]), target.expand(2, -1, -1, -1)
    first_only = texture(both, twice, torch.tensor([1.0, 0.0]))
    assert float(first_only) == pytest.approx(float(texture(other, target)) / 2)


def test_faces_are_decoded_once_and_small_ones_are_no_targets(tmp_path: Path) -> None:
    folder = tmp_path / "faces"
    folder.mkdir()
    lines = ["file,identity,origin,true_px"]
    for index, (identity, true_px) in enumerate((("a", 512), ("a", 128), ("", 0))):
        Image.new("RGB", (64, 64), (40 * index, 0, 0)).save(folder / f"{index}.png")
        lines.append(f"{index}.png,{identity},made,{true_px}")
    (folder / "index.csv").write_text("\n".join(lines))
    faces = load_faces(folder, 32, tmp_path / "cache")
    assert faces.pictures.shape == (3, 32, 32, 3)
    assert faces.targets(192).tolist() == [0]
    assert [partners.tolist() for partners in faces.partners()] == [[1], [0], []]
    for path in folder.glob("*.png"):
        path.unlink()
    assert int(load_faces(folder, 32, tmp_path / "cache").pictures[2, 0, 0, 0]) == 80


def test_the_grid_term_sees_dots_and_not_faces() -> None:
    target = torch.rand(2, 3, 256, 256, generator=torch.Generator().manual_seed(0)) * 0.02 + 0.4
    softer = torch.nn.functional.avg_pool2d(target, 5, 1, 2, count_include_pad=False)
    dotted = target.clone()
    dotted[:, 0, 3::8, 5::8] -= 0.2
    assert grid(target + 0.1, target) < 1e-6
    assert grid(dotted, target) > 3 * grid(softer, target) > 0
    # Nothing else sees them as well: they are few.
    assert (dotted - target).abs().mean() < 0.01
