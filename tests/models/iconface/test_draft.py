"""The draft of `fast`: what stands for the degraded face in a checkpoint that carries its network."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor

from models.fast.network import FastNetwork, FastShape
from models.fast.restorer import FastRestorer
from models.iconface.model import IconFaceModel, build_iconface
from models.iconface.network import start_small
from models.iconface.restorer import IconFaceRestorer
from models.protocols import References, Request
from models.weights import Checkpoint, load_checkpoint, save_checkpoint
from support.small_iconface import CODEC, SHAPE

DRAFT = FastShape(
    widths=(8, 8, 16, 16), encoder_depths=(1, 1, 1), middle_depth=1, decoder_depths=(1, 1, 1), grain=True
)


@pytest.fixture(scope="module")
def model() -> IconFaceModel:
    """A model whose draft differs much from its input; its transformer answers with nothing yet."""
    torch.manual_seed(0)
    model = IconFaceModel(replace(SHAPE, rows=16), CODEC, DRAFT)
    start_small(model.network)
    assert model.draft is not None
    torch.nn.init.normal_(model.draft.leave.weight, std=0.05)
    return model


def restorer_of(model: IconFaceModel) -> IconFaceRestorer:
    return IconFaceRestorer(Checkpoint(model.state_dict(), model.shapes(), 0))


def crop(seed: int) -> Tensor:
    small = np.random.default_rng(seed).integers(0, 256, (3, 16, 16), np.uint8)
    return torch.from_numpy(np.kron(small, np.ones((1, 16, 16), np.uint8)))


def references() -> References:
    embedding = torch.randn(1, 128, generator=torch.Generator().manual_seed(3))
    return References((crop(4),), 3 * embedding, 1)


@pytest.mark.parametrize("known", [References(), references()], ids=["nobody", "a reference"])
def test_the_draft_of_fast_stands_for_the_degraded_face(model: IconFaceModel, known: References) -> None:
    assert model.draft is not None
    without = IconFaceModel(model.network.shape, CODEC)
    kept = {name: value for name, value in model.state_dict().items() if not name.startswith("draft.")}
    without.load_state_dict(kept)
    parameters = {key: getattr(DRAFT, key) for key in DRAFT.__slots__}
    fast = FastRestorer(Checkpoint(model.draft.state_dict(), parameters, 0))
    drafted = fast.restore([Request(crop(1), known)])[0].image
    # A transformer without gates is blind to all but its degraded tokens; the draft is rounded only outside.
    expected = restorer_of(without).restore([Request(drafted, known)])[0].image
    got = restorer_of(model).restore([Request(crop(1), known)])[0].image
    undrafted = restorer_of(without).restore([Request(crop(1), known)])[0].image
    assert (got.int() - expected.int()).abs().max() <= 2
    assert (got.int() - undrafted.int()).abs().max() > 10


def test_references_alone_are_told_to_the_draft(model: IconFaceModel) -> None:
    net, told = restorer_of(model), []
    assert isinstance(net.model.draft, FastNetwork)
    net.model.draft.register_forward_pre_hook(lambda _, inputs: told.append(inputs[1].norm(dim=1)))
    net.restore([Request(crop(1), References()), Request(crop(1), references())])
    assert torch.allclose(torch.cat(told), torch.tensor([0.0, 1.0]))


def test_a_draft_is_a_part_of_the_checkpoint(model: IconFaceModel, tmp_path: Path) -> None:
    path = tmp_path / "iconface.safetensors"
    save_checkpoint(path, model.state_dict(), model.shapes(), 7)
    again = build_iconface(load_checkpoint(path))
    assert again.draft is not None
    assert again.draft.shape == DRAFT
    degraded = torch.rand(1, 3, 256, 256)
    assert torch.allclose(
        again.drafted(degraded, torch.zeros(1, 128)), model.drafted(degraded, torch.zeros(1, 128)), atol=0.02
    )


def test_a_draft_gets_no_gradient(model: IconFaceModel) -> None:
    assert model.draft is not None
    assert not any(parameter.requires_grad for parameter in model.draft.parameters())
    assert not model.drafted(torch.rand(1, 3, 256, 256), torch.zeros(1, 128)).requires_grad
