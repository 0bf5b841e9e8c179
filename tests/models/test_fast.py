"""`fast`: the shipped weights help, references are used, and company changes nothing."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from models.degradation.stills import MODERATE, SEVERE, Preset, preset_sample
from models.fast.network import FastNetwork, FastShape
from models.fast.restorer import SMALLER, FastRestorer, build_fast
from models.pictures import Picture, recogniser_crop
from models.protocols import References, Request
from models.recogniser import EmbeddedRecogniser, identity_anchor
from models.weights import EMBEDDED, CheckpointError, load_embedded, load_state
from support.portraits import aligned_astronaut, crop, psnr, references


@pytest.fixture(scope="module")
def restorer() -> FastRestorer:
    return FastRestorer()


@pytest.fixture(scope="module")
def target() -> Picture:
    return aligned_astronaut()


@pytest.mark.parametrize("preset", [MODERATE, SEVERE], ids=["moderate", "severe"])
def test_restored_face_is_closer_to_the_original_than_the_degraded(
    restorer: FastRestorer, target: Picture, preset: Preset
) -> None:
    degraded = [crop(preset_sample(target, seed, preset, None)) for seed in range(4)]
    restored = restorer.restore([Request(image, References()) for image in degraded])
    before = np.mean([psnr(image, target) for image in degraded])
    after = np.mean([psnr(result.image, target) for result in restored])
    assert after > before + 0.2, (before, after)


def test_result_is_the_same_alone_and_in_a_batch(restorer: FastRestorer, target: Picture) -> None:
    requests = [
        Request(crop(preset_sample(target, 1, MODERATE, 0.5)), References()),
        Request(crop(preset_sample(target, 2, SEVERE, 0.5)), references(target)),
        Request(crop(target), References()),
    ]
    together = restorer.restore(requests)
    for request, result in zip(requests, together, strict=True):
        assert torch.equal(restorer.restore([request])[0].image, result.image)


def test_result_is_that_of_the_network_as_trained(restorer: FastRestorer, target: Picture) -> None:
    """Packing changes no code value by more than one."""
    request = Request(crop(preset_sample(target, 3, SEVERE, 0.7)), References())
    trained = build_fast(load_embedded("fast"))
    with torch.inference_mode():
        expected = (
            trained(request.crop[None].float() / 255, torch.zeros(1, 128))[0].mul(255).round().clamp(0, 255)
        )
    difference = restorer.restore([request])[0].image.float() - expected
    assert float(difference.abs().max()) <= 1


def test_network_results_do_not_mix_within_a_batch(restorer: FastRestorer, target: Picture) -> None:
    """The network itself, as a GPU runs it in one batch: within one code value."""
    crops = torch.stack([crop(preset_sample(target, seed, MODERATE, 0.7)) for seed in range(3)]).float() / 255
    anchors = torch.nn.functional.normalize(torch.randn(3, 128, generator=torch.Generator().manual_seed(0)))
    with torch.inference_mode():
        together = restorer.network(crops, anchors)
        alone = torch.cat([restorer.network(crops[k : k + 1], anchors[k : k + 1]) for k in range(3)])
    assert float((together - alone).abs().max()) <= 1 / 255


def test_a_reference_changes_the_result(restorer: FastRestorer, target: Picture) -> None:
    degraded = crop(preset_sample(target, 2, SEVERE, 0.5))
    without, using = restorer.restore(
        [Request(degraded, References()), Request(degraded, references(target))]
    )
    assert not torch.equal(without.image, using.image)


def test_embeddings_that_say_nothing_equal_no_references(restorer: FastRestorer, target: Picture) -> None:
    degraded = crop(preset_sample(target, 2, SEVERE, 0.5))
    empty = References(crops=(crop(target),), embeddings=torch.zeros(1, 128), version=1)
    without, using = restorer.restore([Request(degraded, References()), Request(degraded, empty)])
    assert torch.equal(without.image, using.image)


def test_anchor_prefers_the_clearer_view() -> None:
    clear, poor = 10 * torch.eye(4)[0], 2 * torch.eye(4)[1]
    anchor = identity_anchor(torch.stack([clear, poor]))
    assert torch.allclose(anchor, torch.nn.functional.normalize(clear + poor, dim=0), atol=1e-6)
    assert float(identity_anchor(torch.stack([clear, poor]), temperature=0.5)[0]) > float(anchor[0])


def shallow_network() -> FastNetwork:
    torch.manual_seed(0)
    shape = FastShape(
        widths=(8, 8, 8, 8), encoder_depths=(1, 0, 0), middle_depth=0, decoder_depths=(1, 0, 0), grain=True
    )
    network = FastNetwork(shape).eval()
    torch.nn.init.normal_(network.leave.weight, std=0.1)
    torch.nn.init.normal_(network.place, std=1.0)
    return network


@pytest.mark.parametrize("side", [256, 512])
def test_parts_are_restored_like_the_whole_crop_away_from_their_edges(side: int) -> None:
    """Training sees parts with their corner; the place in the face must be the same."""
    network = shallow_network()
    picture = torch.rand(1, 3, side, side)
    anchor = torch.zeros(1, 128)
    with torch.inference_mode():
        whole = network(picture, anchor)[:, :, 64:192, 96:224]
        part = network(picture[:, :, 64:192, 96:224], anchor, corners=torch.tensor([[96, 64]]), side_px=side)
        elsewhere = network(
            picture[:, :, 64:192, 96:224], anchor, corners=torch.tensor([[0, 0]]), side_px=side
        )
    inner = (..., slice(48, 80), slice(48, 80))
    assert torch.allclose(whole[inner], part[inner], atol=1e-4)
    assert not torch.allclose(whole[inner], elsewhere[inner], atol=1e-2)


def test_texture_grows_out_of_noise_that_stays_where_it_is() -> None:
    network = shallow_network()
    flat, anchor = torch.full((1, 3, 256, 256), 0.5), torch.zeros(1, 128)
    torch.nn.init.zeros_(network.place)
    with torch.inference_mode():
        first, again = network(flat, anchor), network(flat, anchor)
        network.grain.zero_()
        without = network(flat, anchor)
    inner = (..., slice(64, 192), slice(64, 192))
    assert torch.equal(first, again)
    grown = (first - without)[inner]
    assert float(grown.std()) > 0.1
    assert float((grown - grown.roll(4, 3)).std()) > 0.1  # no pattern of the network's cells


def test_a_large_crop_is_the_same_place_in_the_face() -> None:
    """The learned map and the coordinates are stretched over a crop of 512."""
    network = shallow_network()
    with torch.inference_mode():
        small, large = (
            network(torch.full((1, 3, side, side), 0.5), torch.zeros(1, 128)) for side in (256, 512)
        )
    network.grain.zero_()
    reduced = torch.nn.functional.avg_pool2d(large, 32)
    here = float((reduced - torch.nn.functional.avg_pool2d(small, 16)).abs().mean())
    elsewhere = float((reduced - torch.nn.functional.avg_pool2d(small, 16).flip(2, 3)).abs().mean())
    assert here < 0.6 * elsewhere


@pytest.mark.parametrize("side", [192, 256, 512])
def test_a_crop_of_any_size_spans_the_whole_face(side: int) -> None:
    network = shallow_network()
    seen = []
    network.enter.register_forward_pre_hook(lambda module, given: seen.append(given[0][:, 48:50]))
    flat, anchor = torch.full((1, 3, side, side), 0.5), torch.zeros(1, 128)
    with torch.inference_mode():
        network.place.zero_()
        without = network(flat, anchor)
        network.place[..., 13:, 13:] = 5  # the lower right of the map is the lower right of the crop
        change = (network(flat, anchor) - without).abs().mean(1)[0]
    where = seen[0]
    assert torch.allclose(where, -where.flip(2, 3), atol=1e-6)
    assert float(where.max()) == pytest.approx(1 - 4 / side, abs=1e-5)
    part = side * 5 // 8
    assert change[part:, part:].mean() > 20 * change[:part, :part].mean()
    assert change[part:, part:].mean() > 1e-3


def test_both_sizes_of_crops_are_restored(target: Picture) -> None:
    large = cv2.resize(target, (512, 512), interpolation=cv2.INTER_CUBIC)
    restorer = FastRestorer(crop_size=512)
    result = restorer.restore([Request(crop(large), References())])[0]
    assert tuple(result.image.shape) == (3, 512, 512)
    assert float((result.image.float() - crop(large).float()).abs().mean()) < 12
    with pytest.raises(ValueError, match=r"crop must be uint8 \(3, 512, 512\)"):
        restorer.restore([Request(crop(target), References())])
    with pytest.raises(ValueError, match="crop_size must be one of"):
        FastRestorer(crop_size=384)


@pytest.mark.parametrize("wrong", [torch.zeros(3, 256, 256), torch.zeros(3, 128, 128, dtype=torch.uint8)])
def test_a_crop_of_another_form_is_refused(restorer: FastRestorer, wrong: Tensor) -> None:
    with pytest.raises(ValueError, match="crop must be uint8"):
        restorer.restore([Request(wrong, References())])


@pytest.mark.parametrize("side", [256, 512])
def test_with_embeddings_of_another_recogniser_the_anchor_comes_from_the_crops(
    restorer: FastRestorer, target: Picture, side: int
) -> None:
    view = crop(np.asarray(cv2.resize(target, (side, side), interpolation=cv2.INTER_CUBIC), np.uint8))
    own = EmbeddedRecogniser().embed(recogniser_crop(view)[None])
    requests = [
        Request(crop(target), References(crops=(view,), embeddings=embeddings, version=1))
        for embeddings in (own, torch.ones(1, 512))
    ]
    first, second = restorer.restore(requests)
    assert torch.equal(first.image, second.image)


@pytest.mark.parametrize("preset", [MODERATE, SEVERE], ids=["moderate", "severe"])
def test_a_smaller_crop_is_restored_like_the_whole_one(target: Picture, preset: Preset) -> None:
    whole = preset_sample(target, 1, preset, 0.5)
    side = SMALLER[256]
    assert side == 192
    small = cv2.resize(whole, (side, side), interpolation=cv2.INTER_AREA)
    clear = cv2.resize(target, (side, side), interpolation=cv2.INTER_AREA)
    (result,) = FastRestorer(crop_size=side).restore([Request(crop(small), References())])
    assert psnr(result.image, clear) > psnr(crop(small), clear) + 0.3


def test_references_of_larger_views_help_a_smaller_crop(target: Picture) -> None:
    view, small = crop(target), crop(cv2.resize(target, (192, 192), interpolation=cv2.INTER_AREA))
    own = EmbeddedRecogniser().embed(recogniser_crop(view)[None])
    restorer = FastRestorer(crop_size=192)
    # By the embeddings, and by those of the views themselves where the given ones are of another recogniser.
    by_own, by_views, without = restorer.restore(
        [
            Request(small, References(crops=(view,), embeddings=own, version=1)),
            Request(small, References(crops=(view,), embeddings=torch.ones(1, 512), version=1)),
            Request(small, References()),
        ]
    )
    assert torch.equal(by_own.image, by_views.image)
    assert not torch.equal(by_own.image, without.image)


def test_a_file_that_differs_from_the_manifest_is_refused(tmp_path: Path) -> None:
    shutil.copytree(EMBEDDED, tmp_path / "embedded")
    path = tmp_path / "embedded" / "fast.safetensors"
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match="sha256 differs"):
        load_embedded("fast", tmp_path / "embedded")


def test_an_unknown_name_is_answered_with_the_known_ones() -> None:
    with pytest.raises(CheckpointError, match="encoder, fast"):
        load_embedded("slow")


def test_pickled_weights_need_permission(tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"weight": torch.ones(2)}, path)
    with pytest.raises(CheckpointError, match="pickled weights are refused"):
        load_state(path)
    assert torch.equal(load_state(path, allow_pickle=True)["weight"], torch.ones(2))


def test_damaged_weights_give_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "weights.safetensors"
    path.write_bytes(b"not weights at all")
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_state(path)


def test_embedded_files_stay_small() -> None:
    assert (EMBEDDED / "fast.safetensors").stat().st_size < 25e6
    assert (EMBEDDED / "iconface.safetensors").stat().st_size < 60e6
    assert (EMBEDDED / "encoder.safetensors").stat().st_size < 8e6
