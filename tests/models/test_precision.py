"""Restorers in bfloat16: chosen by what the hardware multiplies, and within one code value of float32."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from configs import ConfigError
from models.degradation.stills import MODERATE, SEVERE, preset_sample
from models.fast.restorer import FastRestorer
from models.iconface.restorer import IconFaceRestorer
from models.packing import PackedConvolution
from models.precision import computing, lower_weights, restorer_precision
from models.protocols import References, Request, Restorer
from pipeline.build import build_restorer
from pipeline.config import PipelineConfig, RestorerConfig
from pipeline.report.provenance import difference, fingerprint
from support.fakes import needs_bfloat16
from support.portraits import aligned_astronaut, crop, references

CPU, CUDA = torch.device("cpu"), torch.device("cuda")


def capable_of(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: dict.fromkeys(names, True))
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: True)


@needs_bfloat16
@pytest.mark.parametrize("make", [FastRestorer, IconFaceRestorer], ids=["fast", "iconface"])
def test_faces_in_bfloat16_are_those_in_float32_within_one_code_value(
    make: Callable[..., Restorer],
) -> None:
    target = aligned_astronaut()
    known = references(target)
    requests = [
        Request(crop(preset_sample(target, 3, preset, None)), who)
        for preset in (MODERATE, SEVERE)
        for who in (References(), known)
    ]
    plain = make().restore(requests)
    quick = make(precision=torch.bfloat16).restore(requests)
    differences = torch.stack(
        [(a.image.int() - b.image.int()).abs() for a, b in zip(plain, quick, strict=True)]
    )
    # Something is rounded otherwise, or bfloat16 would not have been at work.
    assert 0 < differences.float().mean() < 0.15
    assert (differences > 1).float().mean() < 1e-4
    assert differences.max() <= 3


@needs_bfloat16
def test_a_face_in_bfloat16_is_the_same_to_the_bit_in_any_company_and_at_any_time() -> None:
    restorer = FastRestorer(precision=torch.bfloat16)
    faces = [crop(preset_sample(aligned_astronaut(), seed, MODERATE, None)) for seed in range(3)]
    requests = [Request(face, References()) for face in faces]
    together = restorer.restore(requests)
    alone = [FastRestorer(precision=torch.bfloat16).restore([request])[0] for request in reversed(requests)]
    for one, other in zip(together, reversed(alone), strict=True):
        assert torch.equal(one.image, other.image)


@pytest.mark.parametrize(
    ("capabilities", "expected"),
    [
        (("amx_bf16", "avx512_bf16"), torch.bfloat16),
        (("avx512_bf16",), torch.bfloat16),
        (("avx2", "avx512_f", "amx_int8"), torch.float32),
    ],
)
def test_auto_on_a_cpu_follows_its_instructions(
    monkeypatch: pytest.MonkeyPatch, capabilities: tuple[str, ...], expected: torch.dtype
) -> None:
    capable_of(monkeypatch, *capabilities)
    # Packing for bfloat16 needs those instructions, and this machine may lack them.
    monkeypatch.setattr("models.fast.restorer.pack_convolutions", lambda *network, precision: None)
    assert restorer_precision("auto", CPU) is expected
    built = build_restorer(RestorerConfig(kind="fast", device="cpu"))
    assert isinstance(built, FastRestorer)
    assert built.precision is expected


def test_a_cpu_whose_library_lacks_bfloat16_stays_with_float32(monkeypatch: pytest.MonkeyPatch) -> None:
    capable_of(monkeypatch, "amx_bf16")
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: False)
    assert restorer_precision("auto", CPU) is torch.float32


def test_auto_on_a_gpu_follows_its_tensor_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    capability = (7, 5)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    assert restorer_precision("auto", CUDA) is torch.float32
    assert restorer_precision("float16", CUDA) is torch.float16
    with pytest.raises(ValueError, match="bfloat16 needs compute capability"):
        restorer_precision("bfloat16", CUDA)
    capability = (9, 0)
    assert restorer_precision("auto", CUDA) is torch.bfloat16


def test_float16_on_a_cpu_is_refused_in_one_sentence() -> None:
    with pytest.raises(ConfigError, match=r"restorer\.precision: float16 is for CUDA devices"):
        build_restorer(RestorerConfig(kind="fast", device="cpu", precision="float16"))
    with pytest.raises(ValueError, match="precision must be auto, float32"):
        RestorerConfig(precision="half")


def test_chunks_of_a_machine_that_multiplies_otherwise_are_not_taken_on(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    film = tmp_path / "film.mp4"
    film.write_bytes(b"film")
    capable_of(monkeypatch, "amx_bf16")
    here = fingerprint(film, PipelineConfig())
    capable_of(monkeypatch)
    there = fingerprint(film, PipelineConfig())
    assert difference(here, there) == "the precision of the restorer has changed"


def test_lowered_layers_multiply_in_less_and_norms_do_not() -> None:
    seen: list[torch.dtype] = []
    network = nn.Sequential(nn.Linear(8, 8), nn.RMSNorm(8), nn.Linear(8, 4))
    network[1].register_forward_hook(lambda module, inputs, output: seen.append(output.dtype))
    expected = network(torch.ones(2, 8))
    lower_weights(network, torch.bfloat16)
    with computing(CPU, torch.bfloat16):
        answer: Tensor = network(torch.ones(2, 8))
    assert answer.dtype == torch.bfloat16
    assert network[0].weight.dtype == torch.bfloat16
    assert seen == [torch.float32, torch.float32]
    assert torch.allclose(answer.float(), expected, atol=0.05)


@needs_bfloat16
def test_a_packed_convolution_answers_in_its_precision() -> None:
    convolution = nn.Conv2d(8, 4, 3, padding=1).requires_grad_(False)
    pictures = torch.rand(2, 8, 16, 16)
    packed = PackedConvolution(convolution, pictures.shape, torch.bfloat16)
    assert packed(pictures).dtype == torch.bfloat16
    assert torch.allclose(packed(pictures).float(), convolution(pictures), atol=0.02)


@pytest.mark.parametrize(("given", "expected"), [(None, "PASSIVE"), ("ACTIVE", "ACTIVE")])
def test_waiting_threads_leave_the_cores_to_others_unless_told_otherwise(
    given: str | None, expected: str
) -> None:
    environment = {name: value for name, value in os.environ.items() if name != "OMP_WAIT_POLICY"}
    environment |= {} if given is None else {"OMP_WAIT_POLICY": given}
    script = (
        "import os, sys\n"
        "class Spy:\n"
        "    def find_spec(self, name, *rest):\n"
        "        if name == 'torch': print(os.environ.get('OMP_WAIT_POLICY'))\n"
        "sys.meta_path.insert(0, Spy())\n"
        "import pipeline.cli, pipeline.build\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
