"""Settings: one loader, refusals by name."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Literal

import pytest

import configs
from configs import ConfigError


@dataclass(frozen=True, slots=True)
class Inner:
    window: int = 4
    share: float = 0.5
    limit: float | None = None
    mode: Literal["soft", "hard"] = "soft"
    names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if self.window < 1:
            raise ValueError(f"window must be at least 1, got {self.window}")


@dataclass(frozen=True, slots=True)
class Outer:
    renamed: ClassVar = {"span": ("restore.window",), "portion": ("restore.share", "restore.limit")}

    restore: Inner = field(default_factory=Inner)
    depth: int = 2


def test_changes_win_over_the_file_and_the_file_over_defaults(tmp_path: Path) -> None:
    path = tmp_path / "my.toml"
    path.write_text('depth = 1\n[restore]\nwindow = 7\nshare = 1\nnames = ["a"]\n')
    loaded = configs.load(Outer, path, ["restore.window=9", "restore.mode=hard", "restore.limit=2"])
    assert loaded == Outer(Inner(9, 1.0, 2.0, "hard", ("a",)), 1)


def test_dump_is_read_back_to_the_same(tmp_path: Path) -> None:
    settings = Outer(Inner(limit=None, names=('quote " and \\', "ü")), depth=0)
    path = tmp_path / "dumped.toml"
    path.write_text(configs.dump(settings), encoding="utf-8")
    assert configs.load(Outer, path) == settings


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("restore.windw=2", "unknown setting restore.windw; did you mean restore.window?"),
        ("restore.window=true", "restore.window must be int, got True"),
        ("restore.window=0", "window must be at least 1, got 0"),
        ("restore.mode=loud", "restore.mode must be one of 'soft', 'hard', got 'loud'"),
        ("restore=3", "restore is a group of settings, got 3"),
        ("depth.x=3", "unknown|depth must be int"),
        ("depth", "a change must look like"),
        ("restore.names=3", "restore.names must be a list"),
    ],
)
def test_wrong_settings_are_refused_by_name(change: str, sentence: str) -> None:
    with pytest.raises(ConfigError) as caught:
        configs.load(Outer, None, [change])
    assert any(part in str(caught.value) for part in sentence.split("|"))


def test_unreadable_and_broken_files_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read"):
        configs.load(Outer, tmp_path / "missing.toml")
    broken = tmp_path / "broken.toml"
    broken.write_text("depth = = 2")
    with pytest.raises(ConfigError, match="not a TOML file"):
        configs.load(Outer, broken)


def test_unknown_preset_lists_what_there_is() -> None:
    with pytest.raises(ConfigError, match=r"there are: .*default"):
        configs.preset("nothing")


def test_earlier_names_still_work_with_one_warning_each(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    configs._warn_of.cache_clear()
    path = tmp_path / "old.toml"
    path.write_text("span = 7\nportion = 0.25\n")
    for _ in range(2):
        loaded = configs.load(Outer, path, ["span=9"])
        assert (loaded.restore.window, loaded.restore.share, loaded.restore.limit) == (9, 0.25, 0.25)
    assert [record.getMessage() for record in caplog.records] == [
        "the setting span is now named restore.window",
        "the setting portion is now named restore.share and restore.limit",
    ]


def test_none_under_an_earlier_name_is_the_default(tmp_path: Path) -> None:
    path = tmp_path / "old.toml"
    path.write_text("span = 7\n")
    assert configs.load(Outer, path, ["span=none"]).restore.window == 4


def test_later_changes_win_under_either_name() -> None:
    assert configs.load(Outer, None, ["span=7", "restore.window=8"]).restore.window == 8
    assert configs.load(Outer, None, ["restore.window=8", "span=7"]).restore.window == 7
