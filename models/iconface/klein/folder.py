"""A klein model's folder as the hub lays it out, and the weights in it; nothing is fetched from the network.

    model_index.json                    whether the model is distilled to few steps
    transformer/, vae/                  config.json and safetensors, whole or in parts
    text_encoder/, tokenizer/           needed for the prompt,
    prompt.safetensors                  unless it lies here, encoded before

Everything here raises `CheckpointError` where something is missing or does not fit.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.weights import CheckpointError

PROMPT_FILE = "prompt.safetensors"
TRANSFORMER = "Flux2Transformer2DModel"
AUTOENCODER = "AutoencoderKLFlux2"


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
