"""A klein model as it lies on the hub, and adapters for it, so small that they run in a blink."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from safetensors.torch import save_file
from torch import Tensor, nn

from models.iconface.klein import KleinRestorer
from models.iconface.klein.adapter import save_adapter
from models.iconface.klein.folder import Prompts, save_prompts
from models.iconface.network import IconFace
from models.iconface.settings import SEED, KleinSettings
from models.iconface.shape import IconFaceShape
from models.protocols import References

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


def write_own(path: Path) -> None:
    """An adapter of ours in which nothing is zero."""
    torch.manual_seed(5)
    network = IconFace(SHAPE)
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    save_adapter(path, network, lora(), 7)


def with_text_encoder(path: Path) -> None:
    (path / "prompt.safetensors").unlink()
    (path / "text_encoder").mkdir()
    save_file({"weight": torch.zeros(1000)}, path / "text_encoder" / "model.safetensors")


def restorer(
    model: Path | str, adapter: Path | None = None, seed: int = SEED, **settings: Any
) -> KleinRestorer:
    chosen = KleinSettings(str(model), adapter, **settings)
    return KleinRestorer(chosen, seed=seed, crop_size=16 * ROWS, dtype=torch.float32)


def crop(seed: int) -> Tensor:
    small = np.random.default_rng(seed).integers(0, 256, (3, 8, 8), np.uint8)
    return torch.from_numpy(np.kron(small, np.ones((1, 8, 8), np.uint8)))


def references(*seeds: int, version: int = 1) -> References:
    embeddings = torch.stack([(1 + seed) * F.normalize(drawn(128, seed=seed), dim=0) for seed in seeds])
    return References(tuple(crop(100 + seed) for seed in seeds), embeddings, version)
