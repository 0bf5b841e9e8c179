"""Finished pictures of a short stretch in a file, as they are: the cells of a trial's video."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from typing import IO

import av
import numpy as np

from pipeline.coding import planes_of
from pipeline.colour import new_frame
from pipeline.compare import shrunk
from pipeline.errors import SinkError


class Cells:
    """A sink that keeps every picture, shrunk to one size, sample by sample in `file`; iterated, it gives them again.

    Nothing is coded: all formats are kept, and a trial is short. Raises SinkError where the disk is full.
    """

    def __init__(self, file: IO[bytes], size: tuple[int, int]) -> None:
        self._file, self._size = file, size
        self._like: av.VideoFrame | None = None
        self.count = 0
        """Pictures kept."""

    def write(self, native: av.VideoFrame, pts: int) -> None:
        """Keeps one picture; its time is that of the source's frame."""
        small = shrunk(native, self._size)
        self._like = self._like or small
        try:
            for plane in planes_of(small):
                self._file.write(np.ascontiguousarray(plane).tobytes())
            self._file.flush()
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
                raise SinkError("the disk is full; free some space, or try fewer seconds") from error
            raise
        self.count += 1

    def __iter__(self) -> Iterator[av.VideoFrame]:
        self._file.seek(0)
        for _ in range(self.count):
            assert self._like is not None
            fresh = new_frame(self._like, *self._size)
            for plane in planes_of(fresh):
                samples = np.frombuffer(self._file.read(plane.size * plane.itemsize), plane.dtype)
                plane[:] = samples.reshape(plane.shape)
            yield fresh
