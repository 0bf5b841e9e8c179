"""What every restorer keeps to. A new one joins by a line in `RESTORERS`."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from models.aligned.restorer import AlignedRestorer
from models.fast.restorer import FastRestorer
from models.iconface.restorer import IconFaceRestorer
from models.protocols import Previous, References, Request, Restorer
from models.spandrel_restorer import SpandrelRestorer
from support.tiny_klein import restorer as tiny_klein
from support.tiny_klein import write_model, write_own


def restoreformer(folder: Path) -> Restorer:
    """spandrel's smallest face restorer, with weights that were never trained."""
    from spandrel.architectures.RestoreFormer import RestoreFormer

    torch.manual_seed(0)
    save_file(RestoreFormer(ch=32, num_res_blocks=1).state_dict(), folder / "restoreformer.safetensors")
    return SpandrelRestorer(folder / "restoreformer.safetensors")


def klein(folder: Path) -> Restorer:
    """The real code with a model of a few layers, never trained, and an adapter of ours."""
    write_model(folder)
    write_own(folder / "own.safetensors")
    return tiny_klein(folder, folder / "own.safetensors")


RESTORERS: dict[str, Callable[[Path], Restorer]] = {
    "aligned": lambda folder: AlignedRestorer(),
    "fast": lambda folder: FastRestorer(),
    "iconface": lambda folder: IconFaceRestorer(),
    "klein": klein,
    "spandrel": restoreformer,
}


@pytest.fixture(scope="module", params=RESTORERS)
def restorer(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Restorer:
    if request.param == "spandrel" and importlib.util.find_spec("spandrel") is None:
        pytest.skip("needs the extra `spandrel`")
    return RESTORERS[request.param](tmp_path_factory.mktemp("weights"))


def request_of(restorer: Restorer, seed: int) -> Request:
    size = restorer.needs.crop_size
    crop = torch.randint(0, 256, (3, size, size), dtype=torch.uint8, generator=torch.manual_seed(seed))
    return Request(crop, References())


class TestRestorer:
    def test_each_request_has_its_own_result_in_order(self, restorer: Restorer) -> None:
        first, second = request_of(restorer, 1), request_of(restorer, 2)
        before = first.crop.clone()
        together = restorer.restore([first, second])
        (alone,) = restorer.restore([second])
        assert len(together) == 2
        # Alone as in company, and again as before: nothing is kept between calls.
        assert torch.equal(together[1].image, alone.image)
        assert not torch.equal(together[0].image, together[1].image)
        assert torch.equal(first.crop, before)

    def test_results_have_the_form_of_the_crops(self, restorer: Restorer) -> None:
        request = request_of(restorer, 1)
        (result,) = restorer.restore([request])
        assert result.image.shape == request.crop.shape
        assert result.image.dtype == torch.uint8
        assert result.image.device.type == "cpu"

    def test_what_it_declares_as_needless_changes_nothing(self, restorer: Restorer) -> None:
        """And references change a result where it declares that they can."""
        request, other = request_of(restorer, 1), request_of(restorer, 2)
        (usual,) = restorer.restore([request])
        references = References((other.crop,), torch.ones(1, 128))
        (seeing,) = restorer.restore([replace(request, references=references)])
        assert torch.equal(seeing.image, usual.image) != restorer.needs.references
        if not restorer.needs.previous:
            size = restorer.needs.crop_size
            previous = Previous(other.crop, torch.ones(size, size))
            assert torch.equal(restorer.restore([replace(request, previous=previous)])[0].image, usual.image)
        if not restorer.needs.kept:
            assert usual.kept is None

    def test_no_request_gives_no_result(self, restorer: Restorer) -> None:
        assert restorer.restore([]) == []

    def test_crops_of_another_form_are_refused(self, restorer: Restorer) -> None:
        size = restorer.needs.crop_size
        for crop in (torch.zeros(3, size, size), torch.zeros(3, size, size - 8, dtype=torch.uint8)):
            with pytest.raises(ValueError, match="crop must be uint8"):
                restorer.restore([Request(crop, References())])
