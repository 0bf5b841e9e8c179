"""Faces of a few frames a second become appearances, and appearances become people."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from numpy.typing import NDArray

from support.faces import face_at, person, seen, view_of
from trackers.appearances import Appearance, Appearances, Glimpse, GroupingConfig
from trackers.references import Evidence

ANNA, BERT, CARL = person(1), person(2), person(3)
EVERY = 0.5
Placed = tuple[float, NDArray[np.float32]]


def grouped(config: GroupingConfig | None = None) -> Appearances:
    return Appearances(config or GroupingConfig(), Evidence(10.0))


def show(
    group: Appearances,
    start: float,
    faces: Sequence[Placed],
    *,
    film: int = 0,
    samples: int = 4,
    noise: float = 0.4,
    cut: bool = False,
) -> list[Appearance]:
    """A shot of so many samples with the given people, each at its x; gives their appearances."""
    found: list[Appearance] = []
    for n in range(samples):
        glimpses = [
            Glimpse(
                face_at(x + 2 * n, 100, embedding=seen(e, noise, round(100 * start) + 10 * n + int(x))), True
            )
            for x, e in faces
        ]
        found = group.see(film, start + EVERY * n, glimpses, most_apart=2.2 * EVERY, is_cut=cut and n == 0)
    return found


def offer(each: Appearance, source: str, quality: float = 1.0, embedding: NDArray[np.float32] = ANNA) -> None:
    each.offer(view_of(embedding, quality=quality, source=source), source.encode, 0, 0.0, 40.0)


def people(group: Appearances) -> list[Appearance]:
    """Everybody, also those without a view."""
    for each in group._living + group._ended:
        if not each.portraits:
            offer(each, f"view{'x' * min(each.numbers)}", embedding=each.total)
    return group.people()


def test_a_person_in_three_shots_and_a_second_film_is_one() -> None:
    group = grouped()
    show(group, 0, [(100, ANNA)])
    show(group, 10, [(300, ANNA), (100, BERT)])
    show(group, 20, [(200, ANNA)])
    show(group, 0, [(150, ANNA)], film=1)
    found = people(group)
    assert [each.samples for each in found] == [16, 4]
    assert [(span.film, span.start, span.end) for span in found[0].spans] == [
        (0, 0.0, 1.5), (0, 10.0, 11.5), (0, 20.0, 21.5), (1, 0.0, 1.5),
    ]  # fmt: skip


def test_two_who_are_seen_side_by_side_are_never_one() -> None:
    group = grouped()
    show(group, 0, [(100, ANNA), (300, ANNA)])
    show(group, 10, [(200, ANNA)])
    assert sorted(each.samples for each in people(group)) == [4, 8]


def test_another_person_in_the_same_place_after_a_cut_is_another_appearance() -> None:
    group = grouped()
    first = show(group, 0, [(100, ANNA)])[0]
    stranger = (0.35 * ANNA + 0.94 * (BERT - ANNA * float(BERT @ ANNA) / 100)).astype(np.float32)
    second = show(group, 4 * EVERY, [(100, stranger)], noise=0, cut=True)[0]
    assert first is not second
    assert len(people(group)) == 2


def test_a_face_missed_once_goes_on_and_one_missed_for_long_is_a_new_appearance() -> None:
    group = grouped()
    first = show(group, 0, [(100, ANNA)])[0]
    assert show(group, 5 * EVERY, [(108, ANNA)], samples=1)[0] is first
    assert show(group, 9 * EVERY, [(108, ANNA)], samples=1)[0] is not first


def test_unclear_faces_join_through_the_appearance_they_are_in() -> None:
    """Each view alone is too noisy to be known again; their sum is not."""
    group = grouped()
    show(group, 0, [(100, ANNA)], samples=8, noise=1.0)
    show(group, 20, [(100, ANNA)], samples=8, noise=1.0)
    assert len(people(group)) == 1


def test_who_is_seen_too_little_is_counted_and_in_no_entry() -> None:
    group = grouped()
    show(group, 0, [(100, ANNA)])
    faint = Glimpse(face_at(300, 100, embedding=seen(BERT, 0.2, 1, norm=4.0)), True)
    profile = Glimpse(face_at(500, 100, embedding=CARL), False)
    group.see(0, 10, [faint, profile], most_apart=2.2 * EVERY, is_cut=True)
    assert len(people(group)) == 1
    assert group.unclear == 2


def test_more_is_asked_for_of_a_short_appearance() -> None:
    across = BERT - ANNA * float(BERT @ ANNA) / 100
    like = (0.54 * ANNA + np.sqrt(1 - 0.54**2) * across * 10 / np.linalg.norm(across)).astype(np.float32)
    for samples, expected in ((1, 2), (6, 1)):
        group = grouped()
        show(group, 0, [(100, ANNA)], samples=6, noise=0)
        show(group, 10, [(100, like)], samples=samples, noise=0)
        assert len(people(group)) == expected


def test_only_the_best_views_are_kept_and_only_their_pictures_made() -> None:
    group = grouped(GroupingConfig(views=2))
    each = show(group, 0, [(100, ANNA)])[0]
    made = []
    for number, quality in enumerate((1.0, 2.0, 0.5, 3.0)):
        view = view_of(seen(ANNA, 0.3, number), quality=quality, source="v" * (number + 1))
        each.offer(view, lambda n=number: made.append(n) or b"picture", 0, 1.0 * number, 40.0)  # type: ignore[misc, func-returns-value]
    found = group.people()[0]
    assert [portrait.seconds for portrait in found.best()] == [3.0, 1.0]
    assert made == [0, 1, 3]
    assert all((portrait.look == found.total).all() for portrait in found.best())


def test_a_joined_person_has_the_best_views_of_all_shots_and_each_knows_its_own() -> None:
    group = grouped(GroupingConfig(views=2))
    first = show(group, 0, [(100, ANNA)])[0]
    offer(first, "a", 1.0)
    offer(first, "bb", 2.0)
    second = show(group, 10, [(100, ANNA)])[0]
    offer(second, "ccc", 3.0)
    found = group.people()[0]
    assert [portrait.view.source for portrait in found.best()] == ["ccc", "bb"]
    looks = [portrait.look for portrait in found.best()]
    assert not np.allclose(looks[0], looks[1])
    assert np.allclose(found.total, looks[0] + looks[1])


def test_memory_is_bounded_however_many_come_by() -> None:
    group = grouped(GroupingConfig(most=20))
    for number in range(120):
        each = show(group, 10.0 * number, [(100, person(100 + number, 64))], samples=1 + number % 3)[0]
        offer(each, "v" * (number % 50), embedding=each.total)
        assert len(group._ended) <= 20
    assert len(people(group)) + group.unclear == 120


def test_films_do_not_run_into_each_other() -> None:
    group = grouped()
    first = show(group, 0, [(100, ANNA)], samples=1)[0]
    second = show(group, 0.5, [(100, ANNA)], film=1, samples=1)[0]
    assert first is not second


@pytest.mark.parametrize("setting", [{"min_similarity": 1.0}, {"most": 1}, {"views": 0}, {"doubt": -1}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        GroupingConfig(**setting)  # type: ignore[arg-type]
