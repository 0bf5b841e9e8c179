"""`klein` restores: codec, sequence, steps, guidance, and each result from its own request alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_flux2 import AutoencoderKLFlux2
from torch import Tensor

from models.iconface.klein import KleinRestorer
from models.iconface.klein.folder import KleinFolder, Prompts, save_prompts
from models.iconface.klein.network import Anchored, OneSequence, load_codec
from models.iconface.sampling import fixed_noise, klein_shift, sigmas
from models.iconface.settings import KleinSettings
from models.protocols import References, Request
from pipeline.build import build_restorer
from pipeline.config import RestorerConfig
from support.tiny_klein import (
    CONTEXT,
    CPU,
    ROWS,
    WORDS,
    crop,
    drawn,
    references,
    restorer,
    write_model,
)


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
    assert (base.steps, base.guidance) == (12, 4.0)
    seen = sequences(base)
    base.restore([Request(crop(0), References())])
    assert len(seen) == 2 * 12
    usual = restorer(model)
    assert (usual.steps, usual.guidance) == (4, 1.0)
    # What is not given stays as the model was made for.
    fewer = restorer(tmp_path / "undistilled", steps=3)
    assert (fewer.steps, fewer.guidance) == (3, 4.0)
    guided = restorer(model, guidance=2.0)
    assert (guided.steps, guided.guidance) == (4, 2.0)


# Restoring


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
    half = KleinRestorer(KleinSettings(str(model), adapter), crop_size=64)
    assert {each.dtype for each in half.network.module.parameters()} == {torch.bfloat16}
    difference = (half.restore([request])[0].image.float() - exact.float()).abs()
    assert float(difference.mean()) < 4


@pytest.mark.parametrize("wrong", [torch.zeros(3, 64, 64), torch.zeros(3, 32, 64, dtype=torch.uint8)])
def test_a_crop_of_another_form_is_refused(model: Path, wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="crop must be uint8"):
        restorer(model).restore([Request(wrong, References())])


def test_crops_are_512_pixels_wide_unless_a_test_says_otherwise(model: Path, published: Path) -> None:
    assert KleinRestorer(KleinSettings(str(model), published)).needs.crop_size == 512


def test_the_settings_name_model_and_adapter(model: Path, published: Path, own: Path) -> None:
    for adapter, kind in ((published, OneSequence), (own, Anchored), (None, OneSequence)):
        made = build_restorer(RestorerConfig("klein", "cpu", klein=KleinSettings(str(model), adapter)))
        assert isinstance(made, KleinRestorer)
        assert isinstance(made.network, kind)
        assert made.needs.references


def test_the_settings_say_how_a_face_is_drawn(model: Path, own: Path) -> None:
    settings = KleinSettings(str(model), own, steps=2, guidance=3.0)
    made = build_restorer(RestorerConfig("klein", "cpu", seed=7, klein=settings))
    assert isinstance(made, KleinRestorer)
    assert (made.steps, made.guidance) == (2, 3.0)
    assert torch.equal(made.noise, fixed_noise(7, *made.noise.shape[1:]))


def test_without_an_adapter_a_warning_says_so(model: Path, caplog: pytest.LogCaptureFixture) -> None:
    restorer(model)
    assert "without an adapter" in caplog.text
