"""Imports point one way: configs <- models <- trackers <- pipeline; within these they run in no circle."""

from __future__ import annotations

import ast
from collections.abc import Iterator, Sequence
from graphlib import CycleError, TopologicalSorter
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


def name_of(path: Path) -> str:
    """The module that a file is."""
    return ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")


def run_on_import(statements: Sequence[ast.stmt]) -> Iterator[ast.Import | ast.ImportFrom]:
    """Imports outside of functions, but for those of type checkers alone."""
    for statement in statements:
        if isinstance(statement, ast.Import | ast.ImportFrom):
            yield statement
        elif isinstance(statement, ast.If) and "TYPE_CHECKING" in ast.unparse(statement.test):
            yield from run_on_import(statement.orelse)
        elif isinstance(statement, ast.If | ast.Try | ast.With | ast.ClassDef):
            for field in ("body", "orelse", "finalbody"):
                yield from run_on_import(getattr(statement, field, []))
            for handler in getattr(statement, "handlers", []):
                yield from run_on_import(handler.body)


def modules_imported(path: Path, modules: set[str]) -> set[str]:
    """Those of `modules` that run when a file is imported."""
    found: set[str] = set()
    for node in run_on_import(ast.parse(path.read_text(encoding="utf-8")).body):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names} & modules
        else:
            inner = {f"{node.module}.{alias.name}": alias.name for alias in node.names}
            found |= inner.keys() & modules
            # The package itself, where something is taken that is none of its modules.
            found |= {node.module or ""} & modules if inner.keys() - modules else set()
    return found


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


def test_imports_run_in_no_circle() -> None:
    modules = {name_of(path) for path in FILES}
    graph = {name_of(path): modules_imported(path, modules) for path in FILES}
    assert sum(len(imports) for imports in graph.values()) > len(modules)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" <- ".join(error.args[1]))


def test_few_files_lie_loose_in_the_pipeline() -> None:
    loose = sorted(path.name for path in (ROOT / "pipeline").glob("*.py"))
    assert len(loose) <= 8, f"{', '.join(loose)}: a module belongs into the room of what it knows"
