from __future__ import annotations

import logging
from pathlib import Path

import onnx
import pytest
import torch
from onnx import TensorProto, helper

from models import published_recognisers
from models.published_recognisers import ArcFaceRecogniser
from models.weights import CheckpointError


def write_mean_network(
    path: Path, batch: int | str = "N", *, normalises: bool = False, size: int = 112
) -> Path:
    """A recogniser whose embedding is the mean of each channel of its input, twice over."""
    value = helper.make_tensor_value_info("input", TensorProto.FLOAT, [batch, 3, size, size])
    result = helper.make_tensor_value_info("embedding", TensorProto.FLOAT, [batch, 6])
    nodes, name = [], "input"
    constants = []
    if normalises:
        for operation, number in (("Sub", 127.5), ("Mul", 1 / 127.5)):
            constants.append(helper.make_tensor(f"{operation}_c", TensorProto.FLOAT, [1], [number]))
            nodes.append(
                helper.make_node(operation, [name, f"{operation}_c"], [operation], name=f"{operation}_0")
            )
            name = operation
    nodes += [
        helper.make_node("ReduceMean", [name], ["mean"], axes=[2, 3], keepdims=0),
        helper.make_node("Concat", ["mean", "mean"], ["embedding"], axis=1),
    ]
    graph = helper.make_graph(nodes, "mean", [value], [result], initializer=constants)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8), str(path))
    return path


def coloured(*colours: tuple[int, int, int]) -> torch.Tensor:
    return torch.tensor(colours, dtype=torch.uint8)[:, :, None, None].expand(-1, -1, 112, 112)


@pytest.mark.parametrize("batch", ["N", 1, 2])
@pytest.mark.parametrize("normalises", [False, True])
def test_input_is_rgb_and_normalised_once(tmp_path: Path, batch: int | str, normalises: bool) -> None:
    recogniser = ArcFaceRecogniser(write_mean_network(tmp_path / "a.onnx", batch, normalises=normalises))
    embeddings = recogniser.embed(coloured((255, 0, 0), (0, 255, 0), (0, 0, 255)))
    expected = torch.tensor([[1, -1, -1], [-1, 1, -1], [-1, -1, 1]], dtype=torch.float32).repeat(1, 2)
    assert torch.allclose(embeddings, expected, atol=1e-5)


def test_no_crops_give_no_embeddings(tmp_path: Path) -> None:
    recogniser = ArcFaceRecogniser(write_mean_network(tmp_path / "a.onnx"))
    assert recogniser.embed(torch.zeros(0, 3, 112, 112, dtype=torch.uint8)).shape == (0, 6)


def test_the_name_tells_the_embedding_space(tmp_path: Path) -> None:
    assert ArcFaceRecogniser(write_mean_network(tmp_path / "w600k_r50.onnx")).name == "arcface-w600k_r50"


def test_other_crops_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="112"):
        ArcFaceRecogniser(write_mean_network(tmp_path / "a.onnx")).embed(coloured((1, 2, 3)).float())


def test_a_network_for_other_pictures_is_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"a\.onnx: not a recogniser"):
        ArcFaceRecogniser(write_mean_network(tmp_path / "a.onnx", size=128))


def test_a_damaged_file_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.onnx").write_bytes(b"no network")
    with pytest.raises(CheckpointError, match=r"a\.onnx: cannot be read"):
        ArcFaceRecogniser(tmp_path / "a.onnx")


def test_the_licence_is_told_once(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    published_recognisers._say_licence.cache_clear()
    path = write_mean_network(tmp_path / "a.onnx")
    with caplog.at_level(logging.WARNING):
        for _ in range(2):
            ArcFaceRecogniser(path)
    assert sum("non-commercial" in record.message for record in caplog.records) == 1
