"""Trained networks prepared for a CPU: normalisations folded into convolutions, weights of convolutions packed once.

`nn.Conv2d` keeps its weights as trained, and oneDNN reorders them for its kernels in every call: a tenth of the time of
`fast`, more where pictures are small. The operators with packed weights are those TorchInductor writes into frozen
graphs. They are called directly, because not every machine has a compiler, and compiling takes longer than restoring a
short clip.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval


def fold_norms(network: nn.Module) -> None:
    """Folds each batch normalisation of `network`, in evaluation mode, into the convolution before it.

    A normalisation that stands next after a convolution among the children of a module must be applied to that
    convolution's output and to nothing else.
    """
    for module in list(network.modules()):
        for (name, convolution), (norm_name, norm) in pairwise(list(module.named_children())):
            if isinstance(convolution, nn.Conv2d) and isinstance(norm, nn.BatchNorm2d):
                setattr(module, name, fuse_conv_bn_eval(convolution, norm))
                setattr(module, norm_name, nn.Identity())


@torch.inference_mode()
def pack_convolutions(network: nn.Module, *inputs: Tensor, precision: torch.dtype = torch.float32) -> None:
    """Replaces the convolutions of `network`, on a CPU, by packed ones that compute in `precision`; for inference only.

    They are packed for the sizes of `inputs`, an example of the network's inputs; other sizes give right results too,
    but more slowly. Without oneDNN nothing is changed.
    """
    if not torch.backends.mkldnn.is_available():  # type: ignore[no-untyped-call]
        return
    packed: dict[nn.Module, PackedConvolution] = {}

    def pack(module: nn.Module, arguments: tuple[Tensor, ...]) -> None:
        assert isinstance(module, nn.Conv2d)
        packed[module] = PackedConvolution(module, arguments[0].shape, precision)

    convolutions = [module for module in network.modules() if isinstance(module, nn.Conv2d)]
    hooks = [convolution.register_forward_pre_hook(pack) for convolution in convolutions]
    network(*inputs)
    for hook in hooks:
        hook.remove()
    for module in list(network.modules()):
        for name, child in list(module.named_children()):
            if child in packed:
                setattr(module, name, packed[child])


class PackedConvolution(nn.Module):
    """An `nn.Conv2d` whose weights lie as oneDNN wants them; without gradient and not part of a state dict."""

    def __init__(
        self, convolution: nn.Conv2d, input_size: torch.Size, precision: torch.dtype = torch.float32
    ) -> None:
        """`input_size`: (N, C, H, W) of the pictures that the weights are packed for.

        `precision`: of the products, which are summed in float32, and of the result. Raises `ValueError` for a
        padding other than zeros in whole pixels.
        """
        super().__init__()
        if isinstance(convolution.padding, str) or convolution.padding_mode != "zeros":
            raise ValueError(f"only zero padding in pixels can be packed, got {convolution}")
        self._geometry = (
            list(convolution.padding),
            list(convolution.stride),
            list(convolution.dilation),
            convolution.groups,
        )
        self._weight: Tensor = torch.ops.mkldnn._reorder_convolution_weight(
            convolution.weight.detach().to(precision), *self._geometry, list(input_size)
        )
        self._bias = None if convolution.bias is None else convolution.bias.detach().to(precision)
        self._precision = precision

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) on the CPU to (N, C', H', W') in the layer's precision, channels last."""
        convolved: Tensor = torch.ops.mkldnn._convolution_pointwise(
            x.to(self._precision), self._weight, self._bias, *self._geometry, "none", [], ""
        )
        return convolved
