"""Several restorers as one, and who gets which."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch

from models.iconface.settings import IconFaceSettings
from models.protocols import Needs, Previous, References, Request, Result
from pipeline.config import PipelineConfig, RestorerConfig
from pipeline.people import cast
from pipeline.people.cast import Restorers
from support.fakes import InvertingRestorer
from trackers.gallery import Casting, Choice


class Noting(InvertingRestorer):
    """Adds a value, and notes what it was given."""

    def __init__(self, size: int, add: int) -> None:
        super().__init__(size)
        self.add = add
        self.seen: list[Request] = []

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        self.seen += requests
        return [Result(request.crop + self.add) for request in requests]


def request(level: int, restorer: str = "", references: References | None = None, size: int = 64) -> Request:
    crop = torch.full((3, size, size), level, dtype=torch.uint8)
    return Request(crop, references or References(), restorer=restorer)


def test_each_face_goes_to_its_restorer_and_results_keep_their_order() -> None:
    both = Restorers(Noting(64, 1), {"other": Noting(64, 10)})
    results = both.restore(
        [request(n, name) for n, name in ((100, ""), (110, "other"), (120, ""), (130, "other"))]
    )
    assert [int(result.image[0, 0, 0]) for result in results] == [101, 120, 121, 140]


def test_all_take_crops_of_the_largest_size() -> None:
    small, large = Noting(32, 10), Noting(64, 1)
    both = Restorers(small, {"large": large})
    assert both.needs.crop_size == 64
    references = References((request(90).crop,), torch.ones(1, 4), 3, ("frame 1",))
    crop = torch.randint(0, 200, (3, 64, 64), dtype=torch.uint8)
    before = Previous(crop, torch.ones(64, 64))
    result = both.restore([Request(crop, references, before)])[0]
    asked = small.seen[0]
    assert asked.previous is not None
    assert (asked.previous.image.shape, asked.previous.gate.shape) == ((3, 32, 32), (32, 32))
    assert asked.crop.shape == (3, 32, 32)
    assert [view.shape for view in asked.references.crops] == [(3, 32, 32)]
    assert (asked.references.version, asked.references.sources) == (3, ("frame 1",))
    # Detail that the smaller crop cannot hold stays: only the change is enlarged.
    assert (result.image.int() - crop.int() == 10).all()


def test_references_of_many_faces_are_made_smaller_once() -> None:
    small = Noting(32, 0)
    both = Restorers(small, {"large": Noting(64, 1)})
    references = References((request(90).crop,), torch.ones(1, 4), 1)
    both.restore([request(50, references=references)])
    both.restore([request(60, references=references)])
    assert small.seen[0].references is small.seen[1].references


def test_references_are_used_if_one_of_them_uses_them() -> None:
    blind = Noting(64, 0)
    blind.needs = Needs(64, references=False)
    assert not Restorers(blind, {}).needs.references
    assert Restorers(blind, {"other": Noting(64, 0)}).needs.references


def test_the_restorer_of_one_person_has_the_settings_of_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[RestorerConfig] = []

    def build(config: RestorerConfig) -> InvertingRestorer:
        asked.append(config)
        return InvertingRestorer(64)

    monkeypatch.setattr(cast, "build_restorer", build)

    config = PipelineConfig(
        restorer=RestorerConfig(
            precision="float32", crop_size=512, seed=3, iconface=IconFaceSettings(most_change=0.0)
        )
    )
    cast.build_restorers(config, cast.Cast(casting=Casting({"somebody": Choice(restorer="iconface")})))
    own, other = asked
    assert own == config.restorer
    assert (other.kind, other.crop_size) == ("iconface", 256)
    assert (other.precision, other.seed, other.iconface) == ("float32", 3, config.restorer.iconface)


def test_a_name_that_nobody_gave_is_refused() -> None:
    with pytest.raises(KeyError, match="other"):
        Restorers(Noting(64, 0), {}).restore([request(1, "other")])
