"""The small klein and its adapters, made once for all tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from safetensors.torch import save_file

from support.tiny_klein import lora, write_model, write_own


@pytest.fixture(scope="session")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("klein") / "distilled"
    write_model(path)
    return path


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A model that may be broken."""
    write_model(tmp_path / "model")
    return tmp_path / "model"


@pytest.fixture(scope="session")
def published(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter as the published one."""
    path = tmp_path_factory.mktemp("published") / "lora_weights.safetensors"
    save_file(lora(), path)
    return path


@pytest.fixture(scope="session")
def own(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An adapter of ours."""
    path = tmp_path_factory.mktemp("own") / "adapter.safetensors"
    write_own(path)
    return path


@pytest.fixture(params=["published", "own"])
def adapter(request: pytest.FixtureRequest) -> Path:
    path: Path = request.getfixturevalue(request.param)
    return path
