from __future__ import annotations

import numpy as np
import pytest

from support.faces import person, seen, view_of
from trackers.people import Acquaintance, People, PeopleConfig
from trackers.references import ReferenceConfig

ANNA, BERT, CARL = person(1), person(2), person(3)


def met(people: People, embedding: np.ndarray, views: int = 5, exclude: frozenset[int] = frozenset()) -> int:
    """Lets `people` see several views of a person and gives the id."""
    number = people.identify(embedding, exclude)
    assert number is not None
    for index in range(views - 1):
        number = people.observe(number, seen(embedding, 0.3, index))
    return number


def test_different_people_have_different_ids() -> None:
    people = People()
    assert len({met(people, embedding) for embedding in (ANNA, BERT, CARL)}) == 3
    assert len(people) == 3


def test_a_person_who_returns_keeps_the_id() -> None:
    people = People()
    ids = [met(people, ANNA), met(people, BERT)]
    assert [people.identify(seen(e, 0.5, 9)) for e in (ANNA, BERT)] == ids


def test_nobody_is_two_people_at_once() -> None:
    people = People()
    anna = met(people, ANNA)
    twin = people.identify(seen(ANNA, 0.2, 3), {anna})
    assert twin is not None
    assert twin != anna


def test_an_unclear_view_is_not_decided_until_there_are_enough() -> None:
    people = People()
    anna = met(people, ANNA)
    faint = [seen(ANNA, 0.6, index, norm=2.5) for index in range(4)]
    assert people.identify(faint[0]) is None
    assert len(people) == 1
    assert people.identify(np.sum(faint, axis=0)) == anna


def test_an_unclear_stranger_is_not_made_a_person_at_once() -> None:
    people = People()
    met(people, ANNA)
    assert people.identify(seen(BERT, 0.2, 1, norm=3.0)) is None
    assert people.identify(BERT) not in (None, 0)


def test_a_doubtful_likeness_asks_for_more_evidence() -> None:
    people = People(PeopleConfig(min_similarity=0.5, doubt=0.1, min_evidence=0.6))
    anna = met(people, ANNA, views=1)
    across = person(5) - ANNA * float(person(5) @ ANNA) / 100
    across *= 10 / np.linalg.norm(across)
    like = (0.45 * ANNA + np.sqrt(1 - 0.45**2) * across).astype(np.float32)
    assert people.identify(like) is None
    stranger = people.identify(3 * like)
    assert stranger is not None
    assert stranger != anna


def test_unclear_views_hardly_move_a_person_s_mean() -> None:
    people = People()
    anna = met(people, ANNA)
    for index in range(10):
        people.observe(anna, seen(CARL, 0.1, index, norm=0.5))
    assert people.identify(seen(ANNA, 0.5, 77)) == anna


def test_one_person_with_two_ids_becomes_one_again() -> None:
    people = People(PeopleConfig(merge_views=3))
    first = met(people, ANNA)
    second = met(people, BERT)
    people.references(second).offer(view_of(seen(ANNA, 0.2, 4), source=40))
    for index in range(40):
        now = people.observe(second, seen(ANNA, 0.2, index))
        if now != second:
            break
    assert now == first
    assert len(people) == 1
    assert second not in people
    assert people.current(second) == people.current(first) == first
    assert len(people.references(first).views) == 1


def test_memory_is_bounded_and_the_least_known_leave_first() -> None:
    people = People(PeopleConfig(max_people=10), clear_norm=5.0)
    anna = met(people, ANNA, views=20)
    photo = people.add_photo_person([view_of(BERT, source="bert.jpg")])
    passers_by = [met(people, 3 * person(number), views=1) for number in range(10, 40)]
    assert len(people) == 10
    assert people.current(anna) == anna
    assert people.current(photo) == photo
    assert people.current(passers_by[0]) is None


def test_people_seen_side_by_side_are_never_merged() -> None:
    people = People(PeopleConfig(merge_views=2))
    first = met(people, ANNA)
    second = people.identify(seen(ANNA, 0.2, 50), {first})
    assert second is not None
    assert second != first
    for index in range(20):
        assert people.observe(second, seen(ANNA, 0.1, index)) == second


def test_people_known_before_and_then_seen_side_by_side_are_never_merged() -> None:
    people = People(PeopleConfig(merge_views=2))
    first, second = met(people, ANNA), met(people, BERT)
    assert people.identify(BERT, {first}) == second
    for index in range(60):
        assert people.observe(second, seen(ANNA, 0.1, index)) == second


def test_a_person_may_change_over_a_long_film() -> None:
    people = People()
    anna = met(people, ANNA)
    for index in range(600):
        people.observe(anna, seen(ANNA, 0.2, index))
    across = BERT - ANNA * float(ANNA @ BERT) / 100
    older = (0.2 * ANNA + 0.98 * across * 10 / np.linalg.norm(across)).astype(np.float32)
    for _ in range(60):
        people.observe(anna, older)
    assert people.identify(older) == anna


def test_photos_become_pinned_references_of_whom_they_show() -> None:
    people = People()
    photo = view_of(ANNA, source="anna.jpg")
    anna = people.add_photo_person([photo])
    assert people.identify(seen(ANNA, 0.6, 1)) == anna
    assert [view.pinned for view in people.references(anna).views] == [True]
    assert people.identify(BERT) != anna


def test_photos_of_one_person_come_together() -> None:
    people = People()
    first = people.add_photo_person([view_of(ANNA, source="a.jpg")])
    assert people.add_photo_person([view_of(seen(ANNA, 0.4, 1), source="other.jpg")]) == first
    assert people.add_photo_person([view_of(BERT, source="bert.jpg")]) != first
    assert len(people.references(first).views) == 2


def test_a_person_seen_before_the_photos_matched_takes_the_pinned_views() -> None:
    people = People(PeopleConfig(merge_views=1))
    stranger = met(people, CARL, views=1)
    people.add_photo_person([view_of(ANNA, source="a.jpg"), view_of(seen(ANNA, 0.1, 2), source="bb.jpg")])
    for index in range(60):
        stranger = people.observe(stranger, seen(ANNA, 0.2, index))
    assert len(people) == 1
    assert sum(view.pinned for view in people.references(stranger).views) == 2


def test_a_photo_person_needs_a_photo() -> None:
    with pytest.raises(ValueError, match="photo"):
        People().add_photo_person([])


def test_each_person_has_an_own_reference_set_with_the_given_settings() -> None:
    people = People(PeopleConfig(references=ReferenceConfig(capacity=1)))
    anna, bert = met(people, ANNA), met(people, BERT)
    assert people.references(anna).offer(view_of(ANNA, source=1))
    assert len(people.references(bert).views) == 0
    assert people.references(anna).config.capacity == 1


def across(angle: float) -> np.ndarray:
    """A look of Anna's, at this cosine to her usual one."""
    other = BERT - ANNA * float(BERT @ ANNA) / float(ANNA @ ANNA)
    other *= np.linalg.norm(ANNA) / np.linalg.norm(other)
    return (angle * ANNA + np.sqrt(1 - angle**2) * other).astype(np.float32)


def test_a_named_person_is_known_by_any_of_the_looks() -> None:
    people = People()
    far = across(0.1)
    # Long in view from near and shortly from afar: the mean is as from near.
    anna = people.acquaint(Acquaintance("Anna", (10 * ANNA, far), (view_of(ANNA),)))
    assert people.identify(seen(ANNA, 0.3, 1)) == anna
    assert people.identify(seen(far, 0.3, 2)) == anna
    assert people.identify(CARL) != anna
    assert people.name_of(anna) == "Anna"


def test_named_people_are_never_joined_and_never_forgotten() -> None:
    people = People(PeopleConfig(max_people=5, merge_views=1), clear_norm=5.0)
    anna = people.acquaint(Acquaintance("Anna", (ANNA,)))
    twin = people.acquaint(Acquaintance("Twin", (seen(ANNA, 0.2, 1),)))
    for index in range(20):
        assert people.observe(twin, seen(ANNA, 0.1, index)) == twin
        met(people, 3 * person(20 + index), views=1)
    assert {people.current(anna), people.current(twin)} == {anna, twin}


def test_a_stranger_who_turns_out_to_be_a_named_person_gets_the_name() -> None:
    people = People(PeopleConfig(merge_views=1))
    anna = people.acquaint(Acquaintance("Anna", (ANNA,)))
    stranger = met(people, CARL, views=1)
    for index in range(60):
        stranger = people.observe(stranger, seen(ANNA, 0.2, index))
    assert stranger == anna
    assert people.name_of(stranger) == "Anna"


def test_views_of_a_gallery_roll_and_its_photos_stay() -> None:
    people = People(PeopleConfig(references=ReferenceConfig(capacity=2)))
    view = view_of(seen(ANNA, 0.2, 1), quality=1.0, source="film.mp4 0:01.0")
    photo = view_of(seen(ANNA, 0.2, 2), quality=0.5, source="mother.jpg!")
    anna = people.acquaint(Acquaintance("Anna", (ANNA,), (view,), (photo,)))
    assert people.references(anna).snapshot().sources == ("film.mp4 0:01.0", "photo mother.jpg!")
    assert people.references(anna).offer(view_of(seen(ANNA, 0.2, 3), quality=3.0, source=7))
    assert people.references(anna).snapshot().sources == ("frame 7", "photo mother.jpg!")
    assert people.photos() == {}


def test_a_photo_of_the_user_joins_the_named_person_it_shows() -> None:
    people = People()
    anna = people.acquaint(Acquaintance("Anna", (across(0.1),)))
    assert people.add_photo_person([view_of(seen(across(0.1), 0.2, 1), source="a.jpg")]) == anna


def test_looks_do_not_count_as_clear_views_where_the_film_is_the_measure() -> None:
    """A look is the sum of many views: next to it every view would be unclear."""
    people = People()
    anna = people.acquaint(Acquaintance("Anna", (50 * ANNA,), (view_of(ANNA),)))
    assert people.identify(seen(ANNA, 0.3, 1)) == anna


def test_a_named_person_needs_a_look() -> None:
    with pytest.raises(ValueError, match="look"):
        Acquaintance("Anna", ())


def test_an_unknown_person_is_refused() -> None:
    with pytest.raises(KeyError, match="no person 7"):
        People().references(7)


def test_nothing_can_be_told_from_an_empty_embedding() -> None:
    assert People().identify(np.zeros(16, np.float32)) is None


@pytest.mark.parametrize("width", [8, 128, 512])
def test_embeddings_may_have_any_width(width: int) -> None:
    people = People()
    anna = met(people, person(1, width))
    assert people.identify(seen(person(1, width), 0.4, 2)) == anna


@pytest.mark.parametrize("setting", [{"min_similarity": 1.0}, {"merge_margin": -1}, {"memory_views": 0}])
def test_settings_out_of_range_are_refused(setting: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=next(iter(setting))):
        PeopleConfig(**setting)  # type: ignore[arg-type]


def test_an_unclear_face_is_taken_for_the_person_given_whom_it_resembles() -> None:
    people = People()
    given = people.add_photo_person([view_of(ANNA)])
    met(people, CARL)
    faint = seen(ANNA, 1.6, 5, norm=2.5)
    assert people.identify(faint) is None
    assert people.guess(faint) == given
    assert people.guess(faint, {given}) is None
    # Somebody whom the user did not give is nobody, however like the face is.
    assert people.guess(seen(CARL, 0.2, 1, norm=2.5)) is None
    assert People(PeopleConfig(guess=0.0)).guess(faint) is None


def test_between_two_people_given_an_unclear_face_is_not_decided() -> None:
    people = People()
    for somebody in (ANNA, BERT):
        people.add_photo_person([view_of(somebody)])
    assert people.guess(np.asarray(ANNA + BERT, np.float32)) is None
    assert people.guess(seen(ANNA, 0.5, 2, norm=2.5)) == 0
