"""Names of parts become parts, and wrong names one sentence."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from configs import ConfigError
from models.detector import CenterFaceDetector
from models.protocols import Needs, References, Request, Result
from models.published_recognisers import ArcFaceRecogniser
from models.recogniser import EmbeddedRecogniser
from models.weights import EMBEDDED, CheckpointError, load_embedded
from pipeline import build
from pipeline.build import build_detector, build_recogniser, build_restorer
from pipeline.config import DetectorConfig, RecogniserConfig, RestorerConfig
from support import fakes


def test_short_names_give_what_ships_with_the_package() -> None:
    assert isinstance(build_detector(DetectorConfig()), CenterFaceDetector)
    assert isinstance(build_recogniser(RecogniserConfig()), EmbeddedRecogniser)
    restorer = build_restorer(RestorerConfig())
    assert restorer is not None
    assert restorer.needs.crop_size == 256
    assert build_restorer(RestorerConfig("none")) is None


def test_auto_is_a_restorer_that_ships() -> None:
    assert load_embedded(build.AUTO).images_seen > 0
    chosen = build_restorer(RestorerConfig(build.AUTO))
    assert type(build_restorer(RestorerConfig("auto"))) is type(chosen)


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("fast", {"guidance": 2.0}),
        ("auto", {"adapter": Path("adapter.safetensors")}),
        ("support.fakes:InvertingRestorer", {"steps": 4}),
        (str(EMBEDDED / "fast.safetensors"), {"prompt": "a face"}),
        ("klein", {"crop_size": 512}),
        ("iconface", {"klein": "elsewhere"}),
    ],
)
def test_settings_of_another_restorer_are_refused(kind: str, change: dict[str, Any]) -> None:
    (name,) = change
    with pytest.raises(ConfigError, match=f"restorer.{name} is for .*the restorer is {re.escape(kind)}"):
        build_restorer(RestorerConfig(kind, **change))
    assert build_restorer(RestorerConfig("none", **change)) is None


def test_a_part_of_ones_own_is_named_by_module_and_class() -> None:
    assert isinstance(
        build_restorer(RestorerConfig("support.fakes:InvertingRestorer")), fakes.InvertingRestorer
    )
    assert isinstance(build_detector(DetectorConfig("support.fakes:SquareDetector")), fakes.SquareDetector)
    assert isinstance(
        build_recogniser(RecogniserConfig("support.fakes:ColourRecogniser")), fakes.ColourRecogniser
    )


def test_a_restorer_without_needs_is_given_those_of_its_attributes(monkeypatch: pytest.MonkeyPatch) -> None:
    class Plain:
        crop_size = 96

        def restore(self, requests: Sequence[Request]) -> list[Result]:
            return [Result(255 - request.crop) for request in requests]

    class Telling(Plain):
        uses_references = False
        uses_previous = True
        uses_kept = True
        device = "meta"

    for kind, needs in (
        (Plain, Needs(96)),
        (Telling, Needs(96, references=False, previous=True, kept=True, device=torch.device("meta"))),
    ):
        monkeypatch.setattr(fakes, "Own", kind, raising=False)
        restorer = build_restorer(RestorerConfig("support.fakes:Own"))
        assert restorer is not None
        assert restorer.needs == needs
        (result,) = restorer.restore([Request(torch.zeros(3, 96, 96, dtype=torch.uint8), References())])
        assert (result.image == 255).all()


@pytest.mark.parametrize("kind", ["support.fakes:Missing", "no_such_module:Part"])
def test_a_part_that_cannot_be_made_is_named(kind: str) -> None:
    with pytest.raises(ConfigError, match=kind):
        build_restorer(RestorerConfig(kind))


def test_wrong_names_and_files_give_one_sentence(tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.onnx"
    wrong.write_bytes(b"nothing of the kind")
    with pytest.raises(
        ConfigError, match=r"restorer\.kind must be auto, aligned, fast, iconface, klein, none"
    ):
        build_restorer(RestorerConfig("fats"))
    with pytest.raises(ConfigError, match=r"recogniser\.kind must be embedded"):
        build_recogniser(RecogniserConfig("missing.onnx"))
    with pytest.raises(CheckpointError, match=r"wrong\.onnx"):
        build_recogniser(RecogniserConfig(str(wrong)))
    with pytest.raises(ConfigError, match=r"detector\.kind: .*wrong\.onnx"):
        build_detector(DetectorConfig(str(wrong)))
    with pytest.raises(CheckpointError, match=r"wrong\.onnx"):
        build_restorer(RestorerConfig(str(wrong)))


def test_weights_of_another_network_are_refused() -> None:
    with pytest.raises(CheckpointError, match="not the weights of a `fast` restorer"):
        build_restorer(RestorerConfig(str(EMBEDDED / "encoder.safetensors")))


@pytest.mark.parametrize("kind", ["pathlib:PurePosixPath", "argparse:Action"])
def test_a_class_that_is_no_restorer_is_refused(kind: str) -> None:
    with pytest.raises(ConfigError, match=r"restorer\.kind"):
        build_restorer(RestorerConfig(kind))


def test_a_class_without_a_crop_size_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fakes, "Own", type("Own", (), {"restore": None}), raising=False)
    with pytest.raises(ConfigError, match=r"is no restorer \(it lacks needs, and crop_size in their place"):
        build_restorer(RestorerConfig("support.fakes:Own"))


def test_a_device_that_is_not_there_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"restorer\.device must be auto, cpu or cuda"):
        build_restorer(RestorerConfig(device="abacus"))
    if not torch.cuda.is_available():
        with pytest.raises(ConfigError, match="no CUDA device"):
            build_restorer(RestorerConfig(device="cuda"))


def test_arcface_is_known_by_its_ending(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tmp_path / "arcface.onnx"
    model.write_bytes(b"")
    monkeypatch.setattr(ArcFaceRecogniser, "__init__", lambda self, path: None)
    assert isinstance(build_recogniser(RecogniserConfig(str(model))), ArcFaceRecogniser)


def test_klein_is_looked_for_where_the_settings_say(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="nowhere: no such folder of a klein model"):
        build_restorer(RestorerConfig("klein", klein=str(tmp_path / "nowhere")))
    (tmp_path / "model_index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"transformer/config\.json: cannot be read"):
        build_restorer(RestorerConfig("klein", klein=str(tmp_path)))
