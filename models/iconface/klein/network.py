"""klein's networks: its transformer under either kind of adapter, as velocities of a scene, and its autoencoder.

The codec's tokens are patches of 2 x 2 latent cells, normalised by FLUX.2's stored statistics.

Shapes: B = 1 face, S side of a picture, N = (S / 16)^2 tokens, C = 4 * latent channels, R references, E width of an
embedding, K words, J width of the context.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Protocol, TypeVar

import torch
import torch.nn.functional as F
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from torch import Tensor, nn

from models.iconface.klein.adapter import Adapter, check_shape, merge_lora
from models.iconface.klein.folder import KleinFolder, load_tensors
from models.iconface.network import IconFace, ReferenceMemory
from models.iconface.sampling import Condition, velocity
from models.iconface.shape import context_ids, pack, reference_ids, scene_ids, unpack
from models.recogniser import identity_anchor
from models.weights import CheckpointError

M = TypeVar("M", bound=nn.Module)
Velocity = Callable[[Tensor, Tensor, Tensor, Tensor], Tensor]
"""Noisy scene (1, N, C), sigma (1,), degraded tokens (1, N, C) and prompt (1, K, J) to the scene's velocity."""


class KleinNetwork(Protocol):
    """A transformer that can be conditioned on a person."""

    rows: int

    @property
    def module(self) -> nn.Module:
        """All weights."""
        ...

    def blocks(self) -> list[nn.Module]:
        """The transformer's blocks: nearly all of its weights, used one after the other."""
        ...

    def alone(self, own: Tensor) -> Velocity:
        """Without references; `own`: raw embedding (1, E) of the degraded face."""
        ...

    def seeing(self, references: Tensor, embeddings: Tensor) -> Velocity:
        """With `references`, tokens (1, R, N, C), and their raw `embeddings`, (1, R, E)."""
        ...


class OneSequence:
    """`[scene; degraded; references]`, all attending to all: what the published adapter was made for."""

    def __init__(self, transformer: Flux2Transformer2DModel, rows: int) -> None:
        self._transformer = transformer
        self.rows = rows

    def blocks(self) -> list[nn.Module]:
        return _blocks(self._transformer)

    @property
    def module(self) -> nn.Module:
        module: nn.Module = self._transformer
        return module

    def alone(self, own: Tensor) -> Velocity:
        return partial(self._velocity, None)

    def seeing(self, references: Tensor, embeddings: Tensor) -> Velocity:
        return partial(self._velocity, references)

    def _velocity(
        self, references: Tensor | None, scene: Tensor, sigma: Tensor, degraded: Tensor, prompt: Tensor
    ) -> Tensor:
        images, ids = [scene, degraded], [scene_ids(self.rows, self.rows, degraded=True)]
        if references is not None:
            images.append(references.flatten(1, 2))
            ids.append(reference_ids(references.shape[1], self.rows, self.rows))
        answer: Tensor = self._transformer(
            hidden_states=torch.cat(images, 1).to(prompt.dtype),
            encoder_hidden_states=prompt,
            timestep=sigma.to(prompt.dtype),
            img_ids=torch.cat(ids).to(scene.device),
            txt_ids=context_ids(prompt.shape[1]).to(scene.device),
            return_dict=False,
        )[0]
        return answer[:, : scene.shape[1]].float()


class Anchored:
    """With identity modulation, structure and context; keys and values of references are worked out once."""

    def __init__(self, network: IconFace) -> None:
        self._network = network
        self.rows = network.shape.rows

    def blocks(self) -> list[nn.Module]:
        return _blocks(self._network.backbone)

    @property
    def module(self) -> nn.Module:
        return self._network

    def alone(self, own: Tensor) -> Velocity:
        return partial(self._velocity, F.normalize(own, dim=1), self._network.without_references(len(own)))

    def seeing(self, references: Tensor, embeddings: Tensor) -> Velocity:
        dtype = self._network.backbone.dtype
        anchors = torch.stack([identity_anchor(each) for each in embeddings])
        memory = self._network.remember(references.to(dtype), embeddings.to(dtype))
        return partial(self._velocity, anchors, memory)

    def _velocity(
        self,
        anchors: Tensor,
        memory: ReferenceMemory,
        scene: Tensor,
        sigma: Tensor,
        degraded: Tensor,
        prompt: Tensor,
    ) -> Tensor:
        dtype = prompt.dtype
        memory = replace(memory, context=torch.cat([prompt, memory.context], 1))
        condition = Condition(anchors.to(dtype), memory)
        return velocity(
            self._network, scene.to(dtype), sigma.to(dtype), degraded.to(dtype), condition
        ).float()


def load_network(
    folder: KleinFolder, adapter: Adapter, rows: int, dtype: torch.dtype, device: torch.device
) -> KleinNetwork:
    """The folder's transformer on `device` with `adapter` in it.

    Raises `CheckpointError` for weights that do not fit their config and for an adapter of another model.
    """
    check_shape(adapter, folder.transformer)
    state = load_tensors(folder.files("transformer"), dtype, device)
    try:
        # Nothing is computed or allocated on "meta"; the tensors of the files take those places.
        with torch.device("meta"):
            transformer = Flux2Transformer2DModel.from_config(folder.transformer)
        transformer.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder.path}/transformer: the weights do not fit config.json") from error
    _freeze(transformer)
    merge_lora(transformer, adapter.changes, adapter.path)
    if adapter.shape is None:
        return OneSequence(transformer, rows)
    return Anchored(_with_modules(transformer, adapter, dtype, device))


def _with_modules(
    transformer: Flux2Transformer2DModel, adapter: Adapter, dtype: torch.dtype, device: torch.device
) -> IconFace:
    assert adapter.shape is not None
    # The prompt is put in front of the context here, as guidance needs two of them.
    shape = replace(adapter.shape, prompt=0)
    state = {f"backbone.{name}": tensor for name, tensor in transformer.state_dict().items()}
    state |= {name: tensor.to(device, dtype) for name, tensor in adapter.modules.items()}
    state["prompt"] = torch.zeros(0, shape.context, dtype=dtype, device=device)
    try:
        with torch.device("meta"):
            network = IconFace(shape)
        network.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{adapter.path}: its modules do not fit the shape in its header") from error
    return _freeze(network)


def _blocks(transformer: Flux2Transformer2DModel) -> list[nn.Module]:
    return [*transformer.transformer_blocks, *transformer.single_transformer_blocks]


def _freeze(module: M) -> M:
    module.eval().requires_grad_(False)
    return module


class KleinCodec(nn.Module):
    """Pictures to klein's tokens and back."""

    def __init__(self, autoencoder: AutoencoderKLFlux2) -> None:
        super().__init__()
        self.autoencoder = autoencoder
        statistics = autoencoder.bn
        self.register_buffer("mean", statistics.running_mean.float())
        deviation = (statistics.running_var.float() + autoencoder.config.batch_norm_eps).sqrt()
        self.register_buffer("deviation", deviation)

    def encode(self, pictures: Tensor) -> Tensor:
        """Tokens, float32 (B, N, C), of `pictures`, float32 (B, 3, S, S) in [0, 1], RGB: the mode, not drawn."""
        posterior = self.autoencoder.encode((pictures * 2 - 1).to(self.autoencoder.dtype)).latent_dist
        return (pack(posterior.mode().float()) - self.get_buffer("mean")) / self.get_buffer("deviation")

    def decode(self, tokens: Tensor, rows: int) -> Tensor:
        """Pictures, float32 (B, 3, S, S), about [0, 1] and not clipped, of tokens (B, N, C) in `rows` rows."""
        latents = unpack(tokens.float() * self.get_buffer("deviation") + self.get_buffer("mean"), rows)
        pictures: Tensor = self.autoencoder.decode(latents.to(self.autoencoder.dtype)).sample
        return pictures.float() * 0.5 + 0.5


def load_codec(folder: KleinFolder, dtype: torch.dtype, device: torch.device) -> KleinCodec:
    """The codec of a klein folder. Raises `CheckpointError` for weights that do not fit their config."""
    state = load_tensors(folder.files("vae"), dtype, device)
    # A count that only training reads; not every export has it.
    state.setdefault("bn.num_batches_tracked", torch.tensor(0))
    try:
        with torch.device("meta"):
            autoencoder = AutoencoderKLFlux2.from_config(folder.autoencoder)
        autoencoder.load_state_dict(state, assign=True)
    except (RuntimeError, TypeError, ValueError) as error:
        raise CheckpointError(f"{folder.path}/vae: the weights do not fit config.json") from error
    return KleinCodec(autoencoder).eval().requires_grad_(False)
