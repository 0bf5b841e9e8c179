"""Networks made ready for a CPU answer as they did before, for any batch and any size."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from models.packing import PackedConvolution, fold_norms, pack_convolutions

needs_onednn = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this torch is built without oneDNN"
)


def small_network() -> nn.Sequential:
    """Strided, grouped, dilated and pointwise convolutions; norms that have seen something."""
    torch.manual_seed(0)
    network = nn.Sequential(
        nn.Conv2d(3, 16, 3, 2, 1, bias=False),
        nn.BatchNorm2d(16),
        nn.PReLU(16),
        nn.Conv2d(16, 16, 3, padding=2, dilation=2, groups=16),
        nn.Sequential(nn.Conv2d(16, 24, 1), nn.BatchNorm2d(24)),
        nn.Conv2d(24, 5, 2, 2),
    )
    network.train()
    for _ in range(3):
        network(torch.rand(4, 3, 32, 32) * 3)
    return network.eval()


@needs_onednn
@pytest.mark.parametrize(("count", "side"), [(1, 32), (3, 32), (2, 48)])
def test_folded_and_packed_network_answers_the_same(count: int, side: int) -> None:
    network = small_network()
    ready = copy.deepcopy(network)
    fold_norms(ready)
    pack_convolutions(ready, torch.zeros(1, 3, 32, 32))
    kinds = [type(module) for module in ready.modules()]
    assert nn.BatchNorm2d not in kinds
    assert nn.Conv2d not in kinds
    pictures = torch.rand(count, 3, side, side)
    with torch.inference_mode():
        assert torch.allclose(ready(pictures), network(pictures), atol=1e-5)


def test_a_norm_that_does_not_follow_a_convolution_stays() -> None:
    network = nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU(), nn.BatchNorm2d(4)).eval()
    fold_norms(network)
    assert [type(module) for module in network] == [nn.BatchNorm2d, nn.Conv2d, nn.ReLU, nn.BatchNorm2d]


def test_without_onednn_nothing_is_packed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.mkldnn, "is_available", lambda: False)
    network = small_network()
    pack_convolutions(network, torch.zeros(1, 3, 32, 32))
    assert not any(isinstance(module, PackedConvolution) for module in network.modules())


@needs_onednn
@pytest.mark.parametrize("padding", [{"padding": "same"}, {"padding": 1, "padding_mode": "reflect"}])
def test_other_paddings_are_refused(padding: dict[str, object]) -> None:
    convolution = nn.Conv2d(3, 4, 3, **padding)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="only zero padding in pixels"):
        pack_convolutions(nn.Sequential(convolution), torch.zeros(1, 3, 8, 8))
