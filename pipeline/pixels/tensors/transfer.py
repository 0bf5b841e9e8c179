"""Between the memory of the system and that of a device, beside whatever else the device does."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor


class Transfer:
    """Carries arrays to a device and back, for one stage, which may be in one thread at a time.

    On a GPU the stage has a stream of its own and its copies go through page-locked memory, so that they and its
    computing overlap with what other stages do on theirs. Nothing on the device may be handed to another stream: a
    stage ends with `download`, which waits until all that it asked for is done.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        cuda = device.type == "cuda"
        self._stream = torch.cuda.Stream(device) if cuda else None  # type: ignore[no-untyped-call]

    def stream(self) -> AbstractContextManager[object]:
        """In which everything of this stage is to run, copies too."""
        return nullcontext() if self._stream is None else torch.cuda.stream(self._stream)

    def upload(self, arrays: Sequence[NDArray[Any]]) -> Tensor:
        """The samples of `arrays`, which have one type, one after the other: (L,) on the device.

        Returns before they are there; what comes later on this stream waits for them.
        """
        dtype = torch.from_numpy(np.zeros(0, arrays[0].dtype)).dtype
        host = torch.empty(sum(array.size for array in arrays), dtype=dtype, pin_memory=self._is_pinned)
        samples, end = host.numpy(), 0
        for array in arrays:
            start, end = end, end + array.size
            samples[start:end].reshape(array.shape)[...] = array
        # The memory may be given up at once: torch keeps it until the copy is done.
        return host.to(self.device, non_blocking=True)

    def download(self, tensor: Tensor) -> NDArray[Any]:
        """`tensor` in ordinary memory, when everything on this stream is done."""
        if self._stream is None:
            return np.asarray(tensor.numpy())
        host = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
        host.copy_(tensor, non_blocking=True)
        self._stream.synchronize()
        # A copy, as page-locked memory is scarce and what is downloaded may be kept for long.
        return np.array(host.numpy())

    @property
    def _is_pinned(self) -> bool:
        return self._stream is not None
