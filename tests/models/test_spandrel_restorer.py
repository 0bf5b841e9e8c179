"""Other people's restorers by path: with a stand-in for spandrel, and with spandrel itself where it is installed."""

from __future__ import annotations

import importlib.metadata
import importlib.util
import logging
import re
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor, nn

from configs import ConfigError
from models.protocols import References, Request
from models.spandrel_restorer import SpandrelRestorer
from models.weights import EMBEDDED, CheckpointError, load_state
from pipeline import cli
from pipeline.build import build_restorer
from pipeline.config import RestorerConfig
from pipeline.runs.demo import write_damaged_clip
from support.clips import astronaut

needs_spandrel = pytest.mark.skipif(
    importlib.util.find_spec("spandrel") is None, reason="needs the extra `spandrel`"
)


def request_of(seed: int, references: References | None = None) -> Request:
    crop = torch.randint(0, 256, (3, 512, 512), dtype=torch.uint8, generator=torch.manual_seed(seed))
    return Request(crop, references or References())


class Network(nn.Module):
    """Gives what `answer` makes of [-1, 1]; remembers what it was asked."""

    def __init__(self, answer: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.answer, self.asked, self.options = answer, list[Tensor](), dict[str, Any]()

    def forward(self, pictures: Tensor, **options: Any) -> tuple[Tensor, None]:
        self.asked.append(pictures.clone())
        self.options = options
        return self.answer(pictures), None


class Descriptor:
    """Has what the restorer uses of spandrel's ImageModelDescriptor."""

    def __init__(self, name: str, purpose: str, network: Network) -> None:
        self.architecture = SimpleNamespace(id=name, name=name)
        self.purpose, self.model = purpose, network

    def to(self, device: torch.device) -> Descriptor:
        self.model.to(device)
        return self

    def eval(self) -> Descriptor:
        self.model.eval()
        return self

    def __call__(self, pictures: Tensor) -> Tensor:
        return self.model(pictures)[0].clamp(0, 1)


class Shelf:
    """Stands for spandrel: every file of weights holds the one model on the shelf."""

    def __init__(self) -> None:
        self.model: Descriptor | Exception = Descriptor("GFPGAN", "FaceSR", Network(lambda x: x))

    def put(
        self, name: str, purpose: str = "FaceSR", answer: Callable[[Tensor], Tensor] = lambda x: x
    ) -> Network:
        network = Network(answer)
        self.model = Descriptor(name, purpose, network)
        return network


@pytest.fixture
def shelf(monkeypatch: pytest.MonkeyPatch) -> Shelf:
    shelf = Shelf()

    class UnsupportedModelError(Exception):
        pass

    class Registry(list[str]):
        def add(self, *architectures: str) -> None:
            self.extend(architectures)

        def load(self, state: dict[str, Tensor]) -> Descriptor:
            assert list(self) == ["main", "extra"]
            assert state
            if "unknown" in state:
                raise UnsupportedModelError
            if isinstance(shelf.model, Exception):
                raise shelf.model
            return shelf.model

    spandrel, extra = ModuleType("spandrel"), ModuleType("spandrel_extra_arches")
    vars(spandrel).update(
        __version__="0.0",
        ArchRegistry=Registry,
        MAIN_REGISTRY=["main"],
        UnsupportedModelError=UnsupportedModelError,
    )
    vars(extra).update(EXTRA_REGISTRY=["extra"])
    monkeypatch.setitem(sys.modules, "spandrel", spandrel)
    monkeypatch.setitem(sys.modules, "spandrel_extra_arches", extra)
    return shelf


@pytest.fixture
def weights(tmp_path: Path) -> Path:
    path = tmp_path / "weights.safetensors"
    save_file({"weight": torch.ones(1)}, path)
    return path


@pytest.mark.parametrize("name", ["GFPGAN", "RestoreFormer", "CodeFormer"])
def test_networks_see_and_give_minus_one_to_one(name: str, shelf: Shelf, weights: Path) -> None:
    network = shelf.put(name, answer=lambda x: -x)
    request = request_of(1)
    (result,) = SpandrelRestorer(weights).restore([request])
    assert network.asked[0].min() == -1
    assert network.asked[0].max() == 1
    assert torch.equal(result.image, 255 - request.crop)


def test_gfpgan_gets_no_new_noise(shelf: Shelf, weights: Path) -> None:
    network = shelf.put("GFPGAN")
    SpandrelRestorer(weights).restore([request_of(1)])
    assert network.options["randomize_noise"] is False


def test_a_new_architecture_for_faces_is_called_as_spandrel_says(shelf: Shelf, weights: Path) -> None:
    network = shelf.put("NewFace", answer=lambda x: nn.functional.interpolate(x, scale_factor=2))
    request = request_of(1)
    (result,) = SpandrelRestorer(weights).restore([request])
    assert network.asked[0].min() == 0
    # Twice as large, and reduced by area: the same again.
    assert torch.equal(result.image, request.crop)


def test_values_beyond_the_range_are_cut(shelf: Shelf, weights: Path) -> None:
    shelf.put("CodeFormer", answer=lambda x: 3 * x)
    (result,) = SpandrelRestorer(weights).restore([request_of(1)])
    assert set(result.image.unique().tolist()) >= {0, 255}
    assert result.image.float().mean() > 100


def test_on_a_cpu_faces_go_one_by_one(shelf: Shelf, weights: Path) -> None:
    network = shelf.put("GFPGAN")
    requests = [request_of(1), request_of(2)]
    results = SpandrelRestorer(weights).restore(requests)
    assert [len(asked) for asked in network.asked] == [1, 1]
    assert all(torch.equal(r.image, q.crop) for r, q in zip(results, requests, strict=True))


@pytest.mark.parametrize(
    ("name", "licence"),
    [("GFPGAN", "Apache-2.0"), ("CodeFormer", "non-commercial"), ("NewFace", "not known here")],
)
def test_the_licence_is_said(
    name: str, licence: str, shelf: Shelf, weights: Path, caplog: pytest.LogCaptureFixture
) -> None:
    shelf.put(name)
    with caplog.at_level(logging.WARNING):
        SpandrelRestorer(weights)
    (record,) = caplog.records
    assert licence in record.getMessage()
    assert "references are not used" in record.getMessage()


def test_crops_of_another_form_are_refused(shelf: Shelf, weights: Path) -> None:
    with pytest.raises(ValueError, match="crop must be uint8"):
        SpandrelRestorer(weights).restore(
            [Request(torch.zeros(3, 256, 256, dtype=torch.uint8), References())]
        )


def test_an_upscaler_is_refused(shelf: Shelf, weights: Path) -> None:
    shelf.put("ESRGAN", purpose="SR")
    with pytest.raises(CheckpointError, match=r"ESRGAN is for whole pictures .* not for faces"):
        SpandrelRestorer(weights)


def test_weights_that_do_not_fit_give_one_sentence(shelf: Shelf, weights: Path) -> None:
    shelf.model = KeyError("first\nsecond")
    with pytest.raises(CheckpointError, match="do not fit the architecture") as caught:
        SpandrelRestorer(weights)
    assert "\n" not in str(caught.value)


def test_a_path_names_a_restorer_and_ours_stays_ours(shelf: Shelf, weights: Path) -> None:
    assert isinstance(build_restorer(RestorerConfig(str(weights), "cpu")), SpandrelRestorer)
    ours = build_restorer(RestorerConfig(str(EMBEDDED / "fast.safetensors"), "cpu"))
    assert ours is not None
    assert ours.needs.crop_size == 256


def test_pickled_weights_need_permission(shelf: Shelf, tmp_path: Path) -> None:
    path = tmp_path / "gfpgan.pth"
    torch.save({"params_ema": {"weight": torch.ones(1)}, "step": 3}, path)
    with pytest.raises(CheckpointError, match=r"restorer\.allow_pickle=true"):
        build_restorer(RestorerConfig(str(path), "cpu"))
    assert build_restorer(RestorerConfig(str(path), "cpu", allow_pickle=True)) is not None
    assert torch.equal(load_state(path, allow_pickle=True)["weight"], torch.ones(1))


def test_a_pickle_that_would_run_something_is_refused(shelf: Shelf, tmp_path: Path) -> None:
    path, mark = tmp_path / "evil.pth", tmp_path / "mark"

    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return Path.touch, (mark,)

    torch.save({"weight": Evil()}, path)
    with pytest.raises(CheckpointError, match=r"cannot be read.*not unpickled"):
        build_restorer(RestorerConfig(str(path), "cpu", allow_pickle=True))
    assert not mark.exists()


@pytest.fixture(scope="module")
def clip(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clip") / "in.mp4"
    write_damaged_clip(path, frames=2)
    return path


def run(clip: Path, output: Path, restorer: Path) -> int:
    command = [str(clip), str(output), "--restorer", str(restorer), "--device", "cpu", "--progress", "none"]
    return cli.main(command)


def test_references_that_are_not_looked_at_are_not_counted(
    shelf: Shelf, weights: Path, clip: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "her.png"
    Image.fromarray(astronaut()).save(photo)
    for restorer, words in ((weights, "2 (references not used;"), ("fast", "2 (2 with references;")):
        output = str(tmp_path / f"{len(words)}.mp4")
        command = [str(clip), output, "--restorer", str(restorer), "--reference", str(photo)]
        assert cli.main([*command, "--progress", "none"]) == 0
        assert f"faces restored: {words}" in capsys.readouterr().out


def test_the_command_restores_with_a_path(shelf: Shelf, weights: Path, clip: Path, tmp_path: Path) -> None:
    network = shelf.put("GFPGAN")
    assert run(clip, tmp_path / "out.mp4", weights) == 0
    assert [tuple(asked.shape) for asked in network.asked] == [(1, 3, 512, 512)] * 2


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "no such file"),
        (b"damaged", "cannot be read"),
        ("unknown", "no architecture that spandrel 0.0 knows; its face restorers are GFPGAN"),
    ],
)
def test_wrong_files_give_one_sentence_and_code_3(
    content: bytes | str | None,
    sentence: str,
    shelf: Shelf,
    clip: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = tmp_path / "wrong.safetensors"
    if isinstance(content, bytes):
        path.write_bytes(content)
    elif content is not None:
        save_file({content: torch.ones(1)}, path)
    before = set(tmp_path.iterdir())
    assert run(clip, tmp_path / "out.mp4", path) == 3
    said = capsys.readouterr().err.strip()
    assert sentence in said
    assert "\n" not in said
    assert set(tmp_path.iterdir()) == before


def test_without_spandrel_the_command_to_install_it_is_said(
    weights: Path,
    clip: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, "spandrel", None)
    assert run(clip, tmp_path / "out.mp4", weights) == 2
    said = capsys.readouterr().err.strip()
    assert 'pip install -e ".[spandrel]"' in said
    assert "\n" not in said
    assert not (tmp_path / "out.mp4").exists()


def test_a_torchvision_of_another_torch_is_explained(weights: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Mismatched:
        def find_spec(self, name: str, path: object = None, target: object = None) -> None:
            if name == "spandrel":
                raise RuntimeError("operator torchvision::nms does not exist")

    monkeypatch.delitem(sys.modules, "spandrel", raising=False)
    monkeypatch.setattr(sys, "meta_path", [Mismatched(), *sys.meta_path])
    with pytest.raises(ConfigError, match=r"nms does not exist.*same release"):
        SpandrelRestorer(weights)


# From here on with spandrel itself: real architectures, weights that were never trained.


@pytest.fixture(scope="module")
def untrained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Paths of the weights of real architectures, made when first asked for."""
    folder = tmp_path_factory.mktemp("untrained")

    def path_of(name: str) -> Path:
        path = folder / f"{name}.safetensors"
        if not path.exists():
            torch.manual_seed(0)
            state = {key: value.clone().contiguous() for key, value in network_of(name).state_dict().items()}
            save_file(state, path)
        return path

    return path_of


def network_of(name: str) -> nn.Module:
    if name == "CodeFormer":
        from spandrel_extra_arches.architectures.CodeFormer import CodeFormer

        return CodeFormer(n_layers=1)
    if name == "RestoreFormer":
        from spandrel.architectures.RestoreFormer import RestoreFormer

        return RestoreFormer(ch=32, num_res_blocks=1)
    if name == "upscaler":
        from spandrel.architectures.Compact import Compact

        return Compact(num_feat=8, num_conv=1, upscale=2)
    from spandrel.architectures.GFPGAN import GFPGAN

    network = GFPGAN()
    for parameter in network.parameters():
        # The strengths of the noise begin at 0, which would hide it.
        if parameter.shape == (1,):
            parameter.data.fill_(0.1)
    return network


@needs_spandrel
@pytest.mark.parametrize("name", ["GFPGAN", "RestoreFormer", "CodeFormer"])
def test_real_architectures_restore(name: str, untrained: Callable[[str], Path]) -> None:
    restorer = build_restorer(RestorerConfig(str(untrained(name)), "cpu"))
    assert isinstance(restorer, SpandrelRestorer)
    first, again = request_of(1), request_of(1)
    together = restorer.restore([request_of(2), first])
    (alone,) = restorer.restore([again])
    assert alone.image.shape == (3, 512, 512)
    assert alone.image.dtype == torch.uint8
    # No noise of its own, nothing kept, and the face matters.
    assert torch.equal(together[1].image, alone.image)
    assert not torch.equal(together[0].image, alone.image)


@needs_spandrel
def test_the_range_is_that_of_spandrel_where_spandrel_knows_it(untrained: Callable[[str], Path]) -> None:
    import spandrel

    path = untrained("RestoreFormer")
    request = request_of(1)
    (result,) = SpandrelRestorer(path).restore([request])
    descriptor = spandrel.ModelLoader().load_from_file(path)
    assert isinstance(descriptor, spandrel.ImageModelDescriptor)
    expected = descriptor(request.crop[None].float() / 255)[0].mul(255).round().to(torch.uint8)
    assert (result.image.int() - expected.int()).abs().max() <= 1


@needs_spandrel
def test_the_extra_names_the_torchvision_of_our_torch() -> None:
    project = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8"))[
        "project"
    ]
    (torch_pin,) = [line for line in project["dependencies"] if line.startswith("torch==")]
    (vision_pin,) = [line for line in project["optional-dependencies"]["spandrel"] if "torchvision" in line]
    vision = importlib.metadata.distribution("torchvision")
    assert vision_pin == f"torchvision=={vision.version.partition('+')[0]}"
    wanted = [line for line in vision.requires or [] if re.match(r"torch\b", line)]
    assert [re.sub(r"[ ()]", "", line) for line in wanted] == [torch_pin]


@needs_spandrel
def test_a_real_upscaler_is_refused(untrained: Callable[[str], Path]) -> None:
    with pytest.raises(CheckpointError, match="not for faces"):
        SpandrelRestorer(untrained("upscaler"))


@needs_spandrel
def test_unknown_and_cut_weights_are_refused_by_the_real_one(
    weights: Path, tmp_path: Path, untrained: Callable[[str], Path]
) -> None:
    with pytest.raises(CheckpointError, match="no architecture that spandrel"):
        SpandrelRestorer(weights)
    state = load_state(untrained("RestoreFormer"))
    state["decoder.conv_out.weight"] = torch.zeros(3, 7, 3, 3)
    save_file(state, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match="do not fit the architecture") as caught:
        SpandrelRestorer(tmp_path / "other.safetensors")
    assert "\n" not in str(caught.value)
