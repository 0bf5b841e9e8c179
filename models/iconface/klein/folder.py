"""A klein model's folder as the hub lays it out: weights and encoded prompt; nothing is fetched from the network.

    model_index.json                    whether the model is distilled to few steps
    transformer/, vae/                  config.json and safetensors, whole or in parts
    text_encoder/, tokenizer/           needed for the prompt,
    prompt.safetensors                  unless it lies here, encoded before

`CheckpointError` is raised wherever something is missing or does not fit. The prompt is fixed. Its embedding is read
from the file, or made once by the text encoder, which then leaves memory: klein takes the hidden states 9, 18 and 27
of Qwen3, side by side, of 512 padded tokens in the chat template without thinking, as in diffusers' pipeline.

Shapes: K words, J width of the context.
"""

from __future__ import annotations

import gc
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from configs import ConfigError
from models.weights import CheckpointError

PROMPT_FILE = "prompt.safetensors"
TRANSFORMER = "Flux2Transformer2DModel"
AUTOENCODER = "AutoencoderKLFlux2"
PROMPT = (
    "A sharp, natural, high-quality portrait photograph of the same person, with the pose, expression, "
    "light and framing of the degraded photograph kept as they are."
)
_WORDS = 512
_LAYERS = (9, 18, 27)


class KleinFolder:
    """Where the parts of a klein model are."""

    def __init__(self, name: str) -> None:
        """`name`: a local folder, or the model's name on the hub if it is in the hub's cache."""
        self.path = _find(name)
        index = _json(self.path / "model_index.json")
        self.distilled = bool(index.get("is_distilled", False))
        self.transformer = self._config("transformer", TRANSFORMER)
        self.autoencoder = self._config("vae", AUTOENCODER)
        if self.transformer.get("in_channels") != 4 * self.autoencoder.get("latent_channels", 0):
            raise CheckpointError(f"{self.path}: transformer and vae do not belong together")
        self.prompt_file = self.path / PROMPT_FILE

    def files(self, component: str) -> list[Path]:
        """The safetensors files of a component, by its index where there is one."""
        folder = self.path / component
        indices = sorted(folder.glob("*.safetensors.index.json"))
        if indices:
            names = set(_json(indices[0]).get("weight_map", {}).values())
            found = [folder / name for name in sorted(names)]
        else:
            found = sorted(folder.glob("*.safetensors"))
        missing = [path for path in found if not path.is_file()]
        if missing or not found:
            lacking = missing[0] if missing else f"{folder}/*.safetensors"
            raise CheckpointError(
                f"{lacking}: no such file; the model's folder is not complete, fetch it again"
            )
        return found

    def _config(self, component: str, kind: str) -> dict[str, Any]:
        path = self.path / component / "config.json"
        config = _json(path)
        if config.get("_class_name") != kind:
            raise CheckpointError(f"{path}: a {config.get('_class_name')}, expected a {kind}")
        return config


def load_tensors(files: Sequence[Path], dtype: torch.dtype, device: torch.device) -> dict[str, Tensor]:
    """All tensors of safetensors files on `device`; those in floating point as `dtype`."""
    state: dict[str, Tensor] = {}
    for path in files:
        try:
            with safe_open(path, framework="pt", device=str(device)) as stream:
                for name in stream.keys():  # noqa: SIM118
                    tensor = stream.get_tensor(name)
                    state[name] = tensor.to(dtype) if tensor.is_floating_point() else tensor
        except (OSError, SafetensorError) as error:
            raise CheckpointError(f"{path}: not a readable safetensors file ({error})") from error
    return state


def _find(name: str) -> Path:
    path = Path(name).expanduser()
    if path.is_dir():
        return path
    owner, slash, model = name.partition("/")
    if not slash or not owner or not model or "/" in model or owner in (".", "..", "~"):
        raise CheckpointError(f"{name}: no such folder of a klein model")
    from huggingface_hub import snapshot_download  # only here, as a local folder does without

    try:
        return Path(snapshot_download(name, local_files_only=True))
    except (OSError, ValueError) as error:
        raise CheckpointError(
            f"{name}: no such folder, and not in the hub's cache; fetch it with `hf download {name}`"
        ) from error


def _json(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(
            f"{path}: cannot be read ({error.strerror}); the model's folder is not complete, fetch it again"
        ) from error
    except ValueError as error:
        raise CheckpointError(f"{path}: not JSON ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{path}: expected a table of settings")
    return content


@dataclass(frozen=True, slots=True, eq=False)
class Prompts:
    """What the text stream starts from."""

    prompt: Tensor
    """(1, K, J)."""
    empty: Tensor | None
    """(1, K, J) of the empty prompt, from which guidance leads away; None where the file has none."""


def read_prompts(folder: KleinFolder, dtype: torch.dtype, device: torch.device) -> Prompts:
    """The folder's `prompt.safetensors`: `prompt` (K, J), and `empty` for models with guidance.

    Raises `CheckpointError` for another content or width.
    """
    state = load_tensors([folder.prompt_file], dtype, device)
    width = folder.transformer.get("joint_attention_dim")
    for name, tensor in state.items():
        if name not in ("prompt", "empty") or tensor.ndim != 2 or tensor.shape[1] != width:
            raise CheckpointError(
                f"{folder.prompt_file}: expected `prompt` and `empty`, each (words, {width}), "
                f"got {name!r} {tuple(tensor.shape)}"
            )
    if "prompt" not in state:
        raise CheckpointError(f"{folder.prompt_file}: holds no `prompt`")
    return Prompts(state["prompt"][None], state["empty"][None] if "empty" in state else None)


def save_prompts(path: Path, prompts: Prompts) -> None:
    """Writes what `read_prompts` reads, so that no text encoder is needed."""
    empty = {} if prompts.empty is None else {"empty": prompts.empty[0].cpu().contiguous()}
    save_file({"prompt": prompts.prompt[0].cpu().contiguous(), **empty}, path)


@torch.inference_mode()
def encode_prompts(folder: KleinFolder, text: str, dtype: torch.dtype, device: torch.device) -> Prompts:
    """`text` and the empty prompt, encoded on `device`.

    Raises `ConfigError` where transformers is not installed, `CheckpointError` for a text encoder that is missing or
    of another width.
    """
    try:
        from transformers import AutoTokenizer, Qwen3ForCausalLM
    except ImportError as error:
        raise ConfigError(
            f"klein's prompt must be encoded with transformers, which cannot be imported ({error}); "
            f'pip install -e ".[klein]", or put an encoded {PROMPT_FILE} into {folder.path}'
        ) from error
    folder.files("text_encoder")
    try:
        tokenizer = AutoTokenizer.from_pretrained(folder.path / "tokenizer", local_files_only=True)
        encoder = Qwen3ForCausalLM.from_pretrained(
            folder.path / "text_encoder", dtype=dtype, local_files_only=True
        )
    except (OSError, ValueError, RuntimeError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise CheckpointError(
            f"{folder.path}: text_encoder or tokenizer cannot be loaded ({reason})"
        ) from error
    encoder = encoder.to(device).eval()
    contexts = []
    for words in (text, ""):
        conversation = tokenizer.apply_chat_template(
            [{"role": "user", "content": words}],
            tokenize=False,
            add_generation_prompt=True,
            enable_thinking=False,
        )
        tokens = tokenizer(
            conversation, return_tensors="pt", padding="max_length", truncation=True, max_length=_WORDS
        )
        states = encoder(
            input_ids=tokens["input_ids"].to(device),
            attention_mask=tokens["attention_mask"].to(device),
            output_hidden_states=True,
            use_cache=False,
        ).hidden_states
        contexts.append(torch.cat([states[layer] for layer in _LAYERS], 2).to(dtype))  # (1, K, J)
    width = folder.transformer.get("joint_attention_dim")
    if contexts[0].shape[2] != width:
        raise CheckpointError(
            f"{folder.path}: the text encoder gives a context {contexts[0].shape[2]} wide, "
            f"the transformer takes {width}"
        )
    return Prompts(*contexts)


def prompts_of(
    folder: KleinFolder, text: str | None, dtype: torch.dtype, device: torch.device, encode_on: torch.device
) -> Prompts:
    """The prompts on `device`; no text encoder stays in memory.

    `text`: None for those in the folder's file, or `PROMPT` where it has none. Raises `ConfigError` for a text where
    there is such a file, besides what `read_prompts` and `encode_prompts` raise.
    """
    if folder.prompt_file.is_file():
        if text is not None:
            raise ConfigError(
                f"{folder.prompt_file}: this encoded prompt would take the place of restorer.klein.prompt; "
                "move the file away, or leave restorer.klein.prompt at none"
            )
        return read_prompts(folder, dtype, device)
    made = encode_prompts(folder, PROMPT if text is None else text, dtype, encode_on)
    empty = None if made.empty is None else made.empty.to(device)
    gc.collect()
    if encode_on.type == "cuda":
        torch.cuda.empty_cache()
    return Prompts(made.prompt.to(device), empty)
