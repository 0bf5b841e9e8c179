"""`klein`: from a folder in the hub's layout and either kind of adapter to a restored face, or to one sentence."""

from __future__ import annotations

import gc
import json
import shutil
import sys
import types
import weakref
from pathlib import Path
from typing import Any, ClassVar

import huggingface_hub.constants
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from diffusers.loaders.single_file_utils import convert_flux2_transformer_checkpoint_to_diffusers
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs import ConfigError
from models.iconface.klein import KleinRestorer, KleinSettings
from models.iconface.klein.adapter import load_adapter, save_adapter
from models.iconface.klein.codec import load_codec
from models.iconface.klein.folder import KleinFolder, load_tensors
from models.iconface.klein.lora import merge_lora, read_lora
from models.iconface.klein.memory import free_bytes, keep_away, largest_block, tensor_sizes
from models.iconface.klein.network import Anchored, OneSequence
from models.iconface.klein.plan import Needs, estimate, place
from models.iconface.klein.prompt import Prompts, encode_prompts, save_prompts
from models.iconface.network import IconFace, IconFaceShape
from models.iconface.sampling import klein_shift, sigmas
from models.protocols import References, Request
from models.weights import EMBEDDED, CheckpointError, load_checkpoint, save_checkpoint
from pipeline.build import build_restorer
from pipeline.config import RestorerConfig

WIDTH, CONTEXT, WORDS, ROWS = 32, 12, 6, 4
SHAPE = IconFaceShape(
    heads=2,
    head_width=16,
    double_blocks=2,
    single_blocks=2,
    rotary=(4, 4, 4, 4),
    channels=16,
    rows=ROWS,
    context=CONTEXT,
    high_tokens=1,
    low_tokens=2,
    identity_width=16,
    memory=4,
    memory_width=16,
    read_width=8,
    clean=False,
)
CPU = torch.device("cpu")


def write_model(path: Path, *, distilled: bool = True) -> None:
    """A klein model as it lies on the hub, only smaller; its prompt is encoded already."""
    torch.manual_seed(3)
    transformer = Flux2Transformer2DModel(
        in_channels=16,
        num_layers=2,
        num_single_layers=2,
        attention_head_dim=16,
        num_attention_heads=2,
        joint_attention_dim=CONTEXT,
        axes_dims_rope=(4, 4, 4, 4),
        guidance_embeds=False,
    )
    autoencoder = AutoencoderKLFlux2(
        block_out_channels=(8, 8, 8, 8), layers_per_block=1, latent_channels=4, norm_num_groups=4
    )
    autoencoder.bn.running_mean.normal_()
    autoencoder.bn.running_var.uniform_(0.5, 2)
    transformer.save_pretrained(path / "transformer")
    autoencoder.save_pretrained(path / "vae")
    (path / "model_index.json").write_text(
        json.dumps({"_class_name": "Flux2KleinPipeline", "is_distilled": distilled}), encoding="utf-8"
    )
    save_prompts(path / "prompt.safetensors", Prompts(drawn(1, WORDS, CONTEXT), drawn(1, WORDS, CONTEXT)))


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def lora(width: int = WIDTH, rank: int = 16, strength: float = 0.2) -> dict[str, Tensor]:
    """An adapter with exactly the keys of the published one."""
    sizes = {"img_attn.qkv": (width, 3 * width), "img_attn.proj": (width, width)}
    layers = {f"double_blocks.{n}.{name}": size for n in range(2) for name, size in sizes.items()}
    sizes = {"linear1": (width, 9 * width), "linear2": (4 * width, width)}
    layers |= {f"single_blocks.{n}.{name}": size for n in range(2) for name, size in sizes.items()}
    state = {}
    for number, (name, (incoming, outgoing)) in enumerate(layers.items()):
        state[f"{name}.lora_A.weight"] = drawn(rank, incoming, seed=2 * number)
        state[f"{name}.lora_B.weight"] = strength * drawn(outgoing, rank, seed=2 * number + 1)
        state[f"{name}.alpha"] = torch.tensor(16.0)
    return state


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("klein") / "distilled"
    write_model(path)
    return path


@pytest.fixture(scope="module")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("published") / "lora_weights.safetensors"
    save_file(lora(), path)
    return path


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of ours in which nothing is zero."""
    torch.manual_seed(5)
    network = IconFace(SHAPE)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("own") / "adapter.safetensors"
    save_adapter(path, network, lora(), 7)
    return path


@pytest.fixture
def copy(model: Path, tmp_path: Path) -> Path:
    """A copy of the model that may be broken."""
    return Path(shutil.copytree(model, tmp_path / "model"))


def restorer(model: Path | str, adapter: Path | None = None, **settings: Any) -> KleinRestorer:
    given = KleinSettings(**settings) if settings else None
    return KleinRestorer(str(model), adapter, settings=given, crop_size=16 * ROWS, dtype=torch.float32)


def crop(seed: int) -> Tensor:
    small = np.random.default_rng(seed).integers(0, 256, (3, 8, 8), np.uint8)
    return torch.from_numpy(np.kron(small, np.ones((1, 8, 8), np.uint8)))


def references(*seeds: int, version: int = 1) -> References:
    embeddings = torch.stack([(1 + seed) * F.normalize(drawn(128, seed=seed), dim=0) for seed in seeds])
    return References(tuple(crop(100 + seed) for seed in seeds), embeddings, version)


# The adapter in FLUX.2's own names


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


# Pictures and tokens


@torch.inference_mode()
def test_tokens_are_patches_normalised_by_the_stored_statistics(model: Path) -> None:
    codec = load_codec(KleinFolder(str(model)), torch.float32, CPU)
    vae = AutoencoderKLFlux2.from_pretrained(model / "vae").eval()
    pictures = torch.stack([crop(1), crop(2)]).float() / 255
    latents = vae.encode(pictures * 2 - 1).latent_dist.mode()  # (2, 4, 8, 8)
    patches = latents.view(2, 4, 4, 2, 4, 2).permute(0, 1, 3, 5, 2, 4).reshape(2, 16, 4, 4)
    expected = vae.bn(patches).flatten(2).transpose(1, 2)
    tokens = codec.encode(pictures)
    assert torch.allclose(tokens, expected, atol=1e-5)
    decoded = codec.decode(tokens, ROWS)
    assert torch.allclose(decoded, vae.decode(latents).sample / 2 + 0.5, atol=1e-4)


# Sampling


def sequences(net: KleinRestorer) -> list[dict[str, Any]]:
    """What the transformer is called with, from now on."""
    seen: list[dict[str, Any]] = []
    net.network.module.register_forward_pre_hook(
        lambda module, given, keywords: seen.append(keywords), with_kwargs=True
    )
    return seen


def test_the_published_adapter_sees_scene_face_and_references_in_one_sequence(
    model: Path, published: Path
) -> None:
    net = restorer(model, published)
    seen = sequences(net)
    net.restore([Request(crop(0), references(1, 2))])
    assert len(seen) == 4
    given = seen[0]
    ids = given["img_ids"]
    assert ids[:, 0].reshape(4, 16)[:, 0].tolist() == [0, 2, 10, 11]
    assert torch.equal(ids[:16, 1:], ids[48:, 1:])
    assert given["txt_ids"][:, 3].tolist() == list(range(WORDS))
    degraded = net.codec.encode(crop(0)[None].float() / 255)
    # Clearest first: of two, that of the longer embedding.
    clearest = net.codec.encode(crop(102)[None].float() / 255)
    assert torch.equal(given["hidden_states"][:, :16], net.noise)
    assert torch.allclose(given["hidden_states"][:, 16:32], degraded)
    assert torch.allclose(given["hidden_states"][:, 32:48], clearest)
    assert [float(each["timestep"][0]) for each in seen] == pytest.approx(sigmas(4, klein_shift(16, 4))[:-1])


@torch.inference_mode()
def test_guidance_leads_from_the_empty_prompt_to_the_prompt(copy: Path, published: Path) -> None:
    save_prompts(
        copy / "prompt.safetensors", Prompts(drawn(1, WORDS, CONTEXT), drawn(1, WORDS, CONTEXT, seed=2))
    )
    net = restorer(copy, published, steps=1, guidance=4.0)
    towards = net.network.alone(drawn(1, 128))
    degraded, sigma = drawn(1, 16, 16), torch.ones(1)
    assert net.prompts.empty is not None
    one, other = (
        towards(net.noise, sigma, degraded, context) for context in (net.prompts.prompt, net.prompts.empty)
    )
    assert not torch.allclose(one, other, atol=1e-3)
    expected = net.noise - (other + 4 * (one - other))
    assert torch.allclose(net._sample(towards, degraded), expected, atol=1e-4)


def test_steps_and_guidance_follow_from_the_model(tmp_path: Path, model: Path) -> None:
    write_model(tmp_path / "undistilled", distilled=False)
    base = restorer(tmp_path / "undistilled")
    assert base.settings == KleinSettings(steps=12, guidance=4.0)
    seen = sequences(base)
    base.restore([Request(crop(0), References())])
    assert len(seen) == 2 * 12
    assert restorer(model).settings == KleinSettings(steps=4, guidance=1.0)
    assert restorer(model, steps=2).settings.steps == 2


# Restoring


@pytest.fixture(params=["published", "own"])
def adapter(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path


def test_result_is_the_same_alone_and_in_a_batch(model: Path, adapter: Path) -> None:
    requests = [Request(crop(k), References() if k % 2 else references(1, 2)) for k in range(3)]
    together = restorer(model, adapter).restore(requests)
    for request, result in zip(requests, together, strict=True):
        assert torch.equal(restorer(model, adapter).restore([request])[0].image, result.image)
    assert result.image.dtype == torch.uint8
    assert tuple(result.image.shape) == (3, 64, 64)


def test_each_input_changes_the_result(model: Path, adapter: Path) -> None:
    net = restorer(model, adapter, steps=1)
    request = Request(crop(0), references(1))
    result = net.restore([request])[0].image
    others = [
        net.restore([other])[0].image
        for other in (
            Request(crop(0), References()),
            Request(crop(0), references(2)),
            Request(crop(0), references(1, 2)),
            Request(crop(9), request.references),
        )
    ]
    others += [restorer(model, steps=1).restore([request])[0].image]
    others += [restorer(model, adapter, steps=1, seed=1).restore([request])[0].image]
    for other in others:
        assert not torch.equal(other, result)


def test_references_are_worked_out_once_and_few_sets_are_kept(
    model: Path, adapter: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = restorer(model, adapter)
    calls, seeing = [], net.network.seeing
    monkeypatch.setattr(net.network, "seeing", lambda *given: calls.append(1) or seeing(*given))
    kept = references(1, 2)
    for number in range(3):
        net.restore([Request(crop(number), kept)])
    assert len(calls) == 1
    for number in range(3):
        net.restore([Request(crop(0), references(number))])
    assert len(net._kept) == 2


def test_half_precision_restores_nearly_the_same(model: Path, adapter: Path) -> None:
    request = Request(crop(0), references(1))
    exact = restorer(model, adapter).restore([request])[0].image
    half = KleinRestorer(str(model), adapter, crop_size=64)
    assert {each.dtype for each in half.network.module.parameters()} == {torch.bfloat16}
    difference = (half.restore([request])[0].image.float() - exact.float()).abs()
    assert float(difference.mean()) < 4


@pytest.mark.parametrize("wrong", [torch.zeros(3, 64, 64), torch.zeros(3, 32, 64, dtype=torch.uint8)])
def test_a_crop_of_another_form_is_refused(model: Path, wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="crop must be uint8"):
        restorer(model).restore([Request(wrong, References())])


def test_crops_are_512_pixels_wide_unless_a_test_says_otherwise(model: Path, published: Path) -> None:
    assert KleinRestorer(str(model), published).crop_size == 512


def test_the_settings_name_model_and_adapter(model: Path, published: Path, own: Path) -> None:
    for adapter, kind in ((published, OneSequence), (own, Anchored), (None, OneSequence)):
        made = build_restorer(RestorerConfig("klein", "cpu", klein=str(model), adapter=adapter))
        assert isinstance(made, KleinRestorer)
        assert isinstance(made.network, kind)


def test_without_an_adapter_a_warning_says_so(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    restorer(model)
    assert "without an adapter" in caplog.text


# Folder and hub's cache


def test_a_name_is_looked_up_in_the_hubs_cache(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path))
    name = "black-forest-labs/FLUX.2-klein-4B"
    with pytest.raises(CheckpointError, match=f"hf download {name}"):
        KleinFolder(name)
    stored = tmp_path / "models--black-forest-labs--FLUX.2-klein-4B"
    commit = "0123456789abcdef0123456789abcdef01234567"
    shutil.copytree(model, stored / "snapshots" / commit)
    (stored / "refs").mkdir()
    (stored / "refs" / "main").write_text(commit, encoding="utf-8")
    assert KleinFolder(name).path.resolve() == (stored / "snapshots" / commit).resolve()


def test_weights_in_parts_are_read_by_their_index(copy: Path) -> None:
    whole = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    expected = load_file(whole)
    whole.unlink()
    transformer = Flux2Transformer2DModel.from_config(KleinFolder(str(copy)).transformer)
    transformer.load_state_dict(expected)
    transformer.save_pretrained(copy / "transformer", max_shard_size="100KB")
    files = KleinFolder(str(copy)).files("transformer")
    assert len(files) > 1
    state = load_tensors(files, torch.float32, CPU)
    assert state.keys() == expected.keys()
    assert all(torch.equal(state[name], expected[name]) for name in expected)
    files[0].unlink()
    with pytest.raises(CheckpointError, match=f"{files[0].name}: no such file"):
        restorer(copy)


@pytest.mark.parametrize(
    ("part", "sentence"),
    [
        ("model_index.json", r"model_index\.json: cannot be read"),
        ("transformer/config.json", r"transformer/config\.json: cannot be read"),
        ("vae/config.json", r"vae/config\.json: cannot be read"),
        ("transformer/diffusion_pytorch_model.safetensors", r"transformer/\*\.safetensors: no such file"),
        ("vae/diffusion_pytorch_model.safetensors", r"vae/\*\.safetensors: no such file"),
        ("prompt.safetensors", r"text_encoder/\*\.safetensors: no such file"),
    ],
)
def test_a_missing_part_is_named(copy: Path, part: str, sentence: str) -> None:
    (copy / part).unlink()
    with pytest.raises(CheckpointError, match=sentence):
        restorer(copy)


def test_damaged_and_foreign_parts_give_one_sentence(copy: Path, tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="no such folder of a klein model"):
        restorer(tmp_path / "nowhere")
    weights = copy / "transformer" / "diffusion_pytorch_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-100])
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        restorer(copy)
    weights.write_bytes(b"short")
    with pytest.raises(CheckpointError, match="not a readable safetensors file"):
        restorer(copy)
    weights.write_bytes(whole)
    for component, key, value, sentence in (
        ("transformer", "num_layers", 3, "transformer: the weights do not fit"),
        ("transformer", "_class_name", "Other", "a Other, expected a Flux2Transformer2DModel"),
        ("transformer", "in_channels", 8, "do not belong together"),
        ("vae", "layers_per_block", 2, "vae: the weights do not fit"),
    ):
        path = copy / component / "config.json"
        kept = path.read_text(encoding="utf-8")
        path.write_text(json.dumps({**json.loads(kept), key: value}), encoding="utf-8")
        with pytest.raises(CheckpointError, match=sentence):
            restorer(copy)
        path.write_text(kept, encoding="utf-8")
    (copy / "model_index.json").write_text("{", encoding="utf-8")
    with pytest.raises(CheckpointError, match="not JSON"):
        restorer(copy)


# The prompt


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        ({"prompt": torch.zeros(6, 5)}, r"got 'prompt' \(6, 5\)"),
        ({"words": torch.zeros(6, CONTEXT)}, "got 'words'"),
        ({"empty": torch.zeros(6, CONTEXT)}, "holds no `prompt`"),
        ({"prompt": torch.zeros(6, CONTEXT)}, "holds no `empty`"),
    ],
)
def test_a_prompt_that_does_not_fit_gives_one_sentence(
    copy: Path, content: dict[str, Tensor], sentence: str
) -> None:
    save_file(content, copy / "prompt.safetensors")
    with pytest.raises(CheckpointError, match=sentence):
        restorer(copy, guidance=4.0)


class FakeTokeniser:
    """Words are their lengths."""

    @classmethod
    def from_pretrained(cls, path: Path, **_: Any) -> FakeTokeniser:
        return cls()

    def apply_chat_template(self, conversation: list[dict[str, str]], **given: Any) -> str:
        assert given == {"tokenize": False, "add_generation_prompt": True, "enable_thinking": False}
        (message,) = conversation
        return f"<{message['role']}>{message['content']}"

    def __call__(self, text: str, **given: Any) -> dict[str, Tensor]:
        assert (given["padding"], given["max_length"]) == ("max_length", 512)
        ids = torch.tensor([[len(text)] * WORDS])
        return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


class FakeEncoder(nn.Module):
    """Layer k says the words' lengths and k."""

    alive: ClassVar[weakref.WeakSet[FakeEncoder]] = weakref.WeakSet()

    @classmethod
    def from_pretrained(cls, path: Path, **_: Any) -> FakeEncoder:
        encoder = cls()
        cls.alive.add(encoder)
        return encoder

    def forward(self, input_ids: Tensor, **given: Any) -> Any:
        assert given["output_hidden_states"]
        states = [
            input_ids[..., None].float().repeat(1, 1, CONTEXT // 3) + layer / 100 for layer in range(37)
        ]
        return types.SimpleNamespace(hidden_states=states)


def with_text_encoder(path: Path) -> None:
    (path / "prompt.safetensors").unlink()
    (path / "text_encoder").mkdir()
    save_file({"weight": torch.zeros(1000)}, path / "text_encoder" / "model.safetensors")


def test_the_prompt_is_encoded_once_and_the_encoder_leaves_memory(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.ModuleType("transformers")
    fake.AutoTokenizer, fake.Qwen3ForCausalLM = FakeTokeniser, FakeEncoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", fake)
    with_text_encoder(copy)
    net = KleinRestorer(str(copy), prompt="a face", crop_size=64, dtype=torch.float32)
    gc.collect()
    assert len(FakeEncoder.alive) == 0
    assert net.prompts.prompt.shape == (1, WORDS, CONTEXT)
    assert net.prompts.prompt[0, 0, ::4].tolist() == pytest.approx([12.09, 12.18, 12.27])
    assert net.prompts.empty is not None
    assert net.prompts.empty[0, 0, ::4].tolist() == pytest.approx([6.09, 6.18, 6.27])
    # Saved beside the model, it is all that is needed.
    save_prompts(
        copy / "prompt.safetensors", encode_prompts(KleinFolder(str(copy)), "a face", torch.float32, CPU)
    )
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert torch.equal(restorer(copy).prompts.prompt, net.prompts.prompt)


def test_without_transformers_the_extra_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with_text_encoder(copy)
    with pytest.raises(ConfigError, match=r'pip install -e "\.\[klein\]", or put an encoded prompt'):
        restorer(copy)


# Memory


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
    monkeypatch.setattr("models.iconface.klein.plan.free_bytes", lambda device: 3_210_000_000)
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
    whole = KleinRestorer(str(model), adapter, "cuda", crop_size=64)
    expected = whole.restore([request])[0].image
    needs = estimate(KleinFolder(str(model)), load_adapter(adapter), 2, ROWS**2, torch.bfloat16)
    monkeypatch.setattr(
        "models.iconface.klein.plan.free_bytes",
        lambda device: needs.by_blocks if device.type == "cuda" else 10**12,
    )
    small = KleinRestorer(str(model), adapter, "cuda", crop_size=64)
    assert {each.device.type for block in small.network.blocks() for each in block.parameters()} == {"cpu"}
    assert torch.equal(small.restore([request])[0].image, expected)
