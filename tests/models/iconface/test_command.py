"""A checkpoint of `iconface` as a user meets it: a restored clip, or one sentence, a code and no file."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from functools import partial
from pathlib import Path

import av
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from models.iconface.model import IconFaceModel
from models.iconface.restorer import IconFaceRestorer
from models.iconface.settings import IconFaceSettings
from models.iconface.shape import AutoencoderShape
from models.weights import EMBEDDED, load_checkpoint, load_embedded, save_checkpoint
from pipeline import cli
from pipeline.bench.speed import ICONFACE_STEPS, iconface_works
from pipeline.build import build_restorer
from pipeline.config import RestorerConfig
from pipeline.runs.demo import write_damaged_clip
from support.tiny_klein import SHAPE, write_own

CODEC = AutoencoderShape(widths=(8, 16), encoder_depths=(1, 1), decoder_depths=(1, 1), latent=4)


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Small, and nothing in it is zero."""
    torch.manual_seed(0)
    model = IconFaceModel(replace(SHAPE, clean=True), CODEC)
    for parameter in model.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.3)
    path = tmp_path_factory.mktemp("weights") / "iconface.safetensors"
    save_checkpoint(path, model.state_dict(), model.shapes(), 7)
    return path


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    write_damaged_clip(path, frames=2)
    return path


def run(clip: Path, output: Path, restorer: Path | str, *more: str) -> int:
    command = [str(clip), str(output), "--restorer", str(restorer), "--device", "cpu", "--progress", "none"]
    # What untrained weights make of a face is nobody's: the gate would hold it back.
    return cli.main([*command, "--set", "gate.enabled=false", *more])


def pictures(path: Path) -> list[bytes]:
    with av.open(str(path)) as container:
        return [bytes(frame.planes[0]) for frame in container.decode(video=0)]


def test_steps_and_seed_of_the_command_reach_the_faces(clip: Path, checkpoint: Path, tmp_path: Path) -> None:
    made = []
    for number, more in enumerate(([], ["--steps", "1"], ["--steps", "2"], ["--seed", "5"])):
        output = tmp_path / f"{number}.mkv"
        # Grain has a seed too; it shall not be what differs.
        assert run(clip, output, checkpoint, "--codec", "ffv1", "--set", "blend.grain=0", *more) == 0
        made.append(pictures(output))
    assert made[0] == made[1]
    assert made[2] != made[0]
    assert made[3] != made[0]


def test_the_settings_say_how_a_face_is_drawn(checkpoint: Path) -> None:
    config = RestorerConfig(
        str(checkpoint),
        "cpu",
        seed=9,
        iconface=IconFaceSettings(3, 1.5, 1.2, True),
    )
    given, usual = build_restorer(config), build_restorer(RestorerConfig(str(checkpoint), "cpu"))
    assert isinstance(given, IconFaceRestorer)
    assert isinstance(usual, IconFaceRestorer)
    assert given.settings == IconFaceSettings(3, 1.5, 1.2, True)
    assert not torch.equal(given.noise, usual.noise)
    assert usual.settings == IconFaceSettings()


def test_the_file_names_the_checkpoint_and_not_where_it_lies(
    clip: Path, checkpoint: Path, tmp_path: Path
) -> None:
    for restorer, named in ((checkpoint, "(iconface.safetensors;"), ("auto", "(fast;")):
        output = tmp_path / f"{named}.mkv"
        assert run(clip, output, restorer) == 0
        with av.open(str(output)) as container:
            assert named in container.metadata["COMMENT"]


def wrong(kind: str, folder: Path, good: Path) -> Path:
    path = folder / "wrong.safetensors"
    loaded = load_checkpoint(good)
    if kind == "cut":
        path.write_bytes(good.read_bytes()[:-100])
    if kind == "encoder":
        shutil.copy(EMBEDDED / "encoder.safetensors", path)
    if kind == "adapter":
        write_own(path)
    if kind == "other shape":
        save_checkpoint(path, loaded.state, {**loaded.parameters, "network": {"heads": 3}}, 0)
    if kind == "no table":
        save_file({"weight": torch.ones(1)}, path, {"parameters": json.dumps(3)})
    return path


@pytest.mark.parametrize(
    ("kind", "sentence"),
    [
        ("missing", "no such file of weights"),
        ("cut", "cannot be read"),
        ("encoder", "not the weights of a `fast` restorer"),
        ("adapter", "an adapter for klein; use --restorer klein --set restorer.klein.adapter="),
        ("other shape", "not the weights of an `iconface` restorer"),
        ("no table", "parameters are no table"),
    ],
)
def test_wrong_weights_give_one_sentence_and_code_3(
    kind: str,
    sentence: str,
    clip: Path,
    checkpoint: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path, output = wrong(kind, tmp_path, checkpoint), tmp_path / "out"
    output.mkdir()
    assert run(clip, output / "out.mp4", path) == 3
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert str(path) in said
    assert len(said.splitlines()) == 1
    assert list(output.iterdir()) == []


def test_weights_that_do_not_ship_are_said_to_be_missing(
    clip: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "manifest.toml").touch()
    monkeypatch.setattr("models.iconface.restorer.load_embedded", partial(load_embedded, folder=tmp_path))
    assert run(clip, tmp_path / "out.mp4", "iconface") == 3
    assert "no checkpoint 'iconface'" in capsys.readouterr().err
    assert not (tmp_path / "out.mp4").exists()


def test_the_speed_of_each_number_of_steps_is_taken_with_references_known(
    checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    worked_out, passes = [], []
    remember = IconFaceRestorer._worked_out
    monkeypatch.setattr(
        IconFaceRestorer, "_worked_out", lambda self, given: worked_out.append(1) or remember(self, given)
    )
    works = iconface_works(load_checkpoint(checkpoint))
    sample = "models.iconface.restorer.sample"
    monkeypatch.setattr(sample, lambda *given: passes.append(given[5].steps) or given[2])
    for _ in range(2):
        for work in works.values():
            work()
    assert passes == 2 * [steps for steps in ICONFACE_STEPS for _ in range(2)]
    assert len(worked_out) == len(ICONFACE_STEPS)
