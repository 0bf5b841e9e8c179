from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from models.published_recognisers import AdaFace, AdaFaceRecogniser
from models.weights import CheckpointError


@pytest.fixture(scope="module")
def network() -> AdaFace:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = AdaFace(18).eval()
        for name, value in network.state_dict().items():
            if name.endswith("running_mean"):
                value.normal_(0, 0.1)
    return network


@pytest.fixture(scope="module")
def path(network: AdaFace, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Named as in the published training checkpoints, with the classifier that comes with them."""
    path = tmp_path_factory.mktemp("adaface") / "weights.safetensors"
    state = {f"model.{name}": value.contiguous() for name, value in network.state_dict().items()}
    save_file({**state, "head.kernel": torch.zeros(512, 3)}, path)
    return path


def crops(count: int) -> Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, 256, (count, 3, 112, 112), dtype=torch.uint8, generator=generator)


def test_embeddings_are_the_network_s_with_their_norm(network: AdaFace, path: Path) -> None:
    pictures = crops(2)
    with torch.inference_mode():
        expected = network((pictures[:, [2, 1, 0]].float() / 255 - 0.5) / 0.5)
    embeddings = AdaFaceRecogniser(path).embed(pictures)
    assert embeddings.shape == (2, 512)
    assert torch.allclose(embeddings, expected, atol=1e-4)
    assert not torch.allclose(embeddings.norm(dim=1), torch.ones(2), atol=0.1)


def test_keys_without_prefix_load_as_well(network: AdaFace, path: Path, tmp_path: Path) -> None:
    plain = tmp_path / "plain.safetensors"
    save_file({name: value.contiguous() for name, value in network.state_dict().items()}, plain)
    assert torch.equal(AdaFaceRecogniser(plain).embed(crops(1)), AdaFaceRecogniser(path).embed(crops(1)))


def test_the_name_tells_the_embedding_space(path: Path) -> None:
    assert AdaFaceRecogniser(path).name == "adaface-ir18"


@pytest.mark.parametrize(("layers", "blocks"), [(18, 8), (50, 24), (101, 49)])
def test_the_layers_carry_the_published_names(layers: int, blocks: int) -> None:
    with torch.device("meta"):
        shapes = {name: tuple(value.shape) for name, value in AdaFace(layers).state_dict().items()}
    assert shapes["input_layer.0.weight"] == (64, 3, 3, 3)
    assert shapes["output_layer.3.weight"] == (512, 25088)
    assert shapes[f"body.{blocks - 1}.res_layer.5.running_var"] == (512,)
    assert f"body.{blocks}.res_layer.0.weight" not in shapes
    # Where the width stays there is nothing to learn in the shortcut, even if it strides.
    assert "body.0.shortcut_layer.0.weight" not in shapes
    assert "output_layer.4.weight" not in shapes


def test_where_nothing_is_learnt_the_shortcut_takes_every_second_pixel(network: AdaFace) -> None:
    x = torch.linspace(-1, 1, 2 * 64 * 6 * 6).reshape(2, 64, 6, 6)
    block = network.body[0]
    assert torch.allclose(block(x) - block.res_layer(x), x[:, :, ::2, ::2], atol=1e-4)  # type: ignore[operator]


def test_the_number_of_layers_is_read_from_the_keys(tmp_path: Path) -> None:
    # Only names count for this; a complete IR-50 would be 170 MB.
    names = [name for name in AdaFace(18).state_dict() if not name.startswith("body")]
    state = {name: torch.zeros(1) for name in [*names, *(f"body.{i}.res_layer.0.weight" for i in range(24))]}
    save_file(state, tmp_path / "a.safetensors")
    with pytest.raises(CheckpointError, match="IR-50"):
        AdaFaceRecogniser(tmp_path / "a.safetensors")


def test_another_network_s_weights_are_named(tmp_path: Path) -> None:
    save_file({"encoder.weight": torch.zeros(3)}, tmp_path / "other.safetensors")
    with pytest.raises(CheckpointError, match=r"other\.safetensors: not AdaFace .*encoder"):
        AdaFaceRecogniser(tmp_path / "other.safetensors")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"none\.safetensors"):
        AdaFaceRecogniser(tmp_path / "none.safetensors")


def test_pickled_weights_need_permission(network: AdaFace, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    torch.save({"state_dict": {f"model.{k}": v for k, v in network.state_dict().items()}}, path)
    with pytest.raises(CheckpointError, match="pickle"):
        AdaFaceRecogniser(path)
    assert AdaFaceRecogniser(path, allow_pickle=True).embed(crops(1)).shape == (1, 512)


def test_no_crops_give_no_embeddings(path: Path) -> None:
    assert AdaFaceRecogniser(path).embed(crops(0)).shape == (0, 512)


def test_other_crops_are_refused(path: Path) -> None:
    with pytest.raises(ValueError, match="112"):
        AdaFaceRecogniser(path).embed(torch.zeros(1, 3, 64, 64, dtype=torch.uint8))
