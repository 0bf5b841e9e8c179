"""Kept engines: taken where all that they depend on is the same, built again where they are damaged."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from models.engine import Engine
from models.engine_builders import Builder, EngineCache, Run, cache_folder, cache_key, state_hash
from support.engines import Stored, Tint, Workshop, warnings_of
from support.engines import make as make  # a fixture


def test_a_kept_engine_is_loaded(make: Callable[..., Engine], caplog: pytest.LogCaptureFixture) -> None:
    first, second = Workshop(), Workshop()
    assert make(first).wait(60)
    engine = make(second)
    assert engine.wait(60)
    assert (first.loads, second.loads, second.precisions) == (0, 1, [])
    assert engine.serving == "compile"
    assert warnings_of(caplog) == []


def test_an_engine_of_other_weights_is_not_taken(make: Callable[..., Engine]) -> None:
    first, second = Workshop(), Workshop()
    assert make(first).wait(60)
    assert make(second, Tint(0.6).eval()).wait(60)
    assert (second.loads, len(second.precisions)) == (0, 1)


def test_weights_and_structure_are_in_the_hash() -> None:
    networks = [Tint(), Tint(0.6), nn.Sequential(Tint())]
    assert len({state_hash(network) for network in networks}) == 3
    assert state_hash(Tint()) == state_hash(Tint())


def test_a_kept_engine_is_checked_again(make: Callable[..., Engine]) -> None:
    """A stale or foreign file under the right name does not serve."""
    first, second = Workshop(change=1 / 255), Workshop()
    assert make(first, mean_error=9.0, max_error=9.0).wait(60)
    second.builder = Builder(second.build, second.save, lambda path: Stored(torch.export.load(path), 1.0))
    engine = make(second)
    assert engine.wait(60)
    assert engine.serving == "eager"


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-100])


def forget_checksum(path: Path) -> None:
    path.with_suffix(".sha256").unlink()


@pytest.mark.parametrize("damage", [truncate, forget_checksum])
def test_a_damaged_engine_is_built_again(
    make: Callable[..., Engine],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
    damage: Callable[[Path], None],
) -> None:
    assert make(Workshop()).wait(60)
    (path,) = (tmp_path / "engines").glob("*.pt2")
    damage(path)
    second, third = Workshop(), Workshop()
    engine = make(second)
    assert engine.wait(60)
    assert (second.loads, len(second.precisions), engine.serving) == (0, 1, "compile")
    (sentence,) = warnings_of(caplog)
    assert "damaged" in sentence
    assert make(third).wait(60)
    assert third.loads == 1


def test_an_engine_that_cannot_be_loaded_is_built_again(
    make: Callable[..., Engine], caplog: pytest.LogCaptureFixture
) -> None:
    """Whole, but of another release."""

    def load(path: Path) -> Run:
        raise RuntimeError("serialised by another version")

    assert make(Workshop()).wait(60)
    second = Workshop()
    second.builder = Builder(second.build, second.save, load)
    engine = make(second)
    assert engine.wait(60)
    assert (len(second.precisions), engine.serving) == (1, "compile")
    (sentence,) = warnings_of(caplog)
    assert "another version" in sentence


def test_an_engine_serves_where_it_cannot_be_kept(
    make: Callable[..., Engine], caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    (tmp_path / "file").write_text("in the way")
    engine = make(Workshop(), cache=tmp_path / "file" / "engines")
    assert engine.wait(60)
    assert engine.serving == "compile"
    (sentence,) = warnings_of(caplog)
    assert "cannot be kept" in sentence


def test_a_broken_write_leaves_nothing(tmp_path: Path) -> None:
    def write(path: Path) -> None:
        path.write_bytes(b"half of it")
        raise RuntimeError("disk full")

    cache = EngineCache(tmp_path)
    with pytest.raises(RuntimeError, match="disk full"):
        cache.store("key", write)
    assert list(tmp_path.iterdir()) == []
    cache.store("key", lambda path: path.write_text("whole"))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["key.pt2", "key.sha256"]
    assert cache.find("key") == tmp_path / "key.pt2"


def test_all_that_an_engine_depends_on_is_in_its_key() -> None:
    base: dict[str, Any] = {
        "backend": "trt",
        "state": "abc",
        "shapes": [(4, 3, 256, 256), (4, 128)],
        "precision": torch.float16,
        "device": "NVIDIA L4 8.9",
        "versions": {"torch": "2.13.0", "torch-tensorrt": "2.13.0", "tensorrt": "11.0"},
    }
    others: dict[str, Any] = {
        "backend": "compile",
        "state": "abd",
        "shapes": [(8, 3, 256, 256), (8, 128)],
        "precision": torch.bfloat16,
        "device": "NVIDIA L4 9.0",
        "versions": {"torch": "2.13.0", "torch-tensorrt": "2.13.0", "tensorrt": "11.1"},
    }
    keys = [cache_key(**base)] + [cache_key(**{**base, name: value}) for name, value in others.items()]
    assert len(set(keys)) == 7
    assert cache_key(**base) == cache_key(**dict(reversed(base.items())))


@pytest.mark.parametrize(
    ("platform", "variable", "expected"),
    [
        ("linux", "XDG_CACHE_HOME", "place/anchorface/engines"),
        ("win32", "LOCALAPPDATA", "place/anchorface/engines"),
        ("linux", None, "home/.cache/anchorface/engines"),
        ("darwin", None, "home/Library/Caches/anchorface/engines"),
        ("win32", None, "home/AppData/Local/anchorface/engines"),
    ],
)
def test_the_cache_lies_where_the_platform_keeps_them(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, platform: str, variable: str | None, expected: str
) -> None:
    for name in ("XDG_CACHE_HOME", "LOCALAPPDATA"):
        monkeypatch.delenv(name, raising=False)
    if variable is not None:
        monkeypatch.setenv(variable, str(tmp_path / "place"))
    monkeypatch.setattr("models.engine_builders.sys.platform", platform)
    monkeypatch.setattr(Path, "home", lambda: tmp_path / "home")
    assert cache_folder() == tmp_path / expected
