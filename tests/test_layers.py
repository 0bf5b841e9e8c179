"""Imports point one way: configs <- models <- trackers <- pipeline."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
LAYERS = ["configs", "models", "trackers", "pipeline"]
FILES = sorted(path for layer in LAYERS for path in (ROOT / layer).rglob("*.py"))


def imported(path: Path) -> set[str]:
    """Top-level names of the modules that a file imports."""
    names: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            names.add(node.module or "")
    return {name.split(".")[0] for name in names}


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_point_downwards(path: Path) -> None:
    layer = LAYERS.index(path.relative_to(ROOT).parts[0])
    above = set(LAYERS[layer + 1 :])
    assert not imported(path) & above


@pytest.mark.parametrize("layer", LAYERS)
def test_packages_carry_the_mark(layer: str) -> None:
    assert '__project__ = "anchorface"' in (ROOT / layer / "__init__.py").read_text(encoding="utf-8")


def test_video_libraries_stay_in_their_layer() -> None:
    outside = [
        p for p in FILES if "av" in imported(p) and p.relative_to(ROOT).parts[0] in ("configs", "trackers")
    ]
    assert outside == []
