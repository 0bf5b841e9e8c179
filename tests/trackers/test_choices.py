"""Whom the user wants restored, how strongly and when."""

from __future__ import annotations

import pytest

from configs import ConfigError
from trackers.gallery import LEFT_OUT, Casting, Choice, Stretch, chosen

ALL = {"Anna": Choice(), "Bert": Choice(strength=0.5), "Carl": Choice(restore=False)}


def cast(only: tuple[str, ...] = (), skip: tuple[str, ...] = (), strangers: bool = True) -> Casting:
    return chosen(ALL, only=only, skip=skip, strangers=strangers, where="people.toml")


@pytest.mark.parametrize(
    ("text", "stretch"),
    [
        ("10-12.5", Stretch(10, 12.5)),
        ("1:20-1:35.5", Stretch(80, 95.5)),
        ("0:01:20 - 1:00:00", Stretch(80, 3600)),
        ("my film-2.mp4 1:20-2:00", Stretch(80, 120, "my film-2.mp4")),
    ],
)
def test_times_are_read_as_people_write_them(text: str, stretch: Stretch) -> None:
    assert Stretch.parse(text) == stretch


@pytest.mark.parametrize("text", ["", "soon", "1:20", "2:00-1:00", "5-5", "1:2:3:4-9", "film.mp4"])
def test_what_is_no_stretch_of_time_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"not a time range|ends before it begins"):
        Stretch.parse(text)


def test_times_hold_in_their_film_and_are_half_open() -> None:
    choice = Choice(times=(Stretch(10, 20, "a.mp4"), Stretch(30, 40)))
    assert [choice.covers("a.mp4", second) for second in (9.9, 10, 19.9, 20, 35)] == [
        False, True, True, False, True,
    ]  # fmt: skip
    assert not choice.covers("b.mp4", 15)
    assert Choice().covers("b.mp4", 15)


def test_times_are_the_films_own_where_a_run_begins_later() -> None:
    casting = Casting({}, film="a.mp4", start_seconds=60)
    choice = Choice(times=(Stretch(60, 65),))
    assert casting.covers(choice, 1)
    assert not casting.covers(choice, 61)


def test_without_options_the_list_decides_and_strangers_are_restored() -> None:
    casting = cast()
    assert casting.choice("Anna") == Choice()
    assert casting.choice("Bert").strength == 0.5
    assert not casting.choice("Carl").restore
    assert casting.choice("").restore
    assert not cast(strangers=False).choice("").restore


def test_only_leaves_everybody_else_out_and_wins_over_the_list() -> None:
    casting = cast(only=("Bert", "Carl"))
    assert casting.choice("Bert") == Choice(strength=0.5)
    assert casting.choice("Carl").restore
    assert [casting.choice(name) for name in ("Anna", "", None)] == [LEFT_OUT] * 3


def test_skip_leaves_those_out_and_nobody_else() -> None:
    casting = cast(skip=("Anna",))
    assert casting.choice("Anna") == LEFT_OUT
    assert casting.choice("Bert").restore
    assert casting.choice("").restore


def test_who_is_not_known_yet_is_left_alone_where_somebody_is_left_out() -> None:
    everybody = chosen({"Anna": Choice()}, only=(), skip=(), strangers=True, where="")
    assert everybody.choice(None).restore
    assert not cast().choice(None).restore
    timed = chosen({"Anna": Choice(times=(Stretch(0, 1),))}, only=(), skip=(), strangers=True, where="")
    assert not timed.choice(None).restore


@pytest.mark.parametrize("option", ["only", "skip"])
def test_an_unknown_name_is_told_with_those_there_are(option: str) -> None:
    with pytest.raises(
        ConfigError, match=rf"--{option} Ana: no such person in people.toml; known: Anna, Bert, Carl"
    ):
        cast(**{option: ("Ana",)})  # type: ignore[arg-type]


def test_only_and_skip_may_not_name_the_same_person() -> None:
    with pytest.raises(ConfigError, match="both name Anna"):
        cast(only=("Anna",), skip=("Anna",))


@pytest.mark.parametrize("strength", [-0.1, 1.1, float("nan")])
def test_a_strength_out_of_range_is_refused(strength: float) -> None:
    with pytest.raises(ValueError, match="strength"):
        Choice(strength=strength)
