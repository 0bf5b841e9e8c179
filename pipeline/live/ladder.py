"""How much is done for each frame: a step down where frames take too long, up again where there is time.

A state machine over measured times alone, so that it can be tried with any made-up sequence of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from pipeline.frames import FULL, Effort
from pipeline.live.settings import LadderConfig


@dataclass(frozen=True, slots=True)
class Step:
    """What is done for a frame."""

    name: str
    effort: Effort = FULL
    """How much the chain does."""
    bypass: bool = False
    """Nothing is done: the frame goes out as it came."""


def steps(*, restores: bool, has_light: bool, has_small: bool) -> tuple[Step, ...]:
    """The ladder from the top down: each step does less than the one before, in addition to what that left out.

    `has_light`: the chosen restorer has a quick one to take its place, `has_small`: there is one for smaller crops.
    """
    # A detection costs as much as a restoration: both in one frame would make it late.
    effort = replace(FULL, carried_at_detection=2)
    way = [Step("full", effort)]

    def less(name: str, effort: Effort) -> Effort:
        way.append(Step(name, effort))
        return effort

    effort = less("detect less", replace(effort, detection_interval=3))
    if has_light:
        effort = less("fast", replace(effort, light=True))
    if has_small:
        effort = less("smaller crop", replace(effort, small=True))
    if restores:
        effort = less("reuse", replace(effort, most_carried=12, least_carried=2, most_asked=1))
        less("one face", replace(effort, most_faces=1))
    return (*way, Step("bypass", bypass=True))


class Ladder:
    """Which of `count` steps to take, 0 the first and most costly.

    Down: the lag, what frames took beyond their budgets less what they left over, exceeds `tolerance` budgets.
    Up: after `patience` frames on a step, if its frames take less than the share `calm` of their budgets. A step
    up that does not last doubles the patience, so that what is too slow is tried ever more rarely.
    """

    def __init__(self, count: int, config: LadderConfig) -> None:
        if count < 1:
            raise ValueError(f"a ladder needs at least one step, got {count}")
        self._last, self._config = count - 1, config
        self.step = 0
        """The step for the next frame."""
        self.moves = 0
        """Steps taken up or down so far."""
        self._patience = config.patience
        self._lag_ms = 0.0
        self._mean_share: float | None = None
        self._frames = 0
        self._climbed = False

    def measure(self, took_ms: float, budget_ms: float) -> int:
        """The step after a frame that took `took_ms` where `budget_ms`, above 0, would have been right."""
        share = took_ms / budget_ms
        self._lag_ms = max(self._lag_ms + took_ms - budget_ms, 0.0)
        self._mean_share = share if self._mean_share is None else 0.9 * self._mean_share + 0.1 * share
        self._frames += 1
        if self._climbed and self._frames >= self._config.patience:
            self._climbed, self._patience = False, self._config.patience  # it has lasted
        if self._lag_ms > self._config.tolerance * budget_ms:
            self._down_to(min(self.step + 1, self._last))
        elif self.step and self._frames >= self._patience and self._mean_share < self._config.calm:
            self._move(self.step - 1, climbed=True)
        return self.step

    def fail(self) -> int:
        """Straight to the last step, after an error."""
        self._down_to(self._last)
        return self.step

    def _down_to(self, step: int) -> None:
        if self._climbed:
            self._patience = min(2 * self._patience, self._config.longest_patience)
        self._move(step, climbed=False)

    def _move(self, step: int, *, climbed: bool) -> None:
        self.moves += step != self.step
        self.step, self._climbed = step, climbed
        self._lag_ms, self._mean_share, self._frames = 0.0, None, 0
