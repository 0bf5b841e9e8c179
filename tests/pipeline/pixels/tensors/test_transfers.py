"""What goes between the system's memory and a device's, and that nothing else does.

The `meta` device stands for a GPU here: it has shapes and no samples, so it runs everywhere, and any operation that
would look at a sample, or mix it with one of the CPU, is an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from pipeline.media.coding import planes_of
from pipeline.pixels.blend import BlendConfig
from pipeline.pixels.tensors.blend import Blender
from pipeline.pixels.tensors.crops import CropReader
from pipeline.pixels.tensors.surface import download_surface, upload_surface
from pipeline.pixels.tensors.transfer import Transfer
from support.clips import Tags, native_frame
from support.codings import (
    CROP_PX,
    each_coding,
    each_device,
    needs_cuda,
    noisy_frame,
    placed,
    restored,
    scattered,
)

META = torch.device("meta")


class MetaTransfer(Transfer):
    """To a device without samples, and back as if all were found that is asked for."""

    downloads = 0

    def upload(self, arrays: Sequence[NDArray[Any]]) -> torch.Tensor:
        return super().upload(arrays).to(META)

    def download(self, tensor: torch.Tensor) -> NDArray[Any]:
        assert tensor.device == META
        self.downloads += 1
        return np.resize(np.array([9, 1, 1000, 1]), tuple(tensor.shape)).astype(
            torch.empty(0, dtype=tensor.dtype).numpy().dtype
        )


class OnOneDevice(TorchDispatchMode):
    """Refuses operations that mix devices."""

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
        devices = {tensor.device.type for tensor in tensors}
        assert len(devices) <= 1 or "_to_copy" in str(function), f"{function} on {devices}"
        return function(*args, **(kwargs or {}))


@each_coding
def test_the_device_is_waited_for_once_for_crops_and_twice_for_blending(
    pixel_format: str, tags: Tags
) -> None:
    native = noisy_frame(pixel_format, tags, 6)
    frame = restored(native, scattered(8, 8), smooth=True)
    reader, blender = CropReader(torch.device("cpu")), Blender(torch.device("cpu"))
    reader._transfer, blender._transfer = of_crops, of_blending = MetaTransfer(META), MetaTransfer(META)
    with OnOneDevice():
        assert len(reader.read_crops(native, [face.matrix for face in frame.tracked.faces], CROP_PX)) == 8
        blender.blend(frame, BlendConfig())
    assert (of_crops.downloads, of_blending.downloads) == (1, 2)


@each_device
@pytest.mark.parametrize("pixel_format", ["yuv420p", "yuv422p10le", "gbrp", "gray"])
def test_planes_come_back_from_a_device_as_they_went(pixel_format: str, device: str) -> None:
    native = native_frame(0, 160, 120, pixel_format)
    planes, transfer = planes_of(native), Transfer(torch.device(device))
    rng = np.random.default_rng(0)
    for plane in planes:
        plane[:] = rng.integers(0, np.iinfo(plane.dtype).max + 1, plane.shape)  # type: ignore[arg-type]
    before = [plane.copy() for plane in planes]
    boxes = [[(3, 5, 40, 41), (20, 10, 61, 33)] for _ in planes]
    with transfer.stream():
        surface = upload_surface(planes, boxes, transfer)
        region = surface.region(len(planes) - 1, (20, 10, 61, 33))
        assert np.array_equal(region.cpu().numpy(), before[-1][10:33, 20:61])
        for plane in planes:
            plane[5:41, 3:61] = 0
        download_surface(surface, planes, transfer)
    assert all(np.array_equal(a, b) for a, b in zip(before, planes, strict=True))


def test_a_result_is_read_when_its_stream_is_done(monkeypatch: pytest.MonkeyPatch) -> None:
    # With all that is CUDA replaced: the order of the steps is the same on a GPU.
    steps: list[str] = []
    empty, copy = torch.empty, torch.Tensor.copy_

    class Stream:
        def __init__(self, device: torch.device) -> None: ...

        def synchronize(self) -> None:
            steps.append("wait")

    def noted_empty(*shape: Any, pin_memory: bool = False, **options: Any) -> torch.Tensor:
        steps.append("pinned memory" if pin_memory else "memory")
        return empty(*shape, **options)

    def noted_copy(self: torch.Tensor, source: torch.Tensor, non_blocking: bool = False) -> torch.Tensor:
        steps.append("copy" if non_blocking else "copy and wait")
        return copy(self, source)

    monkeypatch.setattr(torch.cuda, "Stream", Stream)
    monkeypatch.setattr(torch.cuda, "stream", lambda stream: nullcontext(steps.append("stream")))
    monkeypatch.setattr(torch, "empty", noted_empty)
    monkeypatch.setattr(torch.Tensor, "copy_", noted_copy)
    transfer = Transfer(torch.device("cuda"))
    transfer.device = torch.device("cpu")
    with transfer.stream():
        there = transfer.upload([np.arange(4).reshape(2, 2), np.arange(3)])
        back = transfer.download(there)
    assert steps == ["stream", "pinned memory", "pinned memory", "copy", "wait"]
    assert back.tolist() == [0, 1, 2, 3, 0, 1, 2]


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_cuda)])
def test_copies_to_a_gpu_go_through_page_locked_memory_on_a_stream_of_their_own(
    device: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    transfer, pinned, streams = Transfer(torch.device(device)), [], []
    to = torch.Tensor.to

    def spied(self: torch.Tensor, *arguments: object, **options: object) -> torch.Tensor:
        pinned.append(self.is_pinned() and options.get("non_blocking"))
        streams.append(torch.cuda.current_stream())
        return to(self, *arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(torch.Tensor, "to", spied)
    with transfer.stream():
        there = transfer.upload([np.arange(5, dtype=np.float32), np.arange(3, dtype=np.float32)])
        back = transfer.download(there)
    assert pinned == [True]
    assert streams[0] != torch.cuda.default_stream()
    assert there.is_cuda
    assert back.tolist() == [0, 1, 2, 3, 4, 0, 1, 2]
    assert not torch.from_numpy(back).is_pinned()


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=needs_cuda)])
def test_nothing_is_left_on_a_gpu_between_frames(device: str) -> None:
    native, reader = native_frame(0, 1280, 720), CropReader(torch.device(device))
    matrices = [placed(0.5, (400, 300), 256), placed(0.9, (900, 400), 256)]
    reader.read_crops(native, matrices, 256)
    torch.cuda.synchronize()
    before = torch.cuda.memory_allocated()
    kept = [reader.read_crops(native, matrices, 256) for _ in range(5)]
    assert torch.cuda.memory_allocated() == before
    assert all(crop.device.type == "cpu" for crops in kept for crop in crops)
