"""Batched degradations: a sample knows no neighbours, windows scale, presets and codecs as the real ones."""

from __future__ import annotations

from itertools import pairwise

import cv2
import numpy as np
import pytest
import torch
from skimage.data import astronaut
from torch import Tensor

from models.degradation.batch import degrade_batch, degrade_by_kind, preset_batch
from models.degradation.coding import block_code, jpeg_code, jpeg_tables
from models.degradation.film import TONES, Degradation, interlacing, tone
from models.degradation.kernels import gaussian_matrix
from models.degradation.show import DEGRADATIONS, preset_sheet, strength_sheet
from models.degradation.stills import MODERATE, SEVERE, Preset, preset_sample


@pytest.fixture(scope="module")
def face() -> Tensor:
    """The astronaut's face, float32 (1, 3, 128, 128) in [0, 1]."""
    picture = np.ascontiguousarray(astronaut()[30:158, 160:288])
    return torch.from_numpy(picture).permute(2, 0, 1)[None].float() / 255


def distance(first: Tensor, second: Tensor) -> float:
    return float((first - second).square().mean().sqrt())


def psnr(first: Tensor, second: Tensor) -> float:
    return -20 * float(np.log10(distance(first, second) + 1e-9))


def test_alone_equals_in_a_batch(face: Tensor) -> None:
    seeds, strengths = list(range(24)), [(3 * seed % 24) / 23 for seed in range(24)]
    together = degrade_batch(face.expand(24, -1, -1, -1), seeds, strengths, 256)
    alone = torch.cat(
        [
            degrade_batch(face, [seed], [strength], 256)
            for seed, strength in zip(seeds, strengths, strict=True)
        ]
    )
    # A rounding that falls the other way moves a whole coefficient of a block, so few pixels may differ.
    assert distance(together, alone) < 1e-3
    assert float(((together - alone).abs() > 1e-3).float().mean()) < 1e-3


def test_same_seed_same_result_and_another_seed_another(face: Tensor) -> None:
    first, second = (degrade_batch(face, [3], [0.6], 128) for _ in range(2))
    assert torch.equal(first, second)
    assert distance(first, degrade_batch(face, [4], [0.6], 128)) > 0.01


def test_the_course_grows_from_nearly_nothing(face: Tensor) -> None:
    many = face.expand(24, -1, -1, -1)
    errors = [
        distance(degrade_batch(many, list(range(24)), strength, 128), many) for strength in (0, 0.3, 0.6, 1)
    ]
    assert errors[0] < 0.025, errors
    assert all(low < 0.9 * high for low, high in pairwise(errors)), errors


@pytest.mark.parametrize("name", [*DEGRADATIONS, *TONES])
def test_each_grows_with_strength(face: Tensor, name: str) -> None:
    change: Degradation = {**DEGRADATIONS, **TONES}[name]
    seeds = list(range(6))
    many = face.expand(6, -1, -1, -1)
    errors = [distance(change(many, strength, seeds, 256), many) for strength in (0, 0.25, 0.5, 0.75, 1)]
    assert errors[0] < 0.02, errors
    assert all(low < high for low, high in pairwise(errors)), errors


@pytest.mark.parametrize("name", [*DEGRADATIONS, *TONES])
def test_each_takes_any_shape_and_knows_no_neighbours(face: Tensor, name: str) -> None:
    change: Degradation = {**DEGRADATIONS, **TONES}[name]
    window = face[:, :, :70, 11:108]
    together = change(window.expand(3, -1, -1, -1), [0.2, 0.5, 0.9], [1, 2, 3], 256)
    assert together.shape == (3, 3, 70, 97)
    assert distance(together[1:2], change(window, [0.5], [2], 256)) < 1e-3


@pytest.mark.parametrize("preset", [MODERATE, SEVERE], ids=["moderate", "severe"])
def test_presets_are_as_harmful_as_the_ones_with_real_jpeg(face: Tensor, preset: Preset) -> None:
    seeds = list(range(12))
    many = face.expand(12, -1, -1, -1)
    batched = preset_batch(many, seeds, preset, 128)
    picture = (many[0] * 255).round().byte().permute(1, 2, 0).contiguous().numpy()
    samples = np.stack([preset_sample(picture, seed, preset, None) for seed in seeds])
    real = torch.from_numpy(samples).permute(0, 3, 1, 2).float() / 255
    means = [np.mean([psnr(one, face[0]) for one in results]) for results in (batched, real)]
    assert abs(means[0] - means[1]) < 0.5, means


@pytest.mark.parametrize("quality", [30, 60, 90])
def test_block_coding_is_near_real_jpeg(face: Tensor, quality: int) -> None:
    picture_bgr = np.ascontiguousarray((face[0] * 255).byte().permute(1, 2, 0).numpy()[..., ::-1])
    _, stream = cv2.imencode(".jpg", picture_bgr, (cv2.IMWRITE_JPEG_QUALITY, quality))
    decoded_bgr = cv2.imdecode(stream, cv2.IMREAD_COLOR)
    real = torch.from_numpy(decoded_bgr[..., ::-1].copy()).permute(2, 0, 1)[None].float() / 255
    ours = jpeg_code(face, [quality])
    assert psnr(ours, real) > 40
    assert abs(psnr(ours, face) - psnr(real, face)) < 0.3


def test_the_loop_filter_takes_block_edges_away(face: Tensor) -> None:
    def edges(pictures: Tensor) -> float:
        steps = (pictures[..., 1:] - pictures[..., :-1]).abs().mean((0, 1, 2))
        return float(steps[7::8].mean() / steps[3::8].mean())

    tables = jpeg_tables([20])
    assert edges(block_code(face, tables, smoothing=0.8)) < 0.8 * edges(block_code(face, tables))


def test_a_window_is_degraded_like_a_part_of_the_crop(face: Tensor) -> None:
    only_blur = Preset(blur_sigma=(12, 12), reduction=(6, 6), noise=(0, 0), jpeg_quality=(100, 100))
    whole = preset_batch(face, [1], only_blur, 128)[:, :, 24:104, 24:104]
    window = preset_batch(face[:, :, 24:104, 24:104], [1], only_blur, 128)
    assert distance(whole[:, :, 16:-16, 16:-16], window[:, :, 16:-16, 16:-16]) < 0.01


def test_interlacing_combs_only_what_moves(face: Tensor) -> None:
    large = torch.nn.functional.interpolate(face, size=(256, 256), mode="bilinear")
    many = large.expand(8, -1, -1, -1)
    change = (interlacing(many, 1.0, list(range(8)), 128) - many).abs().amax(1)  # a wide view of a small crop
    still = (change < 1e-3).float().mean((1, 2))
    assert float(still.min()) > 0.2
    assert float(change.amax((1, 2)).min()) > 0.05


def test_a_tone_is_one_curve_for_target_and_degraded(face: Tensor) -> None:
    seeds = list(range(16))
    many = face.expand(16, -1, -1, -1)
    toned = tone(many, seeds)
    assert torch.equal(tone(many[..., ::2, ::2], seeds), toned[..., ::2, ::2])
    changed = [distance(one, face[0]) > 1e-3 for one in toned]
    assert 4 <= sum(changed) <= 15, changed


def test_a_gaussian_matrix_is_opencvs_blur(face: Tensor) -> None:
    matrix = gaussian_matrix(torch.tensor([3.0]), 128)
    ours = (matrix @ face[0] @ matrix.mT).permute(1, 2, 0).numpy()
    theirs = cv2.GaussianBlur(
        face[0].permute(1, 2, 0).numpy().copy(), (31, 31), 3.0, borderType=cv2.BORDER_REFLECT_101
    )
    assert np.abs(ours - theirs).max() < 1e-3


def test_bad_input_gets_a_sentence(face: Tensor) -> None:
    with pytest.raises(ValueError, match="one seed for each of 1 pictures"):
        degrade_batch(face, [1, 2], 0.5, 128)
    with pytest.raises(ValueError, match=r"strengths must lie in \[0, 1\]"):
        degrade_batch(face, [1], 1.5, 128)
    with pytest.raises(ValueError, match="multiples of 16"):
        block_code(face[:, :, :100], jpeg_tables([50]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs an accelerator")
def test_the_course_runs_on_a_gpu(face: Tensor) -> None:
    seeds = list(range(8))
    degraded = degrade_batch(tone(face.cuda().expand(8, -1, -1, -1), seeds), seeds, 0.5, 256)
    assert degraded.is_cuda
    assert bool(((degraded >= 0) & (degraded <= 1)).all())


def test_the_sheets_show_every_kind_at_every_strength(face: Tensor) -> None:
    large = torch.nn.functional.interpolate(face, size=(256, 256), mode="bilinear").clamp(0, 1)
    strengths, presets = strength_sheet(large), preset_sheet(large)
    rows = len(DEGRADATIONS) + len(TONES)
    assert (strengths.shape[0] - presets.shape[0]) % (rows - 5) == 0
    row = (strengths.shape[0] - presets.shape[0]) // (rows - 5)
    for index in range(rows):
        line = strengths[strengths.shape[0] - (rows - index) * row :][:row, -5 * row :].astype(int)
        assert np.abs(line[:, :row] - line[:, -row:]).mean() > 0.5, index


def test_each_sample_is_degraded_by_its_kind_alone(face: Tensor) -> None:
    many, seeds = face.expand(4, -1, -1, -1), [3, 4, 5, 6]
    strengths = np.array([0.2, 0.4, 0.6, 0.8])
    mixed = degrade_by_kind(many, np.array([3, 2, 0, 1]), strengths, seeds, 256)
    assert torch.equal(mixed[0], face[0])
    assert torch.equal(mixed[1:2], preset_batch(face, [4], SEVERE, 256))
    assert torch.equal(mixed[2:3], degrade_batch(face, [5], 0.6, 256))
    assert torch.equal(mixed[3:4], preset_batch(face, [6], MODERATE, 256))
