"""`IconFaceRestorer`: each result depends on its own request alone; references are used, kept and counted."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from models.iconface.model import IconFaceModel
from models.iconface.restorer import IconFaceRestorer
from models.iconface.settings import SEED, IconFaceSettings
from models.protocols import Previous, References, Request
from models.weights import Checkpoint, CheckpointError, load_checkpoint, save_checkpoint
from pipeline.build import build_restorer
from pipeline.config import RestorerConfig
from support.small_iconface import CODEC, SHAPE


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint in which nothing is zero."""
    torch.manual_seed(0)
    model = IconFaceModel(SHAPE, CODEC)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("weights") / "iconface.safetensors"
    save_checkpoint(path, model.state_dict(), model.shapes(), 7)
    return path


def restorer(path: Path, seed: int = SEED, **settings: Any) -> IconFaceRestorer:
    return IconFaceRestorer(load_checkpoint(path), settings=IconFaceSettings(**settings), seed=seed)


def crop(seed: int) -> Tensor:
    small = np.random.default_rng(seed).integers(0, 256, (3, 8, 8), np.uint8)
    return torch.from_numpy(np.kron(small, np.ones((1, 8, 8), np.uint8)))


def references(*seeds: int, version: int = 1) -> References:
    embeddings = torch.stack([torch.randn(128, generator=torch.Generator().manual_seed(s)) for s in seeds])
    norms = 1 + torch.arange(len(seeds))[torch.tensor(seeds).argsort().argsort()]
    return References(tuple(crop(100 + s) for s in seeds), embeddings * norms[:, None], version)


def test_result_is_the_same_alone_and_in_a_batch(path: Path) -> None:
    net = restorer(path, steps=2)
    requests = [Request(crop(k), References() if k % 2 else references(1, 2)) for k in range(4)]
    together = net.restore(requests)
    for request, result in zip(requests, together, strict=True):
        assert torch.equal(restorer(path, steps=2).restore([request])[0].image, result.image)
    assert result.image.dtype == torch.uint8
    assert tuple(result.image.shape) == (3, 64, 64)


def test_batches_by_number_of_references_keep_order_and_result(path: Path) -> None:
    """As on a GPU, run on the CPU: within one code value of one by one."""
    net = restorer(path)
    requests = [
        Request(crop(k), each)
        for k, each in enumerate((References(), references(1), references(2, 3), References(), references(4)))
    ]
    alone = [result.image for result in net.restore(requests)]
    net.device = type("Device", (), {"type": "cuda"})()  # type: ignore[assignment]
    assert net._groups(requests) == [[0, 3], [1, 4], [2]]
    net.device = torch.device("cpu")
    for group in ([0, 3], [1, 4], [2]):
        for index, result in zip(group, net._batch([requests[k] for k in group]), strict=True):
            assert int((result.image.int() - alone[index].int()).abs().max()) <= 1


def test_result_depends_on_the_seed_alone(path: Path) -> None:
    request = Request(crop(0), references(1))
    first, second, other = (restorer(path, seed=s).restore([request])[0].image for s in (1, 1, 2))
    assert torch.equal(first, second)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("average", [False, True])
def test_references_change_the_result(path: Path, count: int, average: bool) -> None:
    net = restorer(path, average_references=average)
    without, using = net.restore(
        [Request(crop(0), References()), Request(crop(0), references(*range(count)))]
    )
    assert not torch.equal(without.image, using.image)


def test_averaging_and_concatenating_differ(path: Path) -> None:
    request = Request(crop(0), references(1, 2))
    one, other = (restorer(path, average_references=a).restore([request])[0].image for a in (False, True))
    assert not torch.equal(one, other)


@pytest.mark.parametrize("average", [False, True])
def test_the_order_of_references_does_not_matter(path: Path, average: bool) -> None:
    net = restorer(path, average_references=average)
    one, other = net.restore(
        [Request(crop(0), references(1, 2, 3)), Request(crop(0), references(3, 1, 2, version=2))]
    )
    assert int((one.image.int() - other.image.int()).abs().max()) <= 1


def test_of_many_references_the_clearest_three_are_taken(path: Path) -> None:
    four, three = references(1, 2, 3, 4), references(2, 3, 4)
    clearer = References(three.crops, four.embeddings[1:], version=2)
    one, other = restorer(path).restore([Request(crop(0), four), Request(crop(0), clearer)])
    assert torch.equal(one.image, other.image)


def test_references_are_worked_out_once_a_set(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = restorer(path, steps=3)
    calls = []
    remember = net.model.network.remember
    monkeypatch.setattr(
        net.model.network, "remember", lambda *given: calls.append(len(given[0])) or remember(*given)
    )
    kept, other = references(1, 2), references(3, 4)
    fresh = [restorer(path, steps=3).restore([Request(crop(k), kept)])[0].image for k in range(3)]
    frames = [net.restore([Request(crop(k), kept)])[0].image for k in range(3)]
    assert len(calls) == 1
    for one, again in zip(fresh, frames, strict=True):
        assert torch.equal(one, again)
    # Another person's set may carry the same version.
    net.restore([Request(crop(0), other)])
    assert len(calls) == 2
    net.restore([Request(crop(0), References(kept.crops, kept.embeddings, version=9))])
    assert len(calls) == 3


def test_old_sets_are_forgotten(path: Path) -> None:
    net = restorer(path)
    for version in range(12):
        net.restore([Request(crop(0), references(version))])
    assert len(net._kept) == 8


def test_with_embeddings_of_another_recogniser_the_crops_speak(path: Path) -> None:
    views = references(1)
    foreign = [
        References(views.crops, torch.full((1, 512), value), version)
        for version, value in ((1, 1.0), (2, -1.0))
    ]
    one, other = restorer(path).restore([Request(crop(0), each) for each in foreign])
    assert torch.equal(one.image, other.image)


def test_without_references_the_degraded_face_is_its_own_anchor(path: Path) -> None:
    net = restorer(path)
    asked = []
    net.model.network.identity.register_forward_pre_hook(lambda module, given: asked.append(given[0]))
    net.restore([Request(crop(0), References())])
    own = nn.functional.normalize(net._embeddings([crop(0)]), dim=1)
    assert torch.allclose(asked[0], own)
    assert float(own.norm()) == pytest.approx(1, abs=1e-5)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 64, 64), torch.zeros(3, 32, 64, dtype=torch.uint8)])
def test_a_crop_of_another_form_is_refused(path: Path, wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="crop must be uint8"):
        restorer(path).restore([Request(wrong, References())])
    with pytest.raises(ValueError, match="crop must be uint8"):
        restorer(path).restore([Request(crop(0), References((wrong,), torch.ones(1, 128), 1))])


def test_missing_truncated_and_foreign_checkpoints_give_one_sentence(path: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        restorer(tmp_path / "none.safetensors")
    short = tmp_path / "short.safetensors"
    short.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        restorer(short)
    good = load_checkpoint(path)
    state = {name: value for name, value in good.state.items() if "proj_out" not in name}
    for foreign in (
        Checkpoint({}, {"widths": [1]}, 0, path),
        Checkpoint(state, good.parameters, 0, path),
        Checkpoint(good.state, {**good.parameters, "network": {"heads": 3}}, 0, path),
    ):
        with pytest.raises(CheckpointError, match="not the weights of an `iconface` restorer"):
            IconFaceRestorer(foreign)


def test_a_checkpoint_is_known_by_its_header(path: Path) -> None:
    assert isinstance(build_restorer(RestorerConfig(str(path), "cpu")), IconFaceRestorer)


def test_networks_and_autoencoders_must_agree() -> None:
    with pytest.raises(ValueError, match="four times"):
        IconFaceModel(replace(SHAPE, channels=32), CODEC)


def changed(picture: Tensor, by: int) -> Tensor:
    return (picture.int() + by).clamp(0, 255).to(torch.uint8)


def counted(net: IconFaceRestorer, monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """How often the transformer works."""
    calls: list[int] = []
    forward = net.model.network.forward

    def counting(*given: Any) -> Tensor:
        calls.append(1)
        return forward(*given)

    monkeypatch.setattr(net.model.network, "forward", counting)
    return calls


@pytest.mark.parametrize("steps", [1, 2])
@pytest.mark.parametrize("views", [(), (1, 2)])
def test_an_answer_is_used_again_while_little_changes(
    path: Path, monkeypatch: pytest.MonkeyPatch, steps: int, views: tuple[int, ...]
) -> None:
    net, refs = restorer(path, steps=steps, most_change=0.3), references(*views) if views else References()
    calls = counted(net, monkeypatch)
    assert net.needs.kept
    [first] = net.restore([Request(crop(0), refs)])
    worked = len(calls)
    assert worked >= steps
    [same] = net.restore([Request(crop(0), refs, kept=first.kept)])
    # Only the rounding of a sum is between.
    assert int((same.image.int() - first.image.int()).abs().max()) <= 1
    nearly = Request(changed(crop(0), 3), refs, kept=first.kept)
    [near] = net.restore([nearly])
    assert len(calls) == worked
    assert same.kept is near.kept is first.kept
    [anew] = net.restore([replace(nearly, kept=None)])
    assert 0 < (near.image.float() - anew.image.float()).abs().mean() < 8
    [other] = net.restore([Request(crop(1), refs, kept=first.kept)])
    [fresh] = net.restore([Request(crop(1), refs)])
    assert torch.equal(other.image, fresh.image)
    assert other.kept is not None
    assert fresh.kept is not None
    assert torch.equal(other.kept, fresh.kept)


def test_an_answer_is_not_used_where_it_does_not_belong(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    net = restorer(path, most_change=0.3)
    [first] = net.restore([Request(crop(0), References())])
    assert first.kept is not None
    calls = counted(net, monkeypatch)
    net.restore([Request(crop(0), References(), kept=first.kept[:, :3])])
    assert len(calls) == 1  # another restorer's
    told = Previous(crop(0), torch.ones(64, 64))
    net.restore([Request(crop(0), References(), told, kept=first.kept)])
    assert len(calls) == 2  # the face before has a say of its own
    off = restorer(path, most_change=0.0)
    assert not off.needs.kept
    [plain] = off.restore([Request(crop(0), References(), kept=first.kept)])
    assert plain.kept is None
    assert torch.equal(plain.image, first.image)
    net.device = type("Device", (), {"type": "cuda"})()  # type: ignore[assignment]
    assert not net.needs.kept
    with pytest.raises(ValueError, match="most_change must be finite and not negative"):
        IconFaceSettings(most_change=-1)
    with pytest.raises(ValueError, match="most_change must be finite and not negative"):
        IconFaceSettings(most_change=float("nan"))


def test_the_setting_reaches_the_restorer(path: Path) -> None:
    for most in (0.0, 0.12):
        built = build_restorer(
            RestorerConfig(kind=str(path), device="cpu", iconface=IconFaceSettings(most_change=most))
        )
        assert isinstance(built, IconFaceRestorer)
        assert built.settings.most_change == most
        assert built.needs.kept == (most > 0)
