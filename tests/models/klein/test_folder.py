"""klein's folder and prompt: what lies there is read; what is missing or foreign gives one sentence."""

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
import pytest
import torch
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from configs import ConfigError
from models.iconface.klein import KleinRestorer
from models.iconface.klein.folder import PROMPT, KleinFolder, encode_prompts, load_tensors, save_prompts
from models.iconface.settings import KleinSettings
from models.weights import CheckpointError
from support.tiny_klein import CONTEXT, CPU, WORDS, restorer, with_text_encoder


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


def test_the_prompt_is_encoded_once_and_the_encoder_leaves_memory(
    copy: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake = types.ModuleType("transformers")
    fake.AutoTokenizer, fake.Qwen3ForCausalLM = FakeTokeniser, FakeEncoder  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "transformers", fake)
    with_text_encoder(copy)
    net = KleinRestorer(KleinSettings(str(copy), prompt="a face"), crop_size=64, dtype=torch.float32)
    gc.collect()
    assert len(FakeEncoder.alive) == 0
    assert net.prompts.prompt.shape == (1, WORDS, CONTEXT)
    assert net.prompts.prompt[0, 0, ::4].tolist() == pytest.approx([12.09, 12.18, 12.27])
    assert net.prompts.empty is not None
    assert net.prompts.empty[0, 0, ::4].tolist() == pytest.approx([6.09, 6.18, 6.27])
    usual = KleinRestorer(KleinSettings(str(copy)), crop_size=64, dtype=torch.float32)
    assert float(usual.prompts.prompt[0, 0, 0]) == pytest.approx(len(f"<user>{PROMPT}") + 0.09)
    # Saved beside the model, it is all that is needed.
    save_prompts(
        copy / "prompt.safetensors", encode_prompts(KleinFolder(str(copy)), "a face", torch.float32, CPU)
    )
    monkeypatch.setitem(sys.modules, "transformers", None)
    assert torch.equal(restorer(copy).prompts.prompt, net.prompts.prompt)


def test_a_prompt_of_ones_own_is_not_ignored_for_an_encoded_one(model: Path) -> None:
    with pytest.raises(ConfigError, match=r"prompt\.safetensors: .*leave restorer\.klein\.prompt at none"):
        KleinRestorer(KleinSettings(str(model), prompt="a face"), crop_size=64)


def test_without_transformers_the_extra_is_named(copy: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "transformers", None)
    with_text_encoder(copy)
    with pytest.raises(ConfigError, match=r'pip install -e "\.\[klein\]", or put an encoded prompt'):
        restorer(copy)
