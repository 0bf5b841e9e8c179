"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch

from pipeline.media.encode import kept_scheduling


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
