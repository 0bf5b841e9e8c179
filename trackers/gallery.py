"""The gallery: a folder with pictures of people and one list, `people.toml`, which the user edits.

Each `[[person]]` of the list names folders of pictures, or single pictures, which then no longer count for their
folder. One name for two entries, or one folder for both sets of pictures, joins two people; another `[[person]]` that
names some of the pictures splits one. A scan's record of its pictures lies beside them, by hash; any other picture is
a photo, in which a face must be detected.
"""

from __future__ import annotations

import hashlib
import math
import re
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from configs import ConfigError

LIST = "people.toml"
RECORD = "views.npz"
PICTURES = (".jpg", ".jpeg", ".png", ".webp", ".avif", ".tif", ".tiff", ".bmp")
_KEYS: dict[str, tuple[type, ...]] = {
    "name": (str,), "restore": (bool,), "strength": (int, float), "restorer": (str,),
    "views": (list,), "photos": (list,), "times": (list,),
}  # fmt: skip
_TOP = {"strangers": bool, "person": list}


@dataclass(frozen=True, slots=True)
class Entry:
    """One person of the list."""

    name: str
    choice: Choice
    pictures: tuple[Path, ...]
    """Of the scan or the user."""
    photos: tuple[Path, ...]
    """Pictures, folders or clips named by the user, none of them in `pictures`."""


@dataclass(frozen=True, slots=True)
class Gallery:
    """The whole list."""

    folder: Path
    people: tuple[Entry, ...]
    """Names are unique."""
    strangers: bool
    """People who are not in the list are restored too."""

    def digest(self) -> str:
        """sha256 of everything a run uses; comments and the order of people do not count."""
        found = hashlib.sha256(repr(self.strangers).encode())
        for entry in sorted(self.people, key=lambda entry: entry.name):
            found.update(repr((entry.name, entry.choice)).encode("utf-8", "backslashreplace"))
            for path in (*entry.pictures, *entry.photos):
                files = sorted(path.rglob("*")) if path.is_dir() else [path]
                for file in files:
                    found.update(hashlib.sha256(file.read_bytes()).digest() if file.is_file() else b"")
        return found.hexdigest()


def read_gallery(folder: Path) -> Gallery:
    """The gallery in `folder`. Raises ConfigError, with the line of the list for a mistake in it."""
    file = folder / LIST
    try:
        text = file.read_text(encoding="utf-8")
        values = tomllib.loads(text)
    except FileNotFoundError as error:
        raise ConfigError(
            f"{folder}: has no {LIST}; make one with: python -m pipeline scan FILM --people {folder}"
        ) from error
    except OSError as error:
        raise ConfigError(f"{file}: cannot be read ({(error.strerror or str(error)).lower()})") from error
    except (UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"{file}: is not valid TOML: {error}") from error
    return _List(folder, text).gallery(values)


class _List:
    """Parses one list; errors name the line."""

    def __init__(self, folder: Path, text: str) -> None:
        self._folder = folder
        heads = (
            n for n, line in enumerate(text.splitlines(), 1) if re.match(r"\s*\[\[\s*person\s*\]\]", line)
        )
        self._lines = list(heads)

    def gallery(self, values: Mapping[str, Any]) -> Gallery:
        for key, value in values.items():
            if key not in _TOP or not isinstance(value, _TOP[key]):
                raise self._mistake("", f"{key} = {value!r} is not understood; there are: {', '.join(_TOP)}")
        persons = values.get("person", [])
        where = [self._where(number, person) for number, person in enumerate(persons)]
        for person, place in zip(persons, where, strict=True):
            self._check(person, place)
        named = self._named_pictures(persons, where)
        entries: dict[str, Entry] = {}
        for number, (person, place) in enumerate(zip(persons, where, strict=True)):
            entry = self._entry(person, place, {path for path, owner in named.items() if owner != number})
            known = entries.get(entry.name)
            entries[entry.name] = entry if known is None else self._joined(known, entry, place)
        return Gallery(self._folder, tuple(entries.values()), bool(values.get("strangers", True)))

    def _where(self, number: int, person: Any) -> str:
        name = person.get("name") if isinstance(person, dict) else None
        line = f" (line {self._lines[number]})" if number < len(self._lines) else ""
        return f"person {name!r}{line}" if name else f"person {number + 1}{line}"

    def _mistake(self, where: str, what: str) -> ConfigError:
        return ConfigError(f"{self._folder / LIST}: {where}{': ' if where else ''}{what}")

    def _check(self, person: Any, where: str) -> None:
        if not isinstance(person, dict):
            raise self._mistake(where, "must be a table; write [[person]] above its lines")
        for key, value in person.items():
            if key not in _KEYS:
                raise self._mistake(where, f"{key} is not understood; there are: {', '.join(_KEYS)}")
            kinds = _KEYS[key]
            # In Python a bool is an int.
            if not isinstance(value, kinds) or (isinstance(value, bool) and bool not in kinds):
                raise self._mistake(where, f"{key} must be {_WORDS[kinds]}, got {value!r}")
            if isinstance(value, list) and not all(isinstance(each, str) for each in value):
                raise self._mistake(where, f"{key} must be a list of texts, got {value!r}")
        if not str(person.get("name", "")).strip():
            raise self._mistake(where, "needs a name")

    def _named_pictures(self, persons: Sequence[Mapping[str, Any]], where: Sequence[str]) -> dict[Path, int]:
        """Pictures named one by one, and the index of the person of each."""
        owners: dict[Path, int] = {}
        for number, person in enumerate(persons):
            for path in self._paths(person, "views", where[number]):
                if not path.is_dir():
                    before = owners.setdefault(path, number)
                    if persons[before]["name"].strip() != person["name"].strip():
                        raise self._mistake(where[number], f"{path.name} is also a view of {where[before]}")
        return owners

    def _entry(self, person: Mapping[str, Any], where: str, others: set[Path]) -> Entry:
        pictures: list[Path] = []
        for path in self._paths(person, "views", where):
            inside = sorted(_pictures_in(path)) if path.is_dir() else [path]
            pictures += [file for file in inside if file not in others or file == path]
        choice = self._choice(person, where)
        photos = tuple(self._paths(person, "photos", where))
        return Entry(person["name"].strip(), choice, tuple(dict.fromkeys(pictures)), photos)

    def _paths(self, person: Mapping[str, Any], key: str, where: str) -> list[Path]:
        paths = [self._folder / Path(text).expanduser() for text in person.get(key, [])]
        for path in paths:
            if not path.exists():
                raise self._mistake(
                    where, f"{key}: there is no {path}; put it back, or take it out of the list"
                )
            if key == "views" and not path.is_dir() and path.suffix.lower() not in PICTURES:
                raise self._mistake(where, f"{key}: {path} is no picture; give clips and others as photos")
        return paths

    def _choice(self, person: Mapping[str, Any], where: str) -> Choice:
        given = {field.name: person[field.name] for field in fields(Choice) if field.name in person}
        try:
            times = tuple(Stretch.parse(text) for text in given.pop("times", []))
            return Choice(**given, times=times)
        except ValueError as error:
            raise self._mistake(where, str(error)) from error

    def _joined(self, first: Entry, second: Entry, where: str) -> Entry:
        """Joins two entries of one name: a value that differs from the default wins."""
        usual = Choice()
        values: dict[str, Any] = {}
        for name in (each.name for each in fields(Choice)):
            default = getattr(usual, name)
            given = {getattr(entry.choice, name) for entry in (first, second)} - {default}
            if len(given) > 1:
                both = " and ".join(sorted(map(str, given)))
                raise self._mistake(where, f"another person of this name has another {name} ({both})")
            values[name] = next(iter(given), default)
        pictures = tuple(dict.fromkeys((*first.pictures, *second.pictures)))
        return Entry(
            first.name, Choice(**values), pictures, tuple(dict.fromkeys((*first.photos, *second.photos)))
        )


_WORDS = {
    (str,): "a text in quotes",
    (bool,): "true or false",
    (int, float): "a number",
    (list,): "a list in brackets",
}


def _pictures_in(folder: Path) -> list[Path]:
    return [f for f in folder.iterdir() if f.suffix.lower() in PICTURES and not f.name.startswith(".")]


_CLOCK = r"(?:(\d+):)?(?:(\d+):)?(\d+(?:\.\d+)?)"
_STRETCH = re.compile(rf"(?:(?P<film>.*\S)\s+)?{_CLOCK}\s*-\s*{_CLOCK}")


@dataclass(frozen=True, slots=True)
class Stretch:
    """A half-open time range of one film or of all films."""

    start: float
    """Seconds by the film's own clock."""
    end: float
    film: str = ""
    """File name; empty = every film."""

    @classmethod
    def parse(cls, text: str) -> Stretch:
        """From `1:20-1:35`, `80-95.5`, `0:01:20-0:01:35`, optionally after a file name. Raises ValueError otherwise."""
        match = _STRETCH.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is not a time range; write for example 1:20-1:35 or film.mp4 1:20-1:35"
            )
        _, *clock = match.groups()
        start, end = _seconds(clock[:3]), _seconds(clock[3:])
        if end <= start:
            raise ValueError(f"{text!r} ends before it begins")
        return cls(start, end, match["film"] or "")


@dataclass(frozen=True, slots=True)
class Choice:
    """The user's choice for one person."""

    restore: bool = True
    strength: float = 1.0
    """Share of the restoration that is used, in [0, 1], times the run's strength."""
    restorer: str = ""
    """Empty = the run's restorer."""
    times: tuple[Stretch, ...] = ()
    """Empty = always."""

    def __post_init__(self) -> None:
        if not (math.isfinite(self.strength) and 0 <= self.strength <= 1):
            raise ValueError(f"strength must be between 0 and 1, got {self.strength}")

    def covers(self, film: str, seconds: float) -> bool:
        """Whether the person is restored at this moment."""
        if not self.restore or self.strength == 0:
            return False
        wanted = [stretch for stretch in self.times if stretch.film in ("", film)]
        return not self.times or any(stretch.start <= seconds < stretch.end for stretch in wanted)


LEFT_OUT = Choice(restore=False)


@dataclass(frozen=True, slots=True)
class Casting:
    """Choices for the people of one film."""

    choices: Mapping[str, Choice] = field(default_factory=dict)
    """By name."""
    strangers: Choice = Choice()
    """For everybody else."""
    film: str = ""
    """File name, for time ranges of one film."""
    start_seconds: float = 0.0
    """Start of the run within the film."""

    @property
    def leaves_out(self) -> bool:
        """Whether a person is skipped entirely or at times."""
        return any(not choice.restore or choice.times for choice in self.choices.values())

    @property
    def restorers(self) -> dict[str, str]:
        """Restorers requested for people who are restored, each with the name of one such person."""
        return {c.restorer: name for name, c in self.choices.items() if c.restore and c.restorer}

    def covers(self, choice: Choice, seconds: float) -> bool:
        """Whether `choice` covers this moment, in seconds from the start of the run."""
        return choice.covers(self.film, self.start_seconds + seconds)

    def choice(self, name: str | None) -> Choice:
        """For the person `name`; empty = unnamed; None = not identified yet."""
        if name:
            return self.choices.get(name, self.strangers)
        # An unidentified face may be a skipped person.
        return LEFT_OUT if name is None and self.leaves_out else self.strangers


EVERYBODY = Casting()


def chosen(
    choices: Mapping[str, Choice], *, only: Sequence[str], skip: Sequence[str], strangers: bool, where: str
) -> Casting:
    """Choices after `--only` and `--skip`. Raises ConfigError for a name that is not in `where`."""
    for option, names in (("--only", only), ("--skip", skip)):
        for name in names:
            if name not in choices:
                known = ", ".join(sorted(choices)) or "none"
                raise ConfigError(f"{option} {name}: no such person in {where}; known: {known}")
    both = sorted(set(only) & set(skip))
    if both:
        raise ConfigError(f"--only and --skip both name {both[0]}")
    found = {}
    for name, choice in choices.items():
        out = name in skip or (only and name not in only)
        # --only overrides `restore = false`.
        found[name] = LEFT_OUT if out else replace(choice, restore=choice.restore or name in only)
    return Casting(found, Choice() if strangers and not only else LEFT_OUT)


def _seconds(clock: Sequence[str | None]) -> float:
    """Seconds from (hours, minutes, seconds) or, with one colon, (minutes, None, seconds)."""
    first, second, last = clock
    if second is None:
        return 60 * int(first or 0) + float(last or 0)
    return 3600 * int(first or 0) + 60 * int(second) + float(last or 0)
