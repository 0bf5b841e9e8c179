"""`configs/default.toml` documents every setting, truthfully."""

from __future__ import annotations

import dataclasses
import tomllib
from typing import Any

import configs
from pipeline.config import PipelineConfig


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
