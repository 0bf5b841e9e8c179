"""What holds for every test."""

from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
import torch

from pipeline import build
from pipeline.media.encode import kept_scheduling
from pipeline.report import provenance
from pipeline.serve import choice


@pytest.fixture(autouse=True, scope="session")
def shared_cores() -> None:
    """With `-n` each process of tests, and each program it starts, takes its share of the cores."""
    processes = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    if processes > 1:
        threads = max(1, (os.cpu_count() or 1) // processes)
        torch.set_num_threads(threads)
        os.environ["OMP_NUM_THREADS"] = str(threads)


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
