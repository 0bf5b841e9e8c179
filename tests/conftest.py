"""What holds for every test."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
import torch


@pytest.fixture(autouse=True)
def same_threads() -> Iterator[None]:
    """Sums depend in their last bits on the number of threads, which some commands set for their whole process."""
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
