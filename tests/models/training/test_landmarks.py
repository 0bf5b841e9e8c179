"""The recipe of the dense landmarks, in small: points stay on the picture whatever is done to it."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch

from configs import ConfigError
from models.landmarks import CELLS, EYES, MOUTH_CORNERS, OVAL, POINTS, VIEW_PX, LandmarkShape
from models.training.landmarks import (
    MIDLINE,
    LandmarkSettings,
    LandmarkTask,
    cell_chances,
    centred_points,
    choose_anchors,
    cover,
    likelihood,
    mirror,
    mirrored_order,
    move,
    rarity,
    shape_model,
)
from models.training.loop import TrainingConfig, train

CPU = torch.device("cpu")
SMALL = LandmarkShape(widths=(8, 8, 16, 16), depths=(0, 0, 0, 1), joined=16, anchors=6, features=16, spread=4)
DOT = 200
"""The point that lies on the white dot of each picture."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Six dark pictures with a white dot, and their points."""
    random = np.random.default_rng(0)
    places = random.uniform(150, 360, (6, POINTS, 2))
    lines = ["file,identity,origin,true_px"]
    for index, points in enumerate(places):
        points[DOT] = random.uniform(180, 330, 2)
        picture = np.full((512, 512, 3), 40, np.uint8)
        cv2.circle(picture, tuple(np.rint(points[DOT]).astype(int).tolist()), 14, (255, 255, 255), -1)
        cv2.imwrite(str(tmp_path / f"{index}.png"), picture)
        lines.append(f"{index}.png,,drawn,512")
    (tmp_path / "index.csv").write_text("\n".join(lines))
    write_points(tmp_path, [f"{index}.png" for index in range(6)], places)
    return tmp_path


def write_points(folder: Path, files: list[str], places: np.ndarray) -> None:
    mean = np.zeros((POINTS, 2), np.int16)
    offset = np.rint(8 * places).astype(np.int16)
    found = np.ones(len(files), bool)
    np.savez(folder / "landmarks.npz", files=np.array(files), mean=mean, offset=offset, found=found)


def task_of(folder: Path, **changes: float) -> LandmarkTask:
    settings = LandmarkSettings(shape=SMALL, **changes)  # type: ignore[arg-type]
    return LandmarkTask(settings, folder, folder / "cache", seed=0, device=CPU)


def test_points_lie_on_the_picture_after_mirroring_and_moving(folder: Path) -> None:
    """The dot is one of the midline, so that a mirrored picture keeps its number."""
    assert DOT in MIDLINE
    batch = task_of(folder, clean_part=1.0, covered_part=0.0).batch(0, 32)
    light = batch.views.mean(1)
    for view, points in zip(light, batch.points, strict=True):
        weights = (view - view.median()).clamp_min(0.15) - 0.15
        rows, columns = torch.meshgrid(torch.arange(VIEW_PX), torch.arange(VIEW_PX), indexing="ij")
        dot = torch.stack([(weights * columns).sum(), (weights * rows).sum()]) / weights.sum()
        wanted = (points[DOT] + 1) * (VIEW_PX / 2) - 0.5
        assert (dot - wanted).norm() < 1.0


def test_mirroring_exchanges_left_and_right() -> None:
    order = mirrored_order()
    assert (order[order] == np.arange(POINTS)).all()
    assert order[[*EYES[0], MOUTH_CORNERS[0]]].tolist() == [263, 362, MOUTH_CORNERS[1]]
    assert [order[point] for point in OVAL] == [OVAL[-place] for place in range(len(OVAL))]
    points = torch.rand(2, POINTS, 2)
    assert torch.equal(mirror(mirror(points)), points)


def test_moved_points_come_back_through_the_matrix() -> None:
    points = torch.rand(3, POINTS, 2)
    matrices = torch.eye(2, 3).repeat(3, 1, 1) + 0.1 * torch.rand(3, 2, 3)
    back = move(points, matrices) @ matrices[:, :, :2].transpose(1, 2) + matrices[:, None, :, 2]
    torch.testing.assert_close(back, points)


def test_the_likelihood_is_best_where_sigma_is_the_error() -> None:
    wanted = torch.randn(4000, 1, 2)
    values = {
        log: float(likelihood(torch.zeros_like(wanted), torch.full((4000, 1), log), wanted))
        for log in (-0.5, 0.0, 0.5)
    }
    assert min(values, key=lambda log: values[log]) == 0.0


def test_all_points_are_told_by_anchors_that_are_not_alike() -> None:
    """Shapes that three points span: any three that differ tell the others."""
    random = np.random.default_rng(1)
    weights = random.dirichlet(np.ones(3), POINTS)
    weights[:40] = [1, 0, 0]  # these say the same
    shapes = np.einsum("pc,ncd->npd", weights, random.normal(0, 1, (50, 3, 2))).astype(np.float32)
    anchors = choose_anchors(shapes, 3)
    assert len({int(anchor) for anchor in anchors if anchor < 40}) <= 1
    model, offset = shape_model(shapes, anchors)
    np.testing.assert_allclose(model @ shapes[:, anchors] + offset, shapes, atol=0.02)


def test_the_chances_of_a_place_have_their_mean_there() -> None:
    places = torch.tensor([[[0.2, -0.3], [0.0, 0.5]]])
    chances = cell_chances(places)
    centres = (torch.arange(CELLS) + 0.5) * (2 / CELLS) - 1
    mean = torch.stack([chances.sum(2) @ centres, chances.sum(3) @ centres], 2)
    torch.testing.assert_close(chances.sum((2, 3)), torch.ones(1, 2))
    torch.testing.assert_close(mean, places, rtol=0, atol=0.01)


def test_a_fresh_network_places_points_by_its_anchors(folder: Path) -> None:
    """The linear model stands before the first step: the sum over anchors, and nothing besides."""
    task = task_of(folder)
    network = task.network()
    anchors = torch.from_numpy(task.shapes[:2, task.anchors])
    points = network.model(anchors.transpose(1, 2)).transpose(1, 2) + network.offset
    weights, offset = shape_model(task.shapes, task.anchors)
    np.testing.assert_allclose(points.detach().numpy(), weights @ anchors.numpy() + offset, atol=1e-5)
    assert not network.rest.weight.any()


def test_rare_shapes_are_drawn_more_often() -> None:
    shapes = np.zeros((5, POINTS, 2), np.float32)
    shapes[:4, :, 0] = [[0.1], [-0.1], [0.1], [-0.1]]
    shapes[4, :, 1] = 0.5
    chances = rarity(shapes, 1.0)
    assert chances.sum() == pytest.approx(1)
    assert chances[4] == pytest.approx(3 * chances[0], rel=0.1)
    np.testing.assert_allclose(rarity(shapes, 0.0), 0.2)


def test_only_the_asked_part_is_covered_and_the_rest_stays() -> None:
    pictures = torch.rand(40, 3, 64, 64)
    covered = cover(pictures, np.random.default_rng(0), 0.5)
    changed = (covered != pictures).flatten(1).any(1).float().mean()
    assert float(changed) == pytest.approx(0.5, abs=0.2)
    assert torch.equal(cover(pictures, np.random.default_rng(0), 0.0), pictures)


def test_batches_depend_on_seed_and_images_only(folder: Path) -> None:
    task = task_of(folder)
    first, again, other = task.batch(8, 4), task.batch(8, 4), task.batch(12, 4)
    assert torch.equal(first.views, again.views)
    assert torch.equal(first.points, again.points)
    assert not torch.equal(first.views, other.views)


def test_landmarks_learn(folder: Path, tmp_path: Path) -> None:
    """On one batch over and over, so that chance cannot hide a step in the wrong direction."""
    task = task_of(folder)
    batch = task.batch(0, 8)
    task.batch = lambda images_seen, batch_size: batch  # type: ignore[method-assign]
    config = TrainingConfig(
        task="landmarks",
        faces=folder,
        cache=folder / "cache",
        run=tmp_path / "run",
        batch_size=8,
        images=400,
        warmup_images=8,
        status_images=80,
        checkpoint_images=400,
        threads=torch.get_num_threads(),
        device="cpu",
    )
    train(task, config)
    lines = (config.run / "status.jsonl").read_text().splitlines()
    first, last = json.loads(lines[0]), json.loads(lines[-1])
    assert last["maps"] < 0.9 * first["maps"]
    assert last["likelihood"] < first["likelihood"]
    assert list((config.run / "sheets").glob("*.png"))


def test_points_of_other_pictures_are_refused(folder: Path) -> None:
    write_points(folder, ["other.png"], np.zeros((1, POINTS, 2)))
    with pytest.raises(ConfigError, match=r"landmarks\.npz and the index name different pictures"):
        task_of(folder)


def test_a_batch_that_the_views_do_not_divide_is_refused(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"a multiple of landmarks\.views = 2, got 5"):
        task_of(folder).batch(0, 5)


def test_points_are_read_between_the_edges_of_the_crop(tmp_path: Path) -> None:
    write_points(tmp_path, ["a.png"], np.full((1, POINTS, 2), 255.5))
    _, points, _ = centred_points(tmp_path)
    assert np.abs(points).max() == 0
