"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline import build
from pipeline.media.encode import kept_scheduling
from pipeline.report import provenance
from pipeline.serve import choice


@pytest.fixture(autouse=True, scope="session")
def quick_restorer() -> None:
    """`auto` is `fast` in tests, which takes a thirtieth of the time. `test_aligned.py` tests the real choice."""
    for module in (build, choice, provenance):
        assert vars(module)["AUTO"] == "aligned"
        vars(module)["AUTO"] = "fast"


@pytest.fixture(autouse=True)
def same_scheduling() -> Iterator[None]:
    """Clips that tests write with SVT-AV1 leave it at real-time priority, where root runs them."""
    with kept_scheduling():
        yield


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Sums depend in their last bits on the number of threads, which some commands set for their whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
