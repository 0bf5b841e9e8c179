"""The transformer: FLUX.2's, with the identity and the structure anchor attached.

The backbone is diffusers' own class at both sizes, with its blocks and its attention with kept reference keys; only the
forward pass is ours. Reference tokens attend only to each other and are modulated as at sigma 0, so their keys and
values depend on the references alone: `remember` computes them for every step and every frame.

Shapes: B faces, N tokens of a picture, C token channels, R references, E width of an embedding, K context
tokens, J width of the context, D width of the transformer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from diffusers.models.transformers.transformer_flux2 import (
    Flux2KVAttnProcessor,
    Flux2KVLayerCache,
    Flux2KVParallelSelfAttnProcessor,
    Flux2Transformer2DModel,
)
from torch import Tensor, nn

from models.iconface.conditions import (
    Before,
    CompositeContext,
    IdentityModulation,
    InputResidual,
    StructureRead,
    TokenRecurrence,
    TwoRouteMemory,
)
from models.iconface.shape import IconFaceShape, context_ids, reference_ids, scene_ids


@dataclass(frozen=True, slots=True, eq=False)
class ReferenceMemory:
    """What is kept of the references of a batch; the same for every step and every frame."""

    context: Tensor
    """(B, R * K, J) Composite Context, or the null one, (B, K, J)."""
    keys: tuple[Tensor, ...] = ()
    """For each block, double ones first, (B, R * N, heads, head width), turned by their places."""
    values: tuple[Tensor, ...] = ()

    def caches(self) -> list[Flux2KVLayerCache]:
        """As diffusers' attention takes them, one for each block; empty without references."""
        caches = []
        for key, value in zip(self.keys, self.values, strict=True):
            cache = Flux2KVLayerCache()
            cache.store(key, value)
            caches.append(cache)
        return caches


def stack(memories: list[ReferenceMemory]) -> ReferenceMemory:
    """The memories of several faces as those of one batch; all must hold equally many references."""
    return ReferenceMemory(
        torch.cat([memory.context for memory in memories]),
        tuple(torch.cat(keys) for keys in zip(*(memory.keys for memory in memories), strict=True)),
        tuple(torch.cat(values) for values in zip(*(memory.values for memory in memories), strict=True)),
    )


class IconFace(nn.Module):
    """Noisy scene tokens, degraded tokens, anchor and references in; the backbone's answer out."""

    def __init__(self, shape: IconFaceShape) -> None:
        super().__init__()
        self.shape = shape
        tokens, blocks = shape.rows**2, shape.double_blocks + shape.single_blocks
        self.backbone = _backbone(shape)
        self.identity = IdentityModulation(shape.embedding, shape.identity_width, shape.width)
        self.residual = InputResidual(shape.channels, shape.rank, shape.width)
        self.memory = TwoRouteMemory(shape.channels, tokens, shape.memory, shape.memory_width)
        self.reads = nn.ModuleList(
            StructureRead(shape.width, shape.memory_width, shape.rank, shape.read_width)
            for _ in range(blocks)
        )
        self.context = CompositeContext(
            shape.embedding, shape.channels, tokens, shape.high_tokens, shape.low_tokens, shape.context
        )
        self.register_buffer("prompt", torch.zeros(shape.prompt, shape.context))
        if shape.previous and not shape.clean:
            raise ValueError("the previous face takes part only where the answer is the clean face's offset")
        self.recurrence = TokenRecurrence(shape.channels, shape.width) if shape.previous else None

    def forward(
        self,
        scene: Tensor,
        sigma: Tensor,
        degraded: Tensor | None,
        anchors: Tensor,
        memory: ReferenceMemory,
        before: Before | None = None,
    ) -> Tensor:
        """The answer for each scene token, float32 (B, N, C); `flow.velocity` says what it means.

        `scene`: noisy tokens (B, N, C). `sigma`: (B,) in [0, 1]. `degraded`: tokens (B, N, C), or None: then
        they are removed from the sequence and the structure anchor rests. `anchors`: (B, E), unit length.
        `before`: the previous restoration; ignored without `shape.previous` or `degraded`. Without it the sequence has
        no such group.
        """
        backbone, tokens = self.backbone, scene.shape[1]
        recurrence = None if before is None or degraded is None else self.recurrence
        time = backbone.time_guidance_embed(sigma * 1000, None)  # (B, D)
        double_shift, single_shift = self.identity(anchors)
        images = backbone.x_embedder(scene if degraded is None else torch.cat([scene, degraded], 1))
        if recurrence is not None and before is not None:
            group = recurrence.gated(backbone.x_embedder(before.tokens), before.gate)
            images = torch.cat([images, group], 1)
        structure = None
        if degraded is not None:
            images = _added(images, self.residual(degraded), tokens)
            structure = self.memory(degraded, self.shape.rows)  # (B, M, W)
        context = self._with_prompt(memory.context)
        ids = scene_ids(
            self.shape.rows,
            tokens // self.shape.rows,
            degraded=degraded is not None,
            previous=recurrence is not None,
        )
        places = self._places(torch.cat([context_ids(context.shape[1]), ids]), scene)
        context = backbone.context_embedder(context)
        caches = memory.caches()

        double_image = backbone.double_stream_modulation_img(time) + double_shift  # (B, 6D)
        double_context = backbone.double_stream_modulation_txt(time)  # (B, 6D)
        for index, block in enumerate(backbone.transformer_blocks):
            images = self._read(index, images, structure, tokens)
            context, images = block(
                hidden_states=images,
                encoder_hidden_states=context,
                temb_mod_img=double_image,
                temb_mod_txt=double_context,
                image_rotary_emb=places,
                joint_attention_kwargs=_cached(caches, index),
            )

        words, doubles = context.shape[1], len(backbone.transformer_blocks)
        single_context = backbone.single_stream_modulation(time)[:, None]  # (B, 1, 3D)
        single = torch.cat(
            [
                single_context.expand(-1, words, -1),
                (single_context + single_shift[:, None]).expand(-1, images.shape[1], -1),
            ],
            1,
        )  # (B, K + images, 3D)
        sequence = torch.cat([context, images], 1)
        for index, block in enumerate(backbone.single_transformer_blocks):
            sequence = self._read(doubles + index, sequence, structure, tokens, words)
            sequence = block(
                hidden_states=sequence,
                encoder_hidden_states=None,
                temb_mod=single,
                image_rotary_emb=places,
                joint_attention_kwargs=_cached(caches, doubles + index) | {"num_txt_tokens": words},
            )
        hidden = backbone.norm_out(sequence[:, words : words + tokens], time)
        answer: Tensor = backbone.proj_out(hidden)
        if recurrence is not None and before is not None and degraded is not None:
            answer = recurrence.corrected(answer, hidden, before, degraded)
        return answer

    def remember(self, references: Tensor, embeddings: Tensor) -> ReferenceMemory:
        """Context, keys and values of clean `references`, tokens (B, R, N, C), with raw `embeddings` (B, R, E)."""
        backbone, (count, views, tokens, _) = self.backbone, references.shape
        time = backbone.time_guidance_embed(references.new_zeros(count), None)
        images = backbone.x_embedder(references.flatten(1, 2))  # (B, R * N, D)
        places = self._places(reference_ids(views, self.shape.rows, tokens // self.shape.rows), references)
        nothing = images[:, :0]
        kept = [Flux2KVLayerCache() for _ in self.reads]
        keep = {"kv_cache_mode": "extract", "num_ref_tokens": views * tokens}

        image_modulation = backbone.double_stream_modulation_img(time)
        for cache, block in zip(kept, backbone.transformer_blocks, strict=False):
            _, images = block(
                hidden_states=images,
                encoder_hidden_states=nothing,
                temb_mod_img=image_modulation,
                temb_mod_txt=image_modulation,
                image_rotary_emb=places,
                joint_attention_kwargs=keep | {"kv_cache": cache},
            )
        singles = kept[len(backbone.transformer_blocks) :]
        for cache, block in zip(singles, backbone.single_transformer_blocks, strict=True):
            images = block(
                hidden_states=images,
                encoder_hidden_states=None,
                temb_mod=backbone.single_stream_modulation(time),
                image_rotary_emb=places,
                joint_attention_kwargs=keep | {"kv_cache": cache},
            )
        pairs = [cache.get() for cache in kept]
        return ReferenceMemory(
            self.context(references, embeddings),
            tuple(key for key, _ in pairs),
            tuple(value for _, value in pairs),
        )

    def without_references(self, count: int) -> ReferenceMemory:
        """The memory of `count` faces without references: the null context and no keys."""
        return ReferenceMemory(self.context.without(count))

    def _with_prompt(self, context: Tensor) -> Tensor:
        prompt = self.get_buffer("prompt").to(context)
        return torch.cat([prompt.expand(len(context), -1, -1), context], 1)

    def _read(
        self, index: int, images: Tensor, structure: Tensor | None, tokens: int, before: int = 0
    ) -> Tensor:
        """`images` after the scene's tokens, which start at `before`, have read the degraded face."""
        if structure is None:
            return images
        read = self.reads[index](images[:, before : before + tokens], structure)
        return _added(images, read, tokens, before)

    def _places(self, ids: Tensor, like: Tensor) -> tuple[Tensor, Tensor]:
        cosine, sine = self.backbone.pos_embed(ids.to(like.device))
        return cosine, sine


def _added(images: Tensor, change: Tensor, tokens: int, before: int = 0) -> Tensor:
    """`images` with `change` added to the `tokens` tokens that start at `before`."""
    return torch.cat(
        [
            images[:, :before],
            images[:, before : before + tokens] + change,
            images[:, before + tokens :],
        ],
        1,
    )


def _cached(caches: list[Flux2KVLayerCache], index: int) -> dict[str, Any]:
    return {"kv_cache_mode": "cached", "kv_cache": caches[index]} if caches else {}


def _backbone(shape: IconFaceShape) -> Flux2Transformer2DModel:
    if sum(shape.rotary) != shape.head_width:
        raise ValueError(f"rotary channels {shape.rotary} do not add up to {shape.head_width = }")
    backbone = Flux2Transformer2DModel(
        in_channels=shape.channels,
        num_layers=shape.double_blocks,
        num_single_layers=shape.single_blocks,
        attention_head_dim=shape.head_width,
        num_attention_heads=shape.heads,
        joint_attention_dim=shape.context,
        axes_dims_rope=shape.rotary,
        rope_theta=2000,
        guidance_embeds=False,
    )
    for block in backbone.transformer_blocks:
        block.attn.set_processor(Flux2KVAttnProcessor())
    for block in backbone.single_transformer_blocks:
        block.attn.set_processor(Flux2KVParallelSelfAttnProcessor())
    return backbone


def start_small(network: IconFace) -> None:
    """Zeroes gates and answer, as training from nothing begins best (DiT, arXiv 2212.09748, adaLN-Zero)."""
    backbone = network.backbone
    for linear in (
        backbone.double_stream_modulation_img.linear,
        backbone.double_stream_modulation_txt.linear,
        backbone.single_stream_modulation.linear,
        backbone.norm_out.linear,
        backbone.proj_out,
    ):
        nn.init.zeros_(linear.weight)
