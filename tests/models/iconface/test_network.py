"""The flow restorer's transformer: the backbone at the start; each anchor acts where it should, and only there."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.models.transformers.transformer_flux2 import Flux2Transformer2DModel
from torch import Tensor, nn

from models.iconface.conditions import smooth
from models.iconface.network import IconFace, ReferenceMemory, stack, start_small
from models.iconface.shape import (
    KLEIN,
    IconFaceShape,
    context_ids,
    image_ids,
    pack,
    reference_ids,
    scene_ids,
    unpack,
)
from models.recogniser import identity_anchor

SMALL = IconFaceShape(
    heads=2,
    head_width=16,
    double_blocks=2,
    single_blocks=2,
    rotary=(4, 4, 4, 4),
    channels=8,
    rows=4,
    context=12,
    high_tokens=2,
    low_tokens=3,
    embedding=6,
    identity_width=16,
    rank=4,
    memory=6,
    memory_width=16,
    read_width=8,
)
TOKENS = SMALL.rows**2


def network(seed: int = 0) -> IconFace:
    torch.manual_seed(seed)
    return IconFace(SMALL).eval()


def trained(seed: int = 0) -> IconFace:
    """A network in which nothing is zero any more."""
    result = network(seed)
    for parameter in result.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    return result


def drawn(*shape: int, seed: int = 1) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


SCENE, DEGRADED = drawn(2, TOKENS, 8, seed=1), drawn(2, TOKENS, 8, seed=2)
REFERENCES, EMBEDDINGS = drawn(2, 3, TOKENS, 8, seed=3), drawn(2, 3, 6, seed=4)
ANCHORS = nn.functional.normalize(drawn(2, 6, seed=5), dim=1)
SIGMA = torch.tensor([0.9, 0.4])


def plain(
    backbone: Flux2Transformer2DModel, images: Tensor, context: Tensor, ids: Tensor, **more: Any
) -> Tensor:
    """diffusers' own way through the backbone."""
    answer: Tensor = backbone(
        images, context, SIGMA, ids, context_ids(context.shape[1]), return_dict=False, **more
    )[0]
    return answer


@torch.inference_mode()
def test_at_the_start_the_network_is_the_backbone_on_the_same_sequence() -> None:
    net = network()
    memory = net.without_references(2)
    ids = scene_ids(4, 4, degraded=True)
    expected = plain(net.backbone, torch.cat([SCENE, DEGRADED], 1), memory.context, ids)[:, :TOKENS]
    assert torch.allclose(net(SCENE, SIGMA, DEGRADED, ANCHORS, memory), expected, atol=1e-5)


@torch.inference_mode()
def test_kept_reference_keys_equal_one_pass_over_the_whole_sequence() -> None:
    """One pass of diffusers' own with [references; scene; degraded] against ours with remembered keys."""
    net = network()
    memory = net.remember(REFERENCES, EMBEDDINGS)
    ids = torch.cat([reference_ids(3, 4, 4), scene_ids(4, 4, degraded=True)])
    expected = plain(
        net.backbone,
        torch.cat([REFERENCES.flatten(1, 2), SCENE, DEGRADED], 1),
        memory.context,
        ids,
        kv_cache_mode="extract",
        num_ref_tokens=3 * TOKENS,
    )[:, :TOKENS]
    assert torch.allclose(net(SCENE, SIGMA, DEGRADED, ANCHORS, memory), expected, atol=1e-5)


@torch.inference_mode()
def test_without_references_their_tokens_are_not_there() -> None:
    memory = network().without_references(2)
    assert memory.keys == ()
    assert memory.context.shape == (2, 5, 12)


@torch.inference_mode()
def test_each_part_changes_the_answer_once_it_is_trained() -> None:
    net = trained()
    memory = net.without_references(2)
    answer = net(SCENE, SIGMA, DEGRADED, ANCHORS, memory)
    others = {
        "anchor": net(SCENE, SIGMA, DEGRADED, -ANCHORS, memory),
        "degraded": net(SCENE, SIGMA, DEGRADED + 0.1, ANCHORS, memory),
        "no degraded": net(SCENE, SIGMA, None, ANCHORS, memory),
        "references": net(SCENE, SIGMA, DEGRADED, ANCHORS, net.remember(REFERENCES, EMBEDDINGS)),
        "sigma": net(SCENE, SIGMA / 2, DEGRADED, ANCHORS, memory),
    }
    for part in (net.residual.up, *(read.value[1] for read in net.reads)):
        kept = part.weight.clone()
        part.weight.zero_()
        others[str(part)] = net(SCENE, SIGMA, DEGRADED, ANCHORS, memory)
        part.weight.copy_(kept)
        assert not torch.allclose(others[str(part)], answer, atol=1e-5)
    for name, other in others.items():
        assert not torch.allclose(other, answer, atol=1e-4), name


def modulations(net: IconFace, anchors: Tensor) -> dict[str, list[Tensor]]:
    """What the blocks are modulated with: `context` and `image` parts."""
    seen: dict[str, list[Tensor]] = {"context": [], "image": []}

    def double(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        seen["context"].append(keywords["temb_mod_txt"])
        seen["image"].append(keywords["temb_mod_img"])

    def single(module: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]) -> None:
        seen["context"].append(keywords["temb_mod"][:, :5])
        seen["image"].append(keywords["temb_mod"][:, 5:])

    hooks = [
        block.register_forward_pre_hook(double, with_kwargs=True) for block in net.backbone.transformer_blocks
    ]
    hooks += [
        block.register_forward_pre_hook(single, with_kwargs=True)
        for block in net.backbone.single_transformer_blocks
    ]
    with torch.inference_mode():
        net(SCENE, SIGMA, DEGRADED, anchors, net.without_references(2))
    for hook in hooks:
        hook.remove()
    return seen


def test_the_anchor_modulates_image_tokens_in_all_blocks_and_never_the_context() -> None:
    net = trained()
    one, other = modulations(net, ANCHORS), modulations(net, -ANCHORS)
    assert len(one["context"]) == len(one["image"]) == 4
    for first, second in zip(one["context"], other["context"], strict=True):
        assert torch.equal(first, second)
    for first, second in zip(one["image"], other["image"], strict=True):
        assert not torch.allclose(first, second, atol=1e-4)
    # In single blocks all image tokens, and each alike.
    assert torch.equal(one["image"][-1][:, 0], one["image"][-1][:, -1])


@torch.inference_mode()
def test_references_keep_their_order_by_place_and_the_memory_by_person() -> None:
    """Reference r is told by its place: swapped, the keys are others; a batch holds each person's own."""
    net = trained()
    both = net.remember(REFERENCES, EMBEDDINGS)
    swapped = net.remember(REFERENCES.flip(1), EMBEDDINGS.flip(1))
    assert not torch.allclose(both.keys[0], swapped.keys[0].roll(TOKENS, 1), atol=1e-4)
    alone = [net.remember(REFERENCES[k : k + 1], EMBEDDINGS[k : k + 1]) for k in range(2)]
    stacked = stack(alone)
    for one, other in zip(
        (both.context, *both.keys, *both.values),
        (stacked.context, *stacked.keys, *stacked.values),
        strict=True,
    ):
        assert torch.allclose(one, other, atol=1e-5)


@torch.inference_mode()
def test_faces_of_a_batch_do_not_mix() -> None:
    net = trained()
    memory = net.remember(REFERENCES, EMBEDDINGS)
    together = net(SCENE, SIGMA, DEGRADED, ANCHORS, memory)
    for k in range(2):
        own = slice(k, k + 1)
        alone = net.remember(REFERENCES[own], EMBEDDINGS[own])
        answer = net(SCENE[own], SIGMA[own], DEGRADED[own], ANCHORS[own], alone)
        assert torch.allclose(answer, together[own], atol=1e-5)


def test_the_loss_reaches_the_references_through_their_keys() -> None:
    net = trained()
    references = REFERENCES.clone().requires_grad_()
    memory = net.remember(references, EMBEDDINGS)
    keys_only = ReferenceMemory(memory.context.detach(), memory.keys, memory.values)
    net(SCENE, SIGMA, DEGRADED, ANCHORS, keys_only).sum().backward()
    assert references.grad is not None
    assert references.grad.abs().sum((2, 3)).min() > 0


def test_places_are_those_of_the_paper() -> None:
    assert image_ids(2, 2, 3).tolist() == [
        [2, 0, 0, 0], [2, 0, 1, 0], [2, 0, 2, 0], [2, 1, 0, 0], [2, 1, 1, 0], [2, 1, 2, 0],
    ]  # fmt: skip
    assert scene_ids(2, 2, degraded=True)[:, 0].tolist() == [0, 0, 0, 0, 2, 2, 2, 2]
    assert scene_ids(2, 2, degraded=False)[:, 0].tolist() == [0, 0, 0, 0]
    assert reference_ids(3, 1, 2)[:, 0].tolist() == [10, 10, 11, 11, 12, 12]
    assert reference_ids(0, 1, 2).shape == (0, 4)
    assert context_ids(3).tolist() == [[0, 0, 0, 0], [0, 0, 0, 1], [0, 0, 0, 2]]
    assert network().backbone.pos_embed.theta == 2000


def test_tokens_are_packed_as_flux_packs_them() -> None:
    """Channel c, row i and column j of a square of 2 x 2 go to channel 4c + 2i + j."""
    latents = drawn(2, 3, 4, 6)
    tokens = pack(latents)
    assert tokens.shape == (2, 6, 12)
    assert tokens[1, 4, 4 * 2 + 2 * 1 + 0] == latents[1, 2, 3, 2]
    assert tokens[0, 2, 4 * 1 + 2 * 0 + 1] == latents[0, 1, 0, 5]
    assert torch.equal(unpack(pack(latents), 2), latents)


def test_anchor_weighs_by_norm() -> None:
    """Norms 3 and 1 at T = 1: weights 3/4 and 1/4; at T = 0.5: 9/10 and 1/10."""
    views = torch.tensor([[3.0, 0.0], [0.0, 1.0]])
    assert torch.allclose(identity_anchor(views), torch.tensor([3.0, 1.0]) / 10**0.5)
    assert torch.allclose(identity_anchor(views, 0.5), torch.tensor([9.0, 1.0]) / 82**0.5)


def test_detail_is_what_smoothing_takes_away() -> None:
    """A lone 9 among zeros becomes 1 around its place in the middle, and 9/4 seen from the corner."""
    middle = torch.zeros(1, 16, 1)
    middle[0, 5] = 9
    assert smooth(middle, 4)[0, :, 0].reshape(4, 4)[1].tolist() == [1.5, 1.0, 1.0, 0.0]
    assert float(smooth(middle, 4)[0, 0, 0]) == 9 / 4
    assert torch.allclose(smooth(torch.ones(1, 16, 1), 4), torch.ones(1, 16, 1))


@torch.inference_mode()
def test_detail_route_does_not_see_what_is_smooth_and_the_base_route_does() -> None:
    net = trained()
    flat, brighter = torch.ones(1, TOKENS, 8), 2 * torch.ones(1, TOKENS, 8)
    one, other = net.memory(flat, 4), net.memory(brighter, 4)
    assert one.shape == (1, 6, 16)
    assert not torch.allclose(one[:, :3], other[:, :3], atol=1e-3)
    assert torch.allclose(one[:, 3:], other[:, 3:], atol=1e-5)


@torch.inference_mode()
def test_context_holds_embedding_and_looks_of_each_reference() -> None:
    context = network().context
    whole = context(REFERENCES, EMBEDDINGS)
    assert whole.shape == (2, 15, 12)
    other_person = EMBEDDINGS.clone()
    other_person[:, 1] += 1
    changed = (context(REFERENCES, other_person) - whole).abs().amax((0, 2)) > 1e-5
    assert changed.tolist() == 5 * [False] + 2 * [True] + 8 * [False]
    other_looks = REFERENCES.clone()
    other_looks[:, 2] += 1
    changed = (context(other_looks, EMBEDDINGS) - whole).abs().amax((0, 2)) > 1e-5
    assert changed.tolist() == 12 * [False] + 3 * [True]
    # Only the direction says who it is.
    assert torch.allclose(context(REFERENCES, 3 * EMBEDDINGS), whole, atol=1e-5)


@torch.inference_mode()
def test_a_prompt_stands_before_the_references() -> None:
    net = trained()
    memory = net.without_references(2)
    answer = net(SCENE, SIGMA, DEGRADED, ANCHORS, memory)
    net.prompt = drawn(4, 12)
    words = []
    net.backbone.context_embedder.register_forward_pre_hook(
        lambda module, arguments: words.append(arguments[0])
    )
    assert not torch.allclose(net(SCENE, SIGMA, DEGRADED, ANCHORS, memory), answer, atol=1e-4)
    assert torch.equal(words[0][:, :4], net.prompt.expand(2, -1, -1))
    assert torch.equal(words[0][:, 4:], memory.context)


def test_training_begins_with_closed_gates() -> None:
    net = network()
    start_small(net)
    with torch.inference_mode():
        assert not net(SCENE, SIGMA, DEGRADED, ANCHORS, net.without_references(2)).any()


def test_klein_is_flux_2_klein_4b() -> None:
    """3.88 billion parameters with the published widths; the adapters are a few percent of it."""
    with torch.device("meta"):
        net = IconFace(KLEIN)
    count = sum(parameter.numel() for parameter in net.backbone.parameters())
    own = sum(parameter.numel() for parameter in net.parameters()) - count
    assert count == pytest.approx(3.88e9, rel=0.01)
    assert own < 0.05 * count


def test_rotary_channels_must_fill_a_head() -> None:
    with pytest.raises(ValueError, match="do not add up"):
        IconFace(IconFaceShape(rotary=(8, 8, 8, 8)))
