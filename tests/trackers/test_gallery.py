"""The list of people as users edit it: what it may say, and a clear sentence for every mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from configs import ConfigError
from trackers.gallery import Choice, Gallery, Stretch, read_gallery


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two people with three and two pictures, which need not be pictures here."""
    for name, count in (("person-1", 3), ("person-2", 2)):
        (tmp_path / name).mkdir()
        for number in range(count):
            (tmp_path / name / f"{name}_{number}.png").write_bytes(f"{name} {number}".encode())
    return tmp_path


def read(folder: Path, *persons: str, top: str = "") -> Gallery:
    text = top + "\n" + "\n".join(f"[[person]]\n{person}\n" for person in persons)
    (folder / "people.toml").write_text(text, encoding="utf-8")
    return read_gallery(folder)


def pictures(gallery: Gallery) -> dict[str, list[str]]:
    return {entry.name: [path.name for path in entry.pictures] for entry in gallery.people}


FIRST, SECOND = 'name = "Anna"\nviews = ["person-1"]', 'name = "Bert"\nviews = ["person-2"]'


def test_everything_that_can_be_said_is_read(folder: Path) -> None:
    (folder / "mother.jpg").touch()
    gallery = read(
        folder,
        FIRST + '\nrestore = false\nstrength = 1\nrestorer = "iconface"\nphotos = ["mother.jpg"]\n'
        'times = ["0:10-0:20", "b.mp4 5-6"]',
        SECOND,
        top="strangers = false",
    )
    anna, bert = gallery.people
    assert anna.choice == Choice(False, 1, "iconface", (Stretch(10, 20), Stretch(5, 6, "b.mp4")))
    assert anna.photos == (folder / "mother.jpg",)
    assert bert.choice == Choice()
    assert not gallery.strangers
    assert pictures(gallery)["Bert"] == ["person-2_0.png", "person-2_1.png"]


def test_the_same_name_twice_is_one_person(folder: Path) -> None:
    gallery = read(folder, FIRST + "\nstrength = 0.5", SECOND.replace("Bert", " Anna ") + "\nstrength = 1.0")
    assert [len(entry.pictures) for entry in gallery.people] == [5]
    assert gallery.people[0].choice.strength == 0.5


def test_two_of_one_name_must_not_contradict_each_other(folder: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"'Anna' \(line 7\): another person of this name .* strength \(0\.2 and 0\.5\)"
    ):
        read(folder, FIRST + "\nstrength = 0.5", SECOND.replace("Bert", "Anna") + "\nstrength = 0.2")


def test_moving_a_picture_moves_it_to_the_other_person(folder: Path) -> None:
    (folder / "person-1" / "person-1_2.png").rename(folder / "person-2" / "person-1_2.png")
    assert pictures(read(folder, FIRST, SECOND)) == {
        "Anna": ["person-1_0.png", "person-1_1.png"],
        "Bert": ["person-1_2.png", "person-2_0.png", "person-2_1.png"],
    }


def test_naming_some_pictures_makes_another_person_of_them(folder: Path) -> None:
    split = 'name = "Carl"\nviews = ["person-1/person-1_1.png"]'
    assert pictures(read(folder, FIRST, split)) == {
        "Anna": ["person-1_0.png", "person-1_2.png"],
        "Carl": ["person-1_1.png"],
    }


def test_what_is_no_picture_in_a_folder_does_no_harm(folder: Path) -> None:
    (folder / "person-1" / "Thumbs.db").touch()
    (folder / "person-1" / ".hidden.png").touch()
    assert len(read(folder, FIRST).people[0].pictures) == 3


def test_a_folder_from_which_all_was_moved_is_no_mistake(folder: Path) -> None:
    for file in (folder / "person-2").iterdir():
        file.rename(folder / "person-1" / file.name)
    assert [len(entry.pictures) for entry in read(folder, FIRST, SECOND).people] == [5, 0]


@pytest.mark.parametrize(
    ("person", "sentence"),
    [
        ('views = ["person-1"]', r"person 1 \(line 2\): needs a name"),
        ('name = "Anna"\nrestor = true', r"'Anna' \(line 2\): restor is not understood; there are: name, restore"),
        ('name = "Anna"\nrestore = "no"', "restore must be true or false, got 'no'"),
        ('name = "Anna"\nstrength = "half"', "strength must be a number, got 'half'"),
        ('name = "Anna"\nstrength = true', "strength must be a number, got True"),
        ('name = "Anna"\nstrength = 2.0', "strength must be between 0 and 1, got 2"),
        ('name = "Anna"\nviews = "person-1"', "views must be a list in brackets"),
        ('name = "Anna"\nviews = [1]', "views must be a list of texts"),
        ('name = "Anna"\ntimes = ["noon"]', "'noon' is not a time range; write for example"),
        ('name = "Anna"\nviews = ["person-9"]', "there is no .*person-9; put it back, or take it out"),
        ('name = "Anna"\nviews = ["person-1/gone.png"]', r"there is no .*gone\.png"),
        ('name = "Anna"\nphotos = ["gone.jpg"]', r"photos: there is no .*gone\.jpg"),
        ('name = "Anna"\nviews = ["people.toml"]', r"people\.toml is no picture"),
    ],
)  # fmt: skip
def test_a_mistake_is_told_with_its_line(folder: Path, person: str, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence) as caught:
        read(folder, person)
    assert str(folder / "people.toml") in str(caught.value)


def test_broken_toml_is_told_with_its_line(folder: Path) -> None:
    with pytest.raises(ConfigError, match=r"people\.toml: is not valid TOML: .*line 3"):
        read(folder, 'name = "Anna')


def test_a_word_at_the_top_that_means_nothing_is_told(folder: Path) -> None:
    with pytest.raises(ConfigError, match="persons = 3 is not understood; there are: strangers, person"):
        read(folder, top="persons = 3")


def test_one_picture_cannot_be_of_two_people(folder: Path) -> None:
    one = '\nviews = ["person-1/person-1_1.png"]'
    with pytest.raises(ConfigError, match=r"person-1_1\.png is also a view of person 'Anna' \(line 2\)"):
        read(folder, 'name = "Anna"' + one, 'name = "Bert"' + one)


def test_a_folder_without_a_list_says_how_to_make_one(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no people\.toml; make one with: python -m pipeline scan"):
        read_gallery(tmp_path)
    with pytest.raises(ConfigError, match=r"has no people\.toml"):
        read_gallery(tmp_path / "nowhere")


def test_the_digest_tells_what_matters_from_what_does_not(folder: Path) -> None:
    before = read(folder, FIRST, SECOND).digest()
    assert read(folder, SECOND, FIRST, top="# a comment").digest() == before
    assert read(folder, FIRST + "\nstrength = 0.9", SECOND).digest() != before
    assert read(folder, FIRST, SECOND, top="strangers = false").digest() != before
    (folder / "person-1" / "person-1_0.png").write_bytes(b"another")
    assert read(folder, FIRST, SECOND).digest() != before
