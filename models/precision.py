"""The floating point type that networks compute in: half as wide where the hardware multiplies it natively.

Only matrix products and convolutions run in it. Norms, the flow's noise and what is added to a crop stay in float32.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn

PRECISIONS = {"float32": torch.float32, "float16": torch.float16, "bfloat16": torch.bfloat16}
CAPABILITY = {torch.float16: (7, 0), torch.bfloat16: (8, 0)}
"""Compute capability from which a GPU's tensor cores take a type."""


def restorer_precision(wanted: str, device: torch.device) -> torch.dtype:
    """What a restorer computes in on `device`, for `auto` or a name of `PRECISIONS`.

    `auto` is bfloat16 where the hardware multiplies it natively and float32 elsewhere. Raises ValueError for what the
    device is not made for; a CPU does bfloat16 without native products too, but slowly.
    """
    if wanted == "auto":
        return torch.bfloat16 if _multiplies_bfloat16(device) else torch.float32
    precision = PRECISIONS[wanted]
    if device.type == "cpu":
        if precision is torch.float16:
            raise ValueError("float16 is for CUDA devices; on a CPU there are float32 and bfloat16")
        return precision
    check_capability(precision, device)
    return precision


def check_capability(precision: torch.dtype, device: torch.device) -> None:
    """Raises ValueError where the GPU `device` has no tensor cores for `precision`; says nothing of other devices."""
    capability = torch.cuda.get_device_capability(device) if device.type == "cuda" else None
    needed = CAPABILITY.get(precision, (0, 0))
    if capability is not None and capability < needed:
        raise ValueError(f"{name_of(precision)} needs compute capability {needed}, this GPU has {capability}")


def name_of(precision: torch.dtype) -> str:
    """As settings call it."""
    return str(precision).removeprefix("torch.")


def lower_weights(network: nn.Module, precision: torch.dtype, keep: Collection[nn.Module] = ()) -> None:
    """Keeps the weights of linear layers and convolutions in `precision`, so that no pass converts them again.

    The network then runs under `computing` alone. Its RMS norms take float32, which autocast would not give them.
    `keep`: layers that the network runs in float32.
    """
    if precision is torch.float32:
        return
    for module in network.modules():
        if isinstance(module, nn.Linear | nn.Conv2d) and module not in keep:
            module.to(precision)
        elif isinstance(module, nn.RMSNorm):
            module.register_forward_pre_hook(_in_float32)


def computing(device: torch.device, precision: torch.dtype) -> AbstractContextManager[object]:
    """In which matrix products and convolutions run in `precision`; changes nothing for float32."""
    if precision is torch.float32:
        return nullcontext()
    return torch.autocast(device.type, precision)


class Mixed(nn.Module):
    """A network whose products run in `precision`, while inputs and output are those of the network."""

    def __init__(self, network: nn.Module, precision: torch.dtype) -> None:
        super().__init__()
        self.network = network
        self.precision = precision

    def forward(self, *inputs: Tensor) -> Tensor:
        with computing(inputs[0].device, self.precision):
            output: Tensor = self.network(*inputs)
        return output.float()


def _multiplies_bfloat16(device: torch.device) -> bool:
    if device.type == "cuda":
        return torch.cuda.get_device_capability(device) >= CAPABILITY[torch.bfloat16]
    if device.type != "cpu" or not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        return False
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("amx_bf16") or capabilities.get("avx512_bf16"))


def _in_float32(module: nn.Module, arguments: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(argument.float() for argument in arguments)
