"""`aligned`: views laid onto a face, and the network that looks at them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import Tensor

from models.aligned.network import NEIGHBOUR, REFERENCE, AlignedNetwork, AlignedShape
from models.aligned.restorer import AlignedRestorer, AlignedSettings, certainty_of, nearest_views
from models.aligned.warp import displacement_between, warp_views
from models.landmarks import OVAL, POINTS, DensePoints
from models.protocols import Neighbour, References, Request
from models.weights import Checkpoint, CheckpointError, load_embedded

SMALL = AlignedShape(blocks=3, width=8, growth=4, keys=4)


@pytest.fixture(params=[1, 2])
def network(request: pytest.FixtureRequest) -> AlignedNetwork:
    """Every layer says something, also those that are silent before training."""
    torch.manual_seed(1)
    made = AlignedNetwork(replace(SMALL, bands=request.param))
    for parameter in made.parameters():
        torch.nn.init.normal_(parameter, std=0.08)
    return made.eval().requires_grad_(False)


def face(side: int = 256) -> Tensor:
    """Points (1, P, 2): the oval on a circle, the others inside it."""
    torch.manual_seed(0)
    radius = 0.3 * side
    angle = torch.linspace(0, 2 * torch.pi, len(OVAL) + 1)[:-1]
    points = (torch.rand(POINTS, 2) - 0.5) * radius + side / 2
    points[list(OVAL)] = torch.stack([angle.sin(), -angle.cos()], 1) * radius + side / 2
    return points[None]


class Given:
    """Landmarks that are the same for every crop, and counts how often it is asked."""

    def __init__(self) -> None:
        self.calls = 0

    def find(self, crops: Tensor) -> DensePoints:
        self.calls += 1
        points = face(crops.shape[-1]).expand(len(crops), -1, -1)
        return DensePoints(points, torch.zeros(points.shape[:2]))


class ByColour:
    """A recogniser for which reddish crops show one person, and bluish ones another."""

    name, same_person, clear_norm = "by-colour", 0.5, 1.0

    def embed(self, crops: Tensor) -> Tensor:
        red, blue = (crops[:, channel].float().mean((1, 2)) for channel in (0, 2))
        return torch.stack([red > blue, red <= blue], 1).float()


def inputs(views: int, side: int = 32) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    torch.manual_seed(2)
    kinds = torch.full((1, views), REFERENCE)
    return (
        torch.rand(1, 3, side, side),
        torch.rand(1, views, 3, side, side),
        torch.rand(1, views, 1, side, side),
        kinds,
    )


def test_the_order_of_views_does_not_matter(network: AlignedNetwork) -> None:
    crops, views, confidence, kinds = inputs(3)
    order = [2, 0, 1]
    first = network(crops, views, confidence, kinds)
    second = network(crops, views[:, order], confidence[:, order], kinds[:, order])
    torch.testing.assert_close(first, second, rtol=1e-5, atol=1e-6)
    assert not torch.allclose(first, network(crops))


def test_a_view_of_confidence_0_changes_nothing(network: AlignedNetwork) -> None:
    crops, views, confidence, kinds = inputs(2)
    one = network(crops, views[:, :1], confidence[:, :1], kinds[:, :1])
    confidence[:, 1] = 0
    torch.testing.assert_close(network(crops, views, confidence, kinds), one, rtol=1e-5, atol=1e-6)


def test_without_confidence_the_network_is_the_one_for_single_pictures(network: AlignedNetwork) -> None:
    crops, views, confidence, kinds = inputs(2)
    torch.testing.assert_close(
        network(crops, views, torch.zeros_like(confidence), kinds), network(crops), rtol=0, atol=0
    )


def test_a_middle_band_takes_the_place_of_the_crops_own() -> None:
    network = AlignedNetwork(replace(SMALL, bands=2)).eval().requires_grad_(False)
    torch.nn.init.constant_(network.score[2].bias[1], 30.0)  # all of the middle band, half of the fine one
    shade = torch.linspace(0.2, 0.8, 128).expand(1, 3, 128, 128)
    stripes = 0.1 * torch.sin(torch.arange(128.0) * (2 * torch.pi / 32))[:, None]  # neither fine nor wide
    views, sure = (shade.flip(3) + stripes)[:, None], torch.ones(1, 1, 1, 128, 128)
    kinds = torch.zeros(1, 1)
    seen = network.seen(shade, views, sure, kinds)
    laid = network.laid_over(shade, views, sure, kinds, seen)
    inner = slice(48, 80)
    # The view's stripes come over, its light does not.
    change = (laid - shade)[0, 0, inner, inner]
    assert torch.corrcoef(torch.stack([change.mean(1), stripes[inner, 0]]))[0, 1] > 0.98
    assert change.mean(1).abs().max() > 0.06
    assert change.mean(0).abs().max() < 0.02


def test_the_kind_of_a_view_matters(network: AlignedNetwork) -> None:
    crops, views, confidence, kinds = inputs(1)
    other = network(crops, views, confidence, torch.full_like(kinds, NEIGHBOUR))
    assert not torch.allclose(other, network(crops, views, confidence, kinds))


def test_a_zero_anchor_changes_nothing_and_another_does(network: AlignedNetwork) -> None:
    crops = inputs(1)[0]
    none = network(crops, anchors=torch.zeros(1, SMALL.anchor))
    torch.testing.assert_close(none, network(crops), rtol=0, atol=0)
    assert not torch.allclose(network(crops, anchors=torch.ones(1, SMALL.anchor)), none)


def test_views_without_confidence_are_refused(network: AlignedNetwork) -> None:
    crops, views, _, _ = inputs(1)
    with pytest.raises(ValueError, match="confidence"):
        network(crops, views)


def test_a_view_lands_where_the_face_is() -> None:
    points = face()
    view = torch.zeros(1, 3, 256, 256)
    view[:, :, 120:136, 120:136] = 1  # around the face's centre
    moved = points + torch.tensor([12.0, -8.0])
    laid, sure = warp_views(view, points, moved)
    mass = laid[0, 0] / laid[0, 0].sum()
    along = torch.arange(256.0)
    assert float((mass.sum(0) * along).sum()) == pytest.approx(127.5 + 12, abs=1)
    assert float((mass.sum(1) * along).sum()) == pytest.approx(127.5 - 8, abs=1)
    assert float(sure[0, 0, 120, 140]) > 0.9
    assert float(sure[0, 0, 5, 5]) == 0


def test_where_the_expression_differs_a_view_holds_less() -> None:
    points = face()
    changed = points.clone()
    inner = (points[0] - torch.tensor([128.0, 150.0])).norm(dim=1) < 12
    changed[0, inner] += torch.tensor([0.0, 14.0])
    _, sure = displacement_between(points, changed)
    _, same = displacement_between(points, points)
    row, column = (164 // 4, 128 // 4)
    assert float(sure[0, 0, row, column]) < 0.6 * float(same[0, 0, row, column])
    # Far from the change nothing is lost.
    assert float(sure[0, 0, 90 // 4, 128 // 4]) > 0.9 * float(same[0, 0, 90 // 4, 128 // 4])


def test_the_warp_is_the_same_at_another_size() -> None:
    points, moved = face(), face() * 1.05 - 5
    _, small = warp_views(torch.zeros(1, 3, 256, 256), points, moved)
    _, large = warp_views(torch.zeros(1, 3, 512, 512), (points + 0.5) * 2 - 0.5, (moved + 0.5) * 2 - 0.5)
    torch.testing.assert_close(torch.nn.functional.avg_pool2d(large, 2), small, rtol=0, atol=0.02)


def test_the_nearest_views_in_pose_and_expression_are_chosen() -> None:
    points = face()[0]
    views = torch.stack([points + torch.randn(POINTS, 2) * size for size in (9, 1, 6, 3)])
    assert nearest_views(points, views, 3) == [1, 3, 2]
    assert nearest_views(points, views, 1) == [1]


def test_an_unsure_point_is_not_trusted() -> None:
    certainty = certainty_of(torch.tensor([0.0, 6.0, 20.0]), 256)
    assert certainty[0] == 1
    assert 0 < certainty[1] < 1
    assert certainty[2] == 0


@pytest.fixture
def restorer(network: AlignedNetwork) -> AlignedRestorer:
    parameters: dict[str, object] = {name: getattr(network.shape, name) for name in SMALL.__slots__}
    return AlignedRestorer(
        Checkpoint(network.state_dict(), parameters, 1),
        landmarks=Given(),  # type: ignore[arg-type]
        recogniser=ByColour(),
    )


def request(seed: int, references: int = 0) -> Request:
    """A reddish face with reddish references."""
    random = torch.Generator().manual_seed(seed)
    crops = [
        torch.randint(0, 256, (3, 256, 256), dtype=torch.uint8, generator=random)
        for _ in range(references + 1)
    ]
    for crop in crops:
        crop[2] //= 2
    return Request(crops[0], References(tuple(crops[1:]), torch.ones(references, SMALL.anchor)))


def test_alone_is_as_in_company_and_a_reference_counts(restorer: AlignedRestorer) -> None:
    one, other = request(1, 2), request(2)
    together = restorer.restore([one, other])
    assert torch.equal(restorer.restore([one])[0].image, together[0].image)
    assert torch.equal(restorer.restore([other])[0].image, together[1].image)
    assert not torch.equal(restorer.restore([Request(one.crop, References())])[0].image, together[0].image)


def test_references_of_a_stranger_change_nothing(network: AlignedNetwork) -> None:
    parameters: dict[str, object] = {name: getattr(network.shape, name) for name in SMALL.__slots__}
    checkpoint = Checkpoint(network.state_dict(), parameters, 1)
    restorer = AlignedRestorer(checkpoint, landmarks=Given(), recogniser=ByColour())  # type: ignore[arg-type]
    asked = request(1, 2)
    alone = restorer.restore([Request(asked.crop, References())])[0].image
    assert not torch.equal(restorer.restore([asked])[0].image, alone)
    strangers = tuple(view.flip(0) for view in asked.references.crops)
    asked = Request(asked.crop, References(strangers, asked.references.embeddings))
    assert torch.equal(restorer.restore([asked])[0].image, alone)


def test_neighbours_count_as_far_as_they_are_sure(restorer: AlignedRestorer) -> None:
    asked, beside = request(1), request(2).crop
    alone = restorer.restore([asked])[0].image

    def with_neighbour(gate: float) -> Tensor:
        neighbour = Neighbour(beside, torch.full((256, 256), gate))
        return restorer.restore([Request(asked.crop, References(), neighbours=(neighbour,))])[0].image

    assert torch.equal(with_neighbour(0), alone)
    assert not torch.equal(with_neighbour(1), alone)


def test_several_neighbours_are_averaged_where_they_hold(restorer: AlignedRestorer) -> None:
    asked, first, second = (request(seed).crop for seed in (1, 2, 3))
    left = torch.zeros(256, 256)
    left[:, :128] = 1
    joined = torch.cat([first[..., :128], second[..., 128:]], 2)

    def restored(*neighbours: Neighbour) -> Tensor:
        return restorer.restore([Request(asked, References(), neighbours=neighbours)])[0].image

    apart = restored(Neighbour(first, left), Neighbour(second, 1 - left))
    together = restored(Neighbour(joined, torch.ones(256, 256)))
    assert (apart.int() - together.int()).abs().max() <= 1
    assert not torch.equal(together, restored(Neighbour(first, torch.ones(256, 256))))


def test_no_more_views_count_than_the_settings_say(network: AlignedNetwork) -> None:
    parameters: dict[str, object] = {name: getattr(network.shape, name) for name in SMALL.__slots__}
    checkpoint = Checkpoint(network.state_dict(), parameters, 1)
    both, first = request(1, 2), request(1, 2)
    first = Request(first.crop, References(first.references.crops[:1], first.references.embeddings[:1]))
    for most, alike in ((1, True), (2, False)):
        settings = AlignedSettings(most_views=most)
        restorer = AlignedRestorer(
            checkpoint,
            landmarks=Given(),  # type: ignore[arg-type]
            recogniser=ByColour(),
            settings=settings,
        )
        images = [restorer.restore([each])[0].image for each in (both, first)]
        assert torch.equal(*images) == alike
    with pytest.raises(ValueError, match="most_views must be at least 1"):
        AlignedSettings(most_views=0)


def test_points_of_a_view_are_found_once(network: AlignedNetwork) -> None:
    given = Given()
    parameters: dict[str, object] = {name: getattr(network.shape, name) for name in SMALL.__slots__}
    restorer = AlignedRestorer(
        Checkpoint(network.state_dict(), parameters, 1),
        landmarks=given,  # type: ignore[arg-type]
        recogniser=ByColour(),
    )
    asked = request(1, 2)
    restorer.restore([asked])
    assert given.calls == 3
    restorer.restore([asked])
    assert given.calls == 4


def test_a_crop_of_another_form_and_other_weights_are_refused(
    restorer: AlignedRestorer, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="crop must be"):
        restorer.restore([Request(torch.zeros(3, 64, 64, dtype=torch.uint8), References())])
    with pytest.raises(ValueError, match="crop_size"):
        AlignedRestorer(crop_size=100)
    with pytest.raises(CheckpointError, match="aligned"):
        AlignedRestorer(Checkpoint({}, {"blocks": 1}, 0, tmp_path / "x.safetensors"))


def test_what_auto_means_ships_and_looks_at_references() -> None:
    restorer = AlignedRestorer()
    random = torch.Generator().manual_seed(0)
    crop = torch.randint(100, 140, (3, 256, 256), dtype=torch.uint8, generator=random)
    view = torch.randint(90, 150, (3, 256, 256), dtype=torch.uint8, generator=random)
    alone = restorer.restore([Request(crop, References())])[0].image
    seen = restorer.restore([Request(crop, References((view,), torch.ones(1, 128)))])[0].image
    assert load_embedded("aligned").images_seen > 0
    assert alone.shape == crop.shape
    assert not torch.equal(alone, seen)
