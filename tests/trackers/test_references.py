from __future__ import annotations

import numpy as np
import pytest
import torch

from support.faces import person, seen, view_of
from trackers.references import ReferenceConfig, ReferenceSet, View, cosine, view_quality

ANNA, BERT = person(1), person(2)


def anna(
    index: int, quality: float, *, frame: int | None = None, yaw: float = 0.0, look: int | None = None
) -> View:
    """A view of Anna; by default frames are far apart."""
    source = 100 * index if frame is None else frame
    return view_of(seen(ANNA, 0.3, index), quality=quality, source=source, yaw=yaw, look=look)


def qualities(references: ReferenceSet) -> list[float]:
    return [view.quality for view in references.views]


def test_the_best_views_stay_best_first() -> None:
    references = ReferenceSet(ReferenceConfig(capacity=3))
    for index, quality in enumerate([2.0, 5.0, 1.0, 4.0, 3.0]):
        references.offer(anna(index, quality))
    assert qualities(references) == [5.0, 4.0, 3.0]


def test_a_snapshot_holds_crops_and_embeddings_best_first() -> None:
    references = ReferenceSet()
    views = [anna(0, 1.0), anna(1, 2.0)]
    for view in views:
        references.offer(view)
    snapshot = references.snapshot()
    assert torch.equal(snapshot.crops[0], views[1].crop)
    assert np.allclose(snapshot.embeddings.numpy(), [views[1].embedding, views[0].embedding])
    assert snapshot.embeddings.dtype == torch.float32


def test_a_snapshot_never_changes() -> None:
    references = ReferenceSet()
    references.offer(anna(0, 1.0))
    before = references.snapshot()
    references.offer(anna(1, 9.0))
    assert (len(before), before.version) == (1, 1)
    assert len(references.snapshot()) == 2


def test_the_version_grows_with_changes_only() -> None:
    references = ReferenceSet(ReferenceConfig(capacity=1))
    offers = [(anna(0, 1.0), True), (anna(1, 0.5), False), (anna(2, 3.0), True), (anna(3, 2.9), False)]
    version = references.version
    for view, taken in offers:
        assert references.offer(view) is taken
        assert references.version == version + taken
        version = references.version


def test_a_full_set_changes_for_clear_gains_only() -> None:
    references = ReferenceSet(ReferenceConfig(capacity=1, improvement=1.2))
    references.offer(anna(0, 2.0))
    assert not references.offer(anna(1, 2.2))
    assert references.offer(anna(2, 2.6))


def test_an_empty_set_gives_empty_references() -> None:
    assert (len(ReferenceSet().snapshot()), ReferenceSet().version) == (0, 0)


def test_another_person_is_not_admitted() -> None:
    references = ReferenceSet()
    references.offer(anna(0, 1.0))
    assert not references.offer(view_of(BERT, quality=99.0, source=500))


def test_clear_views_decide_who_the_set_shows() -> None:
    references = ReferenceSet(ReferenceConfig(min_similarity=0.5))
    faint = view_of(seen(ANNA, 1.1, 7, norm=1.0), source=0)
    clear = view_of(seen(ANNA, 0.1, 8, norm=20.0), source=100)
    assert references.offer(faint)
    assert references.offer(clear)
    mean = (faint.embedding / 1 + clear.embedding / 20) / 2
    other = clear.embedding / 20 - 0.7 * faint.embedding
    # Near to the clear view, too far from the mean of directions.
    assert cosine(mean, other) < 0.5 < cosine(clear.embedding, other)
    assert references.offer(view_of((20 * other).astype(np.float32), source=200))


def test_near_duplicates_in_time_are_replaced_by_a_clearly_better_one() -> None:
    references = ReferenceSet()
    embedding = seen(ANNA, 0.2, 1)
    references.offer(view_of(embedding, quality=2.0, source=10, look=1))
    assert not references.offer(view_of(embedding, quality=2.1, source=14, look=2))
    assert references.offer(view_of(embedding, quality=3.0, source=14, look=3))
    assert qualities(references) == [3.0]


def test_the_same_picture_again_is_a_duplicate_however_late() -> None:
    references = ReferenceSet()
    references.offer(anna(0, 2.0, look=5))
    assert not references.offer(anna(9, 2.1, look=5))


def test_neighbours_in_time_that_look_different_both_stay() -> None:
    references = ReferenceSet(ReferenceConfig(near_similarity=0.99))
    assert references.offer(anna(0, 2.0, frame=10))
    assert references.offer(anna(1, 2.0, frame=12))


def test_other_directions_are_preferred_among_similar_qualities() -> None:
    references = ReferenceSet(ReferenceConfig(capacity=2))
    references.offer(anna(0, 2.0, yaw=0))
    references.offer(anna(1, 1.9, yaw=3))
    assert references.offer(anna(2, 1.8, yaw=45))
    assert sorted(view.yaw for view in references.views) == [0, 45]


def test_a_much_better_view_wins_over_another_direction() -> None:
    references = ReferenceSet(ReferenceConfig(capacity=2))
    references.offer(anna(0, 2.0, yaw=0))
    references.offer(anna(1, 0.5, yaw=45))
    assert references.offer(anna(2, 1.8, yaw=3))
    assert qualities(references) == [2.0, 1.8]


def test_a_poor_first_view_is_outvoted_and_leaves_though_there_is_room() -> None:
    references = ReferenceSet(ReferenceConfig(capacity=20))
    poor = view_of(BERT, quality=1.0, source=0)
    references.offer(poor)
    for index in range(1, 12):
        references.offer(anna(index, 1.0))
    assert len(references.views) > 4
    assert all(view is not poor for view in references.views)


def test_a_well_known_person_is_not_outvoted_by_some_strange_views() -> None:
    references = ReferenceSet()
    for index in range(20):
        references.offer(view_of(seen(person(1, 512), 0.3, index), source=100 * index))
    strange = [
        view_of(seen(person(2, 512), 0.2, i), quality=99.0, source=5000 + 50 * i, look=i) for i in range(10)
    ]
    assert not any(references.offer(view) for view in strange)


def test_photos_are_never_outvoted() -> None:
    references = ReferenceSet(pinned=[view_of(ANNA, source="anna.jpg", pinned=True)])
    strange = [view_of(seen(BERT, 0.2, i), quality=99.0, source=50 * i) for i in range(40)]
    assert not any(references.offer(view) for view in strange)


def test_views_unlike_the_person_s_others_give_way() -> None:
    references = ReferenceSet(ReferenceConfig(capacity=1, min_similarity=0.3))
    covered = view_of(seen(ANNA, 1.9, 3), quality=2.1, source=0)
    assert references.offer(covered)
    for index in range(1, 6):
        references.offer(anna(index, 2.0))
    assert references.views[0] is not covered


def test_pinned_views_never_leave_and_leave_less_room() -> None:
    photo = view_of(ANNA, quality=0.1, source="anna.jpg", pinned=True)
    references = ReferenceSet(ReferenceConfig(capacity=2), [photo])
    for index in range(6):
        references.offer(anna(index, 5.0 + index))
    assert len(references.views) == 2
    assert any(view is photo for view in references.views)


def test_pinning_makes_room_among_the_rolling_views() -> None:
    references = ReferenceSet(ReferenceConfig(capacity=2))
    references.offer(anna(0, 2.0))
    references.offer(anna(1, 3.0))
    references.pin([view_of(ANNA, quality=1.0, source="anna.jpg", pinned=True)])
    assert qualities(references) == [3.0, 1.0]


def test_a_set_full_of_photos_admits_nothing() -> None:
    photos = [view_of(seen(ANNA, 0.2, i), source=f"{'x' * i}.jpg", pinned=True) for i in range(3)]
    references = ReferenceSet(ReferenceConfig(capacity=2), photos)
    assert not references.offer(anna(0, 99.0))
    assert len(references.snapshot()) == 3


@pytest.mark.parametrize("width", [3, 128, 512])
def test_embeddings_may_have_any_width(width: int) -> None:
    references = ReferenceSet()
    references.offer(view_of(person(1, width), source=0))
    assert references.snapshot().embeddings.shape == (1, width)


@pytest.mark.parametrize("better", ["norm", "sharpness", "frontalness", "size"])
def test_each_property_makes_a_view_better(better: str) -> None:
    plain = view_quality(ANNA, 0.2, 0.5, 30)
    changed = {
        "norm": view_quality(2 * ANNA, 0.2, 0.5, 30),
        "sharpness": view_quality(ANNA, 0.3, 0.5, 30),
        "frontalness": view_quality(ANNA, 0.2, 0.9, 30),
        "size": view_quality(ANNA, 0.2, 0.5, 45),
    }
    assert changed[better] > 1.1 * plain


def test_more_pixels_than_enough_do_not_count() -> None:
    assert view_quality(ANNA, 0.2, 0.5, 60) == view_quality(ANNA, 0.2, 0.5, 300)


def test_other_crops_are_refused() -> None:
    with pytest.raises(ValueError, match="uint8"):
        View(torch.zeros(3, 8, 8), ANNA, 1.0, 0)


@pytest.mark.parametrize("setting", [{"capacity": 0}, {"improvement": 0.9}, {"alike_factor": 0.0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        ReferenceConfig(**setting)  # type: ignore[arg-type]
