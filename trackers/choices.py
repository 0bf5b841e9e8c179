"""What the user wants done with each person: whether, how strongly, by which restorer and when."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from configs import ConfigError

_CLOCK = r"(?:(\d+):)?(?:(\d+):)?(\d+(?:\.\d+)?)"
_STRETCH = re.compile(rf"(?:(?P<film>.*\S)\s+)?{_CLOCK}\s*-\s*{_CLOCK}")


@dataclass(frozen=True, slots=True)
class Stretch:
    """A stretch of a film, or of every film, half-open."""

    start: float
    """Seconds by the film's own clock."""
    end: float
    film: str = ""
    """Name of the file; empty = of every one."""

    @classmethod
    def parse(cls, text: str) -> Stretch:
        """From `1:20-1:35`, `80-95.5`, `0:01:20-0:01:35`, with a file's name before it if it is of one film only.

        Raises `ValueError` for anything else.
        """
        match = _STRETCH.fullmatch(text.strip())
        if match is None:
            raise ValueError(
                f"{text!r} is no stretch of time; write for example 1:20-1:35 or film.mp4 1:20-1:35"
            )
        _, *clock = match.groups()
        start, end = _seconds(clock[:3]), _seconds(clock[3:])
        if end <= start:
            raise ValueError(f"{text!r} ends before it begins")
        return cls(start, end, match["film"] or "")


@dataclass(frozen=True, slots=True)
class Choice:
    """What is done with one person."""

    restore: bool = True
    strength: float = 1.0
    """Share of the restoration that is used, in [0, 1], on top of the run's own."""
    restorer: str = ""
    """Empty = the run's own."""
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
    """For people without a name here."""
    film: str = ""
    """Name of the file, for stretches of one film only."""
    start_seconds: float = 0.0
    """Where in the film the run begins."""

    @property
    def leaves_out(self) -> bool:
        """Somebody is not restored, or not everywhere."""
        return any(not choice.restore or choice.times for choice in self.choices.values())

    @property
    def restorers(self) -> dict[str, str]:
        """The restorers that somebody who is restored asks for, and of each the name of one who does."""
        return {c.restorer: name for name, c in self.choices.items() if c.restore and c.restorer}

    def covers(self, choice: Choice, seconds: float) -> bool:
        """Whether `choice` asks for restoration so many seconds after the beginning of the run."""
        return choice.covers(self.film, self.start_seconds + seconds)

    def choice(self, name: str | None) -> Choice:
        """For the person `name`; empty = somebody without a name; None = nobody knows yet who it is."""
        if name:
            return self.choices.get(name, self.strangers)
        # It may be one of those who are to be left out.
        return LEFT_OUT if name is None and self.leaves_out else self.strangers


EVERYBODY = Casting()


def chosen(
    choices: Mapping[str, Choice], *, only: Sequence[str], skip: Sequence[str], strangers: bool, where: str
) -> Casting:
    """Choices with `--only` and `--skip`. Raises ConfigError for a name that is not in `where`."""
    for option, names in (("--only", only), ("--skip", skip)):
        for name in names:
            if name not in choices:
                known = ", ".join(sorted(choices)) or "nobody"
                raise ConfigError(f"{option} {name}: nobody of that name is in {where}; there are: {known}")
    both = sorted(set(only) & set(skip))
    if both:
        raise ConfigError(f"--only and --skip both name {both[0]}")
    found = {}
    for name, choice in choices.items():
        out = name in skip or (only and name not in only)
        # Who is asked for by name is restored, whatever the list says.
        found[name] = LEFT_OUT if out else replace(choice, restore=choice.restore or name in only)
    return Casting(found, Choice() if strangers and not only else LEFT_OUT)


def _seconds(clock: Sequence[str | None]) -> float:
    """Of hours, minutes and seconds; with one colon the first is minutes."""
    first, second, last = clock
    if second is None:
        return 60 * int(first or 0) + float(last or 0)
    return 3600 * int(first or 0) + 60 * int(second) + float(last or 0)
