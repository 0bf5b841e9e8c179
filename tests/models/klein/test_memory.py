"""klein's memory: told from headers before anything is loaded; blocks visit a GPU that is too small."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from torch import nn

from configs import ConfigError
from models.iconface.klein import KleinRestorer
from models.iconface.klein.adapter import load_adapter
from models.iconface.klein.folder import KleinFolder
from models.iconface.klein.memory import (
    Needs,
    estimate,
    free_bytes,
    keep_away,
    largest_block,
    place,
    tensor_sizes,
)
from models.iconface.settings import KleinSettings
from models.protocols import Request
from support.tiny_klein import (
    CPU,
    ROWS,
    WIDTH,
    crop,
    references,
    restorer,
    with_text_encoder,
)


def test_sizes_come_from_headers_and_blocks_are_told_apart(model: Path) -> None:
    folder = KleinFolder(str(model))
    sizes = tensor_sizes(folder.files("transformer"))
    transformer = Flux2Transformer2DModel.from_pretrained(model / "transformer")
    assert sizes == {name: value.numel() for name, value in transformer.state_dict().items()}
    counts = [
        sum(value.numel() for value in block.parameters())
        for block in (*transformer.transformer_blocks, *transformer.single_transformer_blocks)
    ]
    assert largest_block(sizes, ("transformer_blocks.", "single_transformer_blocks.")) == (
        max(counts),
        sum(counts),
    )


def test_the_estimate_covers_weights_work_and_what_is_kept(model: Path, published: Path, own: Path) -> None:
    folder = KleinFolder(str(model))
    plain, ours = (
        estimate(folder, load_adapter(path), 2, ROWS**2, torch.bfloat16) for path in (published, own)
    )
    net = restorer(model, own)
    assert plain.transformer == 2 * sum(tensor_sizes(folder.files("transformer")).values())
    assert plain.text == 0
    modules = sum(
        value.numel() for name, value in net.network.module.named_parameters() if "backbone" not in name
    )
    assert ours.others - plain.others == 2 * modules
    # Keys and values of 3 references of 16 tokens in 4 blocks, two sets.
    assert ours.work - plain.work == 2 * 2 * (2 * 3 * 16 * WIDTH * 4)
    twice = estimate(folder, load_adapter(published), 2, ROWS**2, torch.float32)
    assert (twice.transformer, twice.work) == (2 * plain.transformer, 2 * plain.work)


NEEDS = Needs(transformer=8_000, blocks=7_000, block=500, others=500, work=1_500, text=8_000)


def test_everything_stands_on_the_gpu_if_it_fits_and_blocks_visit_it_if_not() -> None:
    gpu = torch.device("cuda", 0)
    assert (NEEDS.whole, NEEDS.by_blocks) == (11_000, 4_400)
    roomy = place(NEEDS, gpu, 11_000, 10_000, "klein")
    assert (roomy.by_blocks, roomy.text) == (False, gpu)
    small = place(NEEDS, gpu, 4_400, 10_000, "klein")
    assert (small.by_blocks, small.text) == (True, CPU)
    with pytest.raises(ConfigError, match="on cuda:0"):
        place(NEEDS, gpu, 4_399, 10_000, "klein")
    with pytest.raises(ConfigError, match="on cpu"):
        place(NEEDS, gpu, 4_400, 7_999, "klein")
    assert not place(NEEDS, CPU, 11_000, 11_000, "klein").by_blocks
    assert not place(NEEDS, CPU, None, None, "klein").by_blocks


def test_too_little_memory_is_said_before_anything_is_loaded(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of the text encoder's file there is the header alone: nothing else may be read."""
    with_text_encoder(copy)
    header = json.dumps(
        {"weight": {"dtype": "BF16", "shape": [4_000_000, 1000], "data_offsets": [0, 8_000_000_000]}}
    ).encode()
    (copy / "text_encoder" / "model.safetensors").write_bytes(len(header).to_bytes(8, "little") + header)
    monkeypatch.setattr("models.iconface.klein.memory.free_bytes", lambda device: 3_210_000_000)
    with pytest.raises(
        ConfigError, match=r"about 16\.0 GB of memory on cpu, 3\.2 GB are free; close .*--restorer fast"
    ):
        restorer(copy)


def test_free_memory_of_this_machine_is_known_on_linux() -> None:
    free = free_bytes(CPU)
    assert free is None or 10**7 < free < 10**14


@torch.inference_mode()
def test_blocks_stand_on_the_device_only_while_they_compute() -> None:
    """As on a GPU, with "meta" for it: there the result has no values, but the weights' places show."""
    net = nn.Sequential(*(nn.Linear(4, 4) for _ in range(3)))
    first, *blocks = net
    keep_away(net, blocks, torch.device("meta"))
    seen: list[list[str]] = []

    def look(*_: object) -> None:
        seen.append([each.weight.device.type for each in net])  # type: ignore[union-attr]

    for each in blocks:
        each.register_forward_pre_hook(look)
    before = [each.weight.data_ptr() for each in blocks]  # type: ignore[operator, union-attr]
    assert net(torch.zeros(1, 4, device="meta")).device.type == "meta"
    assert seen == [["meta", "meta", "cpu"], ["meta", "cpu", "meta"]]
    assert first.weight.device.type == "meta"
    assert [each.weight.device.type for each in blocks] == ["cpu", "cpu"]
    assert [each.weight.data_ptr() for each in blocks] == before  # type: ignore[operator, union-attr]


@torch.inference_mode()
def test_visiting_changes_no_result(model: Path, adapter: Path) -> None:
    request = Request(crop(0), references(1))
    net = restorer(model, adapter)
    expected = net.restore([request])[0].image
    keep_away(net.network.module, net.network.blocks(), CPU)
    assert torch.equal(net.restore([request])[0].image, expected)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_small_gpu_gives_the_same_by_blocks(
    model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    request = Request(crop(0), references(1, 2))
    whole = KleinRestorer(KleinSettings(str(model), adapter), "cuda", crop_size=64)
    expected = whole.restore([request])[0].image
    needs = estimate(KleinFolder(str(model)), load_adapter(adapter), 2, ROWS**2, torch.bfloat16)
    monkeypatch.setattr(
        "models.iconface.klein.memory.free_bytes",
        lambda device: needs.by_blocks if device.type == "cuda" else 10**12,
    )
    small = KleinRestorer(KleinSettings(str(model), adapter), "cuda", crop_size=64)
    assert {each.device.type for block in small.network.blocks() for each in block.parameters()} == {"cpu"}
    assert torch.equal(small.restore([request])[0].image, expected)
