"""`configs/default.toml` is made from the settings and their docstrings."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import Any

import pytest

import configs
from configs.document import documented
from pipeline.config import PipelineConfig, default_file


@dataclasses.dataclass(frozen=True)
class Inner:
    """A group."""

    silent: int = 1


@dataclasses.dataclass(frozen=True)
class Outer:
    inner: Inner = dataclasses.field(default_factory=Inner)


def names(config: Any, where: str = "") -> list[str]:
    found = []
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        inner = (
            names(value, f"{where}{field.name}.") if dataclasses.is_dataclass(value) else [where + field.name]
        )
        found += inner
    return found


def test_the_file_gives_the_defaults() -> None:
    assert configs.load(PipelineConfig, configs.preset("default")) == PipelineConfig()


def test_the_file_is_made_from_the_code() -> None:
    """After a change of a setting or its docstring: ./just defaults."""
    assert configs.preset("default").read_text(encoding="utf-8") == default_file()


def test_a_setting_without_a_sentence_is_refused() -> None:
    with pytest.raises(ValueError, match=r"inner\.silent has no docstring"):
        documented(Outer())


def test_every_setting_is_there_with_a_sentence() -> None:
    text = configs.preset("default").read_text(encoding="utf-8")
    values = tomllib.loads(text)
    for name in names(PipelineConfig()):
        group: Any = values
        for part in name.split("."):
            assert part in group, name
            group = group[part]
    lines = text.splitlines()
    for number, line in enumerate(lines):
        if " = " in line and not line.startswith("#"):
            assert lines[number - 1].startswith("# "), line
