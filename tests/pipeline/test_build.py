"""Names of parts become parts, and wrong names one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import configs
from configs import ConfigError
from models.aligned.restorer import AlignedRestorer, AlignedSettings
from models.detector import CenterFaceDetector
from models.fast.restorer import FastRestorer
from models.iconface.settings import IconFaceSettings, KleinSettings
from models.protocols import Needs, References, Request, Result
from models.published_recognisers import ArcFaceRecogniser
from models.recogniser import EmbeddedRecogniser
from models.weights import EMBEDDED, CheckpointError, load_embedded
from pipeline import build
from pipeline.build import build_detector, build_recogniser, build_restorer
from pipeline.config import RENAMED, DetectorConfig, PipelineConfig, RecogniserConfig, RestorerConfig
from pipeline.report.provenance import flat_settings
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


def test_settings_of_other_restorers_do_not_matter() -> None:
    config = RestorerConfig("fast", iconface=IconFaceSettings(steps=4), klein=KleinSettings("elsewhere"))
    assert isinstance(build_restorer(config), FastRestorer)


@pytest.mark.parametrize(
    ("kind", "size"), [("iconface", 512), ("aligned", 192), ("support.fakes:InvertingRestorer", 512)]
)
def test_a_crop_size_that_the_restorer_does_not_take_is_refused(kind: str, size: int) -> None:
    with pytest.raises(ConfigError, match="crop_size"):
        build_restorer(RestorerConfig(kind, "cpu", crop_size=size))


def test_a_precision_that_has_no_effect_is_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    build_restorer(RestorerConfig("support.fakes:InvertingRestorer", precision="float32"))
    assert "restorer.precision has no effect on support.fakes:InvertingRestorer" in caplog.text
    caplog.clear()
    build_restorer(RestorerConfig("fast", "cpu", precision="float32"))
    assert "no effect" not in caplog.text


def test_each_restorer_reads_its_own_settings() -> None:
    aligned = build_restorer(RestorerConfig("aligned", "cpu", aligned=AlignedSettings(most_views=1)))
    assert isinstance(aligned, AlignedRestorer)
    assert aligned.settings.most_views == 1


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("restorer.klein=folder", "restorer.klein.model=folder"),
        ("restorer.adapter=own.safetensors", "restorer.klein.adapter=own.safetensors"),
        ("restorer.prompt=a face", "restorer.klein.prompt=a face"),
        ("restorer.image_guidance=2", "restorer.iconface.image_guidance=2"),
        ("restorer.average_references=true", "restorer.iconface.average_references=true"),
        ("restorer.own_noise=true", "restorer.iconface.own_noise=true"),
        ("restorer.most_change=0", "restorer.iconface.most_change=0"),
        ("restorer.previous_group=false", "restorer.iconface.previous_group=false"),
        ("restorer.engine.batch=4", "restorer.fast.engine.batch=4"),
    ],
)
def test_earlier_names_of_settings_still_work(old: str, new: str) -> None:
    loaded = configs.load(PipelineConfig, None, [old])
    assert loaded == configs.load(PipelineConfig, None, [new])
    assert loaded != PipelineConfig()


def test_earlier_names_that_two_restorers_shared_set_both() -> None:
    restorer = configs.load(PipelineConfig, None, ["restorer.steps=4", "restorer.guidance=2"]).restorer
    assert (restorer.iconface.steps, restorer.klein.steps) == (4, 4)
    assert (restorer.iconface.guidance, restorer.klein.guidance) == (2, 2)


def test_every_earlier_name_leads_to_a_setting() -> None:
    names = flat_settings(PipelineConfig())
    assert all(present in names for each in RENAMED.values() for present in each)


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
        build_restorer(RestorerConfig("klein", klein=KleinSettings(str(tmp_path / "nowhere"))))
    (tmp_path / "model_index.json").write_text("{}", encoding="utf-8")
    with pytest.raises(CheckpointError, match=r"transformer/config\.json: cannot be read"):
        build_restorer(RestorerConfig("klein", klein=KleinSettings(str(tmp_path))))
