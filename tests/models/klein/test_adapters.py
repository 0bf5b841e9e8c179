"""Adapters of klein: merged as under FLUX.2's own names; ours become the network they were saved from."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from models.iconface.klein.adapter import load_adapter, merge_lora, read_lora
from models.iconface.network import IconFace
from models.weights import EMBEDDED, CheckpointError, load_checkpoint, save_checkpoint
from support.tiny_klein import (
    SHAPE,
    WIDTH,
    drawn,
    lora,
    restorer,
)


def test_merging_equals_the_merge_under_the_original_names(model: Path) -> None:
    """Original weights W + B A, brought into diffusers' names by diffusers, against ours."""
    state = {name: value for name, value in lora().items() if not name.endswith("alpha")}
    factors = {name.rpartition(".lora_")[0] for name in state}
    before, after = {}, {}
    for number, layer in enumerate(sorted(factors)):
        down, up = state[f"{layer}.lora_A.weight"], state[f"{layer}.lora_B.weight"]
        weight = drawn(up.shape[0], down.shape[1], seed=100 + number)
        before[f"{layer}.weight"] = weight
        after[f"{layer}.weight"] = weight + up @ down
    before, after = map(convert_flux2_transformer_checkpoint_to_diffusers, (before, after))
    transformer = Flux2Transformer2DModel.from_pretrained(model / "transformer")
    _, unexpected = transformer.load_state_dict(before, strict=False)
    assert not unexpected
    merge_lora(transformer, read_lora(state, "adapter"), "adapter")
    merged = transformer.state_dict()
    assert len(after) == 2 * (3 + 1) + 2 * 2
    for name, value in after.items():
        assert torch.allclose(merged[name], value, atol=1e-4), name
        assert not torch.allclose(merged[name], before[name], atol=1e-2), name


def test_alpha_scales_the_change() -> None:
    state = lora()
    halved = {name: value / 2 if name.endswith("alpha") else value for name, value in state.items()}
    without = {name: value for name, value in state.items() if not name.endswith("alpha")}
    for full, half, plain in zip(*(read_lora(each, "") for each in (state, halved, without)), strict=True):
        for name, change in full.changes().items():
            assert torch.allclose(half.changes()[name], change / 2)
            assert torch.equal(plain.changes()[name], change)


def test_merging_rounds_once() -> None:
    """A change far below a bf16 weight's own step is rounded with the sum, not before."""
    layer = nn.Linear(32, 96, bias=False).bfloat16()
    module = nn.ModuleDict({"transformer_blocks": nn.ModuleList([nn.Module()])})
    block: Any = module["transformer_blocks"][0]  # type: ignore[index]
    block.attn = nn.Module()
    block.attn.to_out = nn.ModuleList([layer])
    weight = layer.weight.float().clone()
    state = {
        "double_blocks.0.img_attn.proj.lora_A.weight": drawn(16, 32),
        "double_blocks.0.img_attn.proj.lora_B.weight": 1e-3 * drawn(96, 16),
    }
    (change,) = read_lora(state, "")
    merge_lora(module, [change], "")
    assert torch.equal(
        layer.weight, (weight + change.changes()["transformer_blocks.0.attn.to_out.0"]).bfloat16()
    )


def broken_adapters() -> dict[str, tuple[dict[str, Tensor], str]]:
    good, first = lora(), "double_blocks.0.img_attn.qkv"
    half = {name: value for name, value in good.items() if name != f"{first}.lora_B.weight"}
    text = {**good, "double_blocks.0.txt_attn.qkv.lora_A.weight": torch.zeros(16, WIDTH)}
    deeper = {name.replace("single_blocks.1", "single_blocks.7"): value for name, value in good.items()}
    return {
        "width": (lora(width=64), "belongs to a model of another width"),
        "rank": (lora(rank=8), "is of rank 8, expected 16"),
        "half": (half, f"{first} lacks lora_A or lora_B"),
        "unknown": (text, "txt_attn.qkv.lora_A.weight' is no part of a klein adapter"),
        "deeper": (deeper, "the model has no single_blocks.7.linear"),
        "foreign": ({"conv.weight": torch.zeros(3)}, "'conv.weight' is no part of a klein adapter"),
        "no factors": ({**good, f"{first}.lora_B.weight": torch.zeros(95, 16)}, "no factors of it"),
    }


@pytest.mark.parametrize("case", list(broken_adapters()))
def test_adapters_that_do_not_fit_give_one_sentence(model: Path, tmp_path: Path, case: str) -> None:
    state, sentence = broken_adapters()[case]
    path = tmp_path / "adapter.safetensors"
    save_file(state, path)
    with pytest.raises(CheckpointError, match=sentence) as caught:
        restorer(model, path)
    assert str(path) in str(caught.value)


def test_a_folder_with_the_published_file_is_an_adapter(published: Path, tmp_path: Path) -> None:
    assert len(load_adapter(published.parent).changes) == len(load_adapter(published).changes) == 8
    with pytest.raises(CheckpointError, match=r"lora_weights\.safetensors: no such file"):
        load_adapter(tmp_path)


# Our own adapter


def test_our_adapter_holds_the_modules_and_not_the_backbone(own: Path) -> None:
    names = load_checkpoint(own).state
    assert {name.partition(".")[0] for name in names if "lora" not in name and "alpha" not in name} == {
        "identity",
        "residual",
        "memory",
        "reads",
        "context",
    }
    loaded = load_adapter(own)
    assert loaded.shape == SHAPE
    assert len(loaded.changes) == 8


@torch.inference_mode()
def test_our_adapter_becomes_the_network_it_was_saved_from(model: Path, own: Path) -> None:
    net = restorer(model, own)
    network = net.network.module
    assert isinstance(network, IconFace)
    saved, backbone = load_checkpoint(own).state, network.backbone
    for name, value in saved.items():
        if "lora" not in name and "alpha" not in name:
            assert torch.equal(network.state_dict()[name], value), name
    expected = Flux2Transformer2DModel.from_pretrained(model / "transformer")
    merge_lora(expected, load_adapter(own).changes, own)
    for name, value in expected.state_dict().items():
        assert torch.equal(backbone.state_dict()[name], value), name
    # The prompt stands before the context, and the velocity is the network's own.
    scene, degraded, sigma = drawn(1, 16, 16), drawn(1, 16, 16, seed=2), torch.tensor([0.7])
    raw = drawn(1, 128, seed=4)
    memory = network.without_references(1)
    longer = type(memory)(torch.cat([net.prompts.prompt, memory.context], 1))
    answer = network(scene, sigma, degraded, F.normalize(raw, dim=1), longer)
    assert torch.allclose(
        net.network.alone(raw)(scene, sigma, degraded, net.prompts.prompt), answer, atol=1e-5
    )


def test_our_adapter_for_another_model_gives_one_sentence(model: Path, own: Path, tmp_path: Path) -> None:
    good = load_checkpoint(own)
    shape = good.parameters["klein"]
    assert isinstance(shape, dict)
    lacking = {name: value for name, value in good.state.items() if name != "residual.up.weight"}
    for state, parameters, sentence in (
        (good.state, {"klein": {**shape, "heads": 3}}, "made for a model with 3 heads, this one has 2"),
        (good.state, {"klein": {**shape, "single_blocks": 9}}, "9 single blocks, this one has 2"),
        (good.state, {"klein": {**shape, "embedding": 512}}, "embeddings 512 wide, the encoder's are 128"),
        (good.state, {"klein": {**shape, "memory": 8}}, "do not fit the shape in its header"),
        (lacking, {"klein": shape}, "do not fit the shape in its header"),
        (good.state, {"klein": {"width": 3}}, "not an adapter for klein"),
        (good.state, {"klein": 3}, "not an adapter for klein"),
    ):
        path = tmp_path / "adapter.safetensors"
        save_checkpoint(path, state, parameters, 0)
        with pytest.raises(CheckpointError, match=sentence):
            restorer(model, path)
    with pytest.raises(CheckpointError, match="not an adapter for klein"):
        restorer(model, EMBEDDED / "encoder.safetensors")
