"""`--restorer klein` as a user meets it: a restored clip, or one sentence, a code and no file."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from safetensors.torch import save_file

from models.weights import EMBEDDED
from pipeline import cli
from pipeline.runs.demo import write_damaged_clip
from support.tiny_klein import lora


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    write_damaged_clip(path, frames=2)
    return path


def run(clip: Path, output: Path, model: Path, adapter: Path, *more: str) -> int:
    command = [str(clip), str(output), "--restorer", "klein", "--device", "cpu", "--progress", "none"]
    changes = (f"restorer.klein.model={model}", f"restorer.klein.adapter={adapter}", *more)
    return cli.main([*command, *(part for change in changes for part in ("--set", change))])


def test_the_command_restores(
    clip: Path, model: Path, own: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(clip, tmp_path / "out.mp4", model, own, "restorer.klein.steps=1") == 0
    assert "faces restored: 2" in capsys.readouterr().out


def damaged(kind: str, folder: Path, model: Path, own: Path) -> tuple[Path, Path]:
    """Model and adapter, one of which is not what it should be."""
    adapter = folder / "adapter.safetensors"
    if kind == "no model":
        return folder / "nowhere", own
    if kind == "cut model":
        shutil.copytree(model, folder / "model")
        weights = folder / "model" / "transformer" / "diffusion_pytorch_model.safetensors"
        weights.write_bytes(weights.read_bytes()[:-100])
        return folder / "model", own
    if kind == "cut adapter":
        adapter.write_bytes(own.read_bytes()[:-100])
    if kind == "width":
        save_file(lora(width=64), adapter)
    if kind == "foreign":
        shutil.copy(EMBEDDED / "encoder.safetensors", adapter)
    if kind == "pickle":
        adapter = folder / "adapter.pth"
        adapter.write_bytes(b"")
    return model, adapter


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("no model", "no such folder of a klein model"),
        ("cut model", "not a readable safetensors file"),
        ("no adapter", "no such file of an adapter"),
        ("cut adapter", "cannot be read"),
        ("width", "belongs to a model of another width"),
        ("foreign", "not an adapter for klein"),
        ("pickle", "an adapter must be .safetensors"),
    ],
)
def test_wrong_weights_give_one_sentence_and_code_3(
    kind: str,
    sentence: str,
    clip: Path,
    model: Path,
    own: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    output = tmp_path / "out"
    output.mkdir()
    assert run(clip, output / "out.mp4", *damaged(kind, tmp_path, model, own)) == 3
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert list(output.iterdir()) == []


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("restorer.klein.image_guidance=2", "unknown setting restorer.klein.image_guidance"),
        ("restorer.klein.steps=0", "steps must be between 1 and 1000, got 0"),
        ("restorer.klein.guidance=-1", "guidance must be finite and not negative"),
        ("restorer.klein.prompt=' '", "prompt must not be empty"),
        ("restorer.klein.prompt=a face", "leave restorer.klein.prompt at none"),
    ],
)
def test_settings_that_make_no_sense_give_one_sentence_and_code_2(
    change: str,
    sentence: str,
    clip: Path,
    model: Path,
    own: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    assert run(clip, tmp_path / "out.mp4", model, own, change) == 2
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert len(said.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
