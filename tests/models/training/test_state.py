"""Runs that travel: small parts, shards of faces, networks that grow, a critic that learns beside the network."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from configs import ConfigError
from models.training.dataset import load_faces, write_shards
from models.training.loop import training_device
from models.training.losses import Critic, critic_loss, deceiving_loss
from models.training.state import begin_with, read_parts, resume, save_state, write_parts
from models.weights import Checkpoint, CheckpointError


def test_parts_are_small_and_add_up(tmp_path: Path) -> None:
    content = np.random.default_rng(0).bytes(1000)
    write_parts(tmp_path / "state", content, 300)
    assert sorted(path.stat().st_size for path in tmp_path.glob("state.[01]*")) == [100, 300, 300, 300]
    assert read_parts(tmp_path / "state") == content
    write_parts(tmp_path / "state", b"shorter", 300)
    assert read_parts(tmp_path / "state") == b"shorter"
    assert len(list(tmp_path.glob("state.[01]*"))) == 1


def test_an_interrupted_writing_leaves_the_older_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_parts(tmp_path / "state", b"older", 2)
    monkeypatch.setattr(
        "models.training.state.json.dumps", lambda _: (_ for _ in ()).throw(OSError("disk full"))
    )
    with pytest.raises(OSError, match="disk full"):
        write_parts(tmp_path / "state", b"newer", 2)
    assert read_parts(tmp_path / "state") == b"older"


@pytest.mark.parametrize("damage", ["missing", "changed", "list"])
def test_damaged_parts_are_named(tmp_path: Path, damage: str) -> None:
    write_parts(tmp_path / "state", b"0123456789", 4)
    part = sorted(tmp_path.glob("state.[01]*"))[1]
    if damage == "missing":
        part.unlink()
    elif damage == "list":
        (tmp_path / "state.json").write_text('{"generation": 0, "par')
    else:
        part.write_bytes(b"xxxx")
    with pytest.raises(CheckpointError, match="state"):
        read_parts(tmp_path / "state")


def test_a_state_of_another_network_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path / "state", {"network": nn.Linear(2, 2)}, 8, 10_000, compact=False)
    with pytest.raises(CheckpointError, match="not the state of this recipe's run"):
        resume(tmp_path / "state", {"network": nn.Linear(3, 2)})


def test_a_compact_state_is_smaller_and_keeps_the_network_exact(tmp_path: Path) -> None:
    network = nn.Linear(300, 300)
    optimiser = torch.optim.AdamW(network.parameters())
    network(torch.rand(4, 300)).square().mean().backward()
    optimiser.step()
    parts = {"network": network, "optimiser": optimiser, "average": nn.Linear(300, 300)}
    sizes = {}
    for compact in (False, True):
        path = tmp_path / str(compact) / "state"
        path.parent.mkdir()
        save_state(path, parts, 8, 10**9, compact=compact)
        sizes[compact] = len(read_parts(path) or b"")
    assert sizes[True] < 0.68 * sizes[False]
    weight = network.weight.detach().clone()
    nn.init.zeros_(network.weight)
    assert resume(tmp_path / "True" / "state", parts) == 8
    assert torch.equal(network.weight, weight)


def test_a_network_grows_by_inputs_and_answers_as_before() -> None:
    old, grown = nn.Conv2d(2, 3, 3), nn.Conv2d(5, 3, 3)
    begin_with(grown, Checkpoint(dict(old.state_dict()), {}, 0))
    x = torch.rand(1, 5, 8, 8)
    assert torch.allclose(grown(x), old(x[:, :2]), atol=1e-6)
    with pytest.raises(CheckpointError, match="weight is"):
        begin_with(old, Checkpoint(dict(grown.state_dict()), {}, 0))
    with pytest.raises(CheckpointError, match="no weights 'other'"):
        begin_with(old, Checkpoint({"other": torch.zeros(1)}, {}, 0))


EQUAL = torch.ones(2)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "faces"
    folder.mkdir()
    lines = ["file,identity,origin,true_px"]
    for index in range(5):
        y, x = np.mgrid[:64, :64]
        image = np.stack([x * 2 + 20 * index, y * 2, x + y], -1).astype(np.uint8)
        Image.fromarray(image).save(folder / f"{index}.png")
        lines.append(f"{index}.png,person {index % 2},made,{200 + index}")
    (folder / "index.csv").write_text("\n".join(lines))
    return folder


def test_shards_hold_the_same_faces(pictures: Path, tmp_path: Path) -> None:
    paths = write_shards(pictures, tmp_path / "shards", side_px=64, megabytes=0.002)
    assert len(paths) > 1
    assert all(path.stat().st_size <= 0.002 * 2**20 for path in paths)
    straight = load_faces(pictures, 32, tmp_path / "cache")
    packed = load_faces(tmp_path / "shards", 32, tmp_path / "cache")
    assert packed.files == straight.files
    assert packed.identities == straight.identities
    difference = np.abs(np.asarray(packed.pictures, int) - straight.pictures)
    assert difference.mean() < 2
    for first, second in ((0, 4), (1, 2)):  # each in its place
        strange = np.abs(np.asarray(packed.pictures[first], int) - straight.pictures[second])
        assert strange.mean() > 5


def test_shards_promise_no_more_than_they_hold(pictures: Path, tmp_path: Path) -> None:
    paths = write_shards(pictures, tmp_path / "shards", side_px=32, megabytes=1)
    faces = load_faces(tmp_path / "shards", 32, tmp_path / "cache")
    assert faces.true_px.tolist() == [32] * 5
    (pictures / "index.csv").write_text("\n".join((pictures / "index.csv").read_text().splitlines()[:4]))
    write_shards(pictures, tmp_path / "shards", side_px=32, megabytes=1)
    assert len(load_faces(tmp_path / "shards", 32, tmp_path / "cache").files) == 3
    paths[0].write_bytes(b"cut off")
    with pytest.raises(CheckpointError, match="not a shard"):
        load_faces(tmp_path / "shards", 32, tmp_path / "cache")


def test_only_faces_that_are_sharp_enough_are_unpacked(pictures: Path, tmp_path: Path) -> None:
    rows = (pictures / "index.csv").read_text().replace(",203", ",40").splitlines()
    (pictures / "index.csv").write_text("\n".join(rows))
    write_shards(pictures, tmp_path / "shards", side_px=64, megabytes=1)
    everyone = load_faces(tmp_path / "shards", 64, tmp_path / "cache")
    some = load_faces(tmp_path / "shards", 64, tmp_path / "cache", smallest_true_px=50)
    assert some.files == ("0.png", "1.png", "2.png", "4.png")
    assert np.array_equal(some.pictures[3], everyone.pictures[4])


def test_the_critic_learns_to_tell_and_the_network_to_deceive() -> None:
    torch.manual_seed(0)
    critic = Critic([4])
    optimiser = torch.optim.Adam(critic.parameters(), lr=1e-2)
    places = torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(2, 4)
    smooth, rough = torch.zeros(2, 4, 16, 16), torch.randn(2, 4, 16, 16)
    for _ in range(40):
        optimiser.zero_grad()
        critic_loss(critic([rough], places), critic([smooth], places), EQUAL).backward()
        optimiser.step()
    assert critic_loss(critic([rough], places), critic([smooth], places), EQUAL) < 0.5
    deceived, seen = (deceiving_loss(critic([x], places), EQUAL) for x in (rough, smooth))
    assert deceived < seen - 1


def test_pictures_without_weight_do_not_count() -> None:
    answers = [torch.tensor([1.0, -3.0]).reshape(2, 1, 1, 1)]
    weights = torch.tensor([1.0, 0.0])
    assert float(deceiving_loss(answers, weights)) == pytest.approx(-0.5)
    assert float(critic_loss(answers, answers, weights)) == pytest.approx(1.0)


def test_the_critic_sees_where_it_looks() -> None:
    critic, features = Critic([4]), torch.zeros(1, 4, 16, 16)
    left, right = (critic([features], torch.tensor([[x, 0.0, x + 0.25, 0.25]]))[0] for x in (0.0, 0.7))
    assert not torch.allclose(left, right)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is an accelerator")
def test_a_missing_accelerator_is_said_in_a_sentence() -> None:
    assert training_device("auto").type == "cpu"
    with pytest.raises(ConfigError, match="no accelerator"):
        training_device("cuda")
    with pytest.raises(ConfigError, match="auto, cpu or cuda"):
        training_device("tpu")


def test_training_needs_no_video_or_diffusion_library() -> None:
    """A machine with an accelerator may have torch, OpenCV and Pillow and nothing else of ours."""
    check = "import sys, models.training.__main__; print(sorted({'av', 'diffusers', 'insightface'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", check], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
