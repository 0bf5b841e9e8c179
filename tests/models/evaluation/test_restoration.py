"""Restorers side by side: who is told what, what is compared, and what is kept."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from torch import Tensor

from configs import ConfigError
from models.degradation.stills import MODERATE, SEVERE, Preset
from models.evaluation import __main__ as evaluate
from models.evaluation.faces import PRESETS, Cache, read_clip_views
from models.evaluation.meter import Meter, difference_table, table
from models.evaluation.restoration import (
    Experiment,
    Method,
    experiment,
    fast_method,
    iconface_methods,
    other_views,
    restored,
)
from models.iconface.restorer import IconFaceRestorer
from models.iconface.settings import IconFaceSettings
from models.pictures import Picture
from models.protocols import Needs, References, Request, Result
from models.recogniser import EmbeddedRecogniser
from models.weights import CheckpointError
from support.clips import astronaut
from support.evaluation import evaluate_with, folder_of_faces, save_iconface, write_index


class Echo:
    """Answers with the first reference, or with the crop where it is told none; counts what it was told."""

    needs = Needs(256)

    def __init__(self) -> None:
        self.told: list[int] = []

    def restore(self, requests: Sequence[Request]) -> list[Result]:
        self.told += [len(request.references) for request in requests]
        return [Result((*request.references.crops, request.crop)[0]) for request in requests]


def person(upside_down: bool, views: int) -> list[Picture]:
    picture = astronaut()[::-1] if upside_down else astronaut()
    return [np.ascontiguousarray(np.roll(picture, 8 * view, axis=1)) for view in range(views)]


def measured(views: int, *names: str, damage: str = "severe") -> tuple[Experiment, list[Echo]]:
    """Two people, `views` each, restored by echoes of those `names`."""
    people = [person(False, views), person(True, views)]
    echoes = [Echo() for _ in names]
    methods = [Method(name, echo, name) for name, echo in zip(names, echoes, strict=True)]
    meter = Meter(EmbeddedRecogniser(), None, Cache(None), judge=False)
    return experiment(people, 0, PRESETS[damage], methods, meter), echoes


@pytest.fixture(scope="module")
def clips_and_echoes() -> tuple[Experiment, list[Echo]]:
    return measured(4, "fast", "iconface 1")


@pytest.fixture
def clips(clips_and_echoes: tuple[Experiment, list[Echo]]) -> Experiment:
    return clips_and_echoes[0]


def test_right_references_show_the_person_and_wrong_ones_another(clips: Experiment) -> None:
    rows = {row.name: row for row in clips.scores}
    for count, others in (("", ""), ("three ", "s")):
        right, wrong = (rows[f"fast, {count}{who} reference{others}"] for who in ("right", "wrong"))
        assert right.identity > 0.8
        assert wrong.identity < 0.6
        # Each answer is nearly, or just, the reference itself.
        assert right.reference > 0.9
        assert wrong.reference > 0.9
    assert rows["fast, right reference"].reference == pytest.approx(1)
    assert rows["fast, wrong reference"].reference == pytest.approx(1)
    assert np.isnan(rows["fast, no reference"].reference)
    assert np.isnan(rows["degraded"].reference)


def test_differences_say_how_much_a_reference_draws(clips: Experiment) -> None:
    differences = {row.name: row for row in clips.differences}
    rows = {row.name: row for row in clips.scores}
    right = differences["fast, right reference - fast, no reference"]
    gained = rows["fast, right reference"].identity - rows["fast, no reference"].identity
    assert right.identity == pytest.approx(gained)
    assert right.identity > 3 * right.identity_error > 0
    assert right.reference > 0.2
    wrong = differences["fast, wrong reference - fast, no reference"]
    assert wrong.identity < right.identity
    # Towards the stranger, although away from the person.
    assert wrong.reference > 0.2
    equal = differences["iconface 1, right reference - fast, right reference"]
    assert (equal.identity, equal.identity_error, equal.reference) == (0, 0, 0)
    assert np.isnan(differences["fast, no reference - degraded"].reference)


def test_restorers_are_told_none_one_and_three(clips_and_echoes: tuple[Experiment, list[Echo]]) -> None:
    for echo in clips_and_echoes[1]:
        assert echo.told == [0] * 8 + [1] * 16 + [3] * 16


def test_severe_damage_leaves_less_than_moderate() -> None:
    moderate, severe = (measured(1, "fast", damage=name)[0].scores for name in ("moderate", "severe"))
    assert severe[0].psnr < moderate[0].psnr
    assert severe[0].identity < moderate[0].identity


def test_the_sheet_shows_fewest_and_most_steps_beside_reference_and_target(clips: Experiment) -> None:
    assert list(clips.sheet) == ["degraded", "fast", "iconface 1", "reference", "target"]
    assert np.array_equal(clips.sheet["iconface 1"][5], clips.sheet["reference"][5])
    assert np.array_equal(clips.sheet["reference"][0], clips.sheet["target"][2])
    single, _ = measured(1, "fast", "iconface 1", "iconface 2", "iconface 4")
    assert list(single.sheet) == ["degraded", "fast", "iconface 1", "iconface 4", "target"]


def test_the_farthest_view_comes_first() -> None:
    assert [other_views(index, 4) for index in (4, 5, 7)] == [[6, 5, 7], [7, 6, 4], [5, 4, 6]]
    assert [other_views(index, 2) for index in (2, 3)] == [[3], [2]]


@pytest.mark.parametrize(("people", "words"), [([], "no faces"), ([person(False, 2)], "second person")])
def test_nobody_and_one_person_alone_get_a_sentence(people: list[list[Picture]], words: str) -> None:
    meter = Meter(EmbeddedRecogniser(), None, Cache(None), judge=False)
    with pytest.raises(ConfigError, match=words):
        experiment(people, 0, PRESETS["severe"], [Method("fast", Echo(), "")], meter)


def test_tables_have_a_column_for_references_where_there_are_some(clips: Experiment) -> None:
    lines = table(clips.scores).splitlines()
    assert lines[0].endswith("| spectrum low/mid/high | reference |")
    assert lines[2].startswith("| degraded |")
    assert lines[2].endswith("| - |")
    assert lines[4].endswith("| 1.000 |")
    assert len({line.count("|") for line in lines}) == 1
    without = [replace(row, reference=float("nan")) for row in clips.scores]
    assert "reference |" not in table(without).splitlines()[0]
    lines = difference_table(clips.differences).splitlines()
    assert lines[0] == "| difference | identity | judge | perceptual | reference |"
    assert len({line.count("|") for line in lines}) == 1
    assert " ± " in lines[-1]


def test_restored_pictures_come_back_from_the_folder(tmp_path: Path) -> None:
    pictures = [np.full((256, 256, 3), value, np.uint8) for value in (10, 20)]
    one, other = (told(value) for value in (30, 40))
    first = restored(Method("echo", Echo(), "a"), pictures, [References(), one], Cache(tmp_path))
    assert [int(picture[0, 0, 0]) for picture in first] == [10, 30]
    again, elsewhere = Echo(), Echo()
    second = restored(Method("echo", again, "a"), pictures, [References(), one], Cache(tmp_path))
    assert all(np.array_equal(a, b) for a, b in zip(first, second, strict=True))
    assert again.told == []
    restored(Method("echo", again, "a"), pictures, [one, other], Cache(tmp_path))
    assert again.told == [1, 1]
    clearer = References(other.crops, 2 * other.embeddings, 1)
    restored(Method("echo", again, "a"), pictures[1:], [clearer], Cache(tmp_path))
    assert again.told == [1, 1, 1]
    restored(Method("echo", elsewhere, "b"), pictures, [References(), one], Cache(tmp_path))
    assert elsewhere.told == [0, 1]


def told(value: int) -> References:
    crop: Tensor = torch.full((3, 256, 256), value, dtype=torch.uint8)
    return References((crop,), torch.ones(1, 128), 1)


def test_keys_tell_restorers_steps_and_checkpoints_apart(tmp_path: Path) -> None:
    one, same, other = (tmp_path / f"{name}.safetensors" for name in ("one", "same", "other"))
    content = save_iconface(one).read_bytes()
    same.write_bytes(content)
    # The last weight of the file, another one.
    other.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    first, second = iconface_methods(one, [1, 2])
    assert [first.name, second.name] == ["iconface 1", "iconface 2"]
    guided = iconface_methods(one, [1], usual=IconFaceSettings(guidance=2))[0]
    assert isinstance(guided.restorer, IconFaceRestorer)
    assert (guided.restorer.settings.guidance, guided.restorer.settings.steps) == (2, 1)
    keys = {first.key, second.key, fast_method(None).key, iconface_methods(other, [1])[0].key, guided.key}
    assert len(keys) == 5
    assert iconface_methods(same, [1])[0].key == first.key


def test_the_shipped_flow_restorer_is_taken_where_there_is_one(tmp_path: Path) -> None:
    assert iconface_methods(None, [1], tmp_path) == []
    path = save_iconface(tmp_path / "iconface.safetensors")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    (tmp_path / "manifest.toml").write_text(
        f'[iconface]\nfile = "{path.name}"\nsha256 = "{digest}"\n', encoding="utf-8"
    )
    assert [method.name for method in iconface_methods(None, [1, 4], tmp_path)] == [
        "iconface 1",
        "iconface 4",
    ]


def test_a_flow_restorer_of_another_size_gets_a_sentence(tmp_path: Path) -> None:
    path = save_iconface(tmp_path / "small.safetensors", rows=4)
    with pytest.raises(CheckpointError, match="takes crops of 64 pixels, but faces are measured at 256"):
        iconface_methods(path, [1])


def test_restorers_stand_beside_each_other_in_the_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(evaluate, "PRESETS", {"severe": PRESETS["severe"]})
    pairs = str(folder_of_faces(tmp_path / "pairs"))
    words = [
        "--faces",
        pairs,
        "--pairs",
        pairs,
        "--count",
        "2",
        "--only",
        "restoration",
        "--without",
        "aligned",
    ]
    words += ["--iconface", str(save_iconface(tmp_path / "flow.safetensors")), "--steps", "2,1"]
    words += ["--json", str(tmp_path / "report.json"), "--sheet", str(tmp_path / "sheet.png")]
    evaluate_with(monkeypatch, *words)
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    names = [row["name"] for row in report["severe"]]
    assert names == ["degraded", "fast", "iconface 1", "iconface 2"]
    told = ["no reference", "right reference", "wrong reference"]
    names = [row["name"] for row in report["severe pairs"]]
    assert names == ["degraded", *(f"{name}, {words}" for name in names_of(report) for words in told)]
    differences = {row["name"] for row in report["severe differences"]}
    assert {"iconface 1 - degraded", "iconface 1 - fast", "iconface 2 - iconface 1"} < differences
    differences = {row["name"] for row in report["severe pairs differences"]}
    assert "iconface 2, right reference - iconface 2, wrong reference" in differences
    assert "iconface 2, right reference - iconface 1, right reference" in differences
    assert "severe pairs, 4 faces" in caplog.text
    for name, columns in (("severe", 5), ("severe_pairs", 6)):
        assert cv2.imread(str(tmp_path / f"sheet_{name}.png")).shape[1] == columns * 256


def test_each_folder_goes_through_both_kinds_of_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pairs = str(folder_of_faces(tmp_path / "pairs"))
    clips = str(folder_of_faces(tmp_path / "clips", views=4))
    calls = []

    def noted(people: list[list[Picture]], seed: int, preset: Preset, *_: object) -> Experiment:
        calls.append(([len(views) for views in people], seed, preset))
        return Experiment({}, [], [])

    monkeypatch.setattr(evaluate, "experiment", noted)
    words = [
        "--faces",
        pairs,
        "--pairs",
        pairs,
        "--clip-faces",
        clips,
        "--only",
        "restoration",
        "--without",
        "aligned",
    ]
    evaluate_with(monkeypatch, *words, "--json", str(tmp_path / "report.json"))
    albums = (([1, 1, 1, 1], 0), ([2, 2], 1000), ([4, 4], 2000))
    assert calls == [(*album, preset) for album in albums for preset in (MODERATE, SEVERE)]
    names = [f"{damage}{album}" for album in ("", " pairs", " clips") for damage in ("moderate", "severe")]
    report = json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))
    assert [name for name in report if "differences" not in name] == names


def names_of(report: dict[str, list[dict[str, object]]]) -> list[object]:
    """The restorers' names."""
    return [row["name"] for row in report["severe"]][1:]


@pytest.mark.parametrize("steps", ["0", "1,two", ""])
def test_steps_that_are_no_numbers_get_a_sentence(
    steps: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        evaluate_with(monkeypatch, "--faces", "none", "--steps", steps)
    assert f"expected whole numbers of at least 1 such as 1,2,4, got '{steps}'" in capsys.readouterr().err


def test_a_missing_checkpoint_gets_a_sentence(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    words = ["--faces", str(tmp_path), "--only", "restoration", "--without", "aligned"]
    with pytest.raises(SystemExit, match=r"error: .*none\.safetensors: not a readable safetensors file"):
        evaluate_with(monkeypatch, *words, "--iconface", str(tmp_path / "none.safetensors"))


def test_views_of_clips_are_spread_and_large_enough(tmp_path: Path) -> None:
    rows = []
    for name, count, true_px in (("many", 9, 256), ("few", 3, 512), ("small", 8, 255)):
        for view in range(count):
            file = f"{name}_{view}.png"
            cv2.imwrite(str(tmp_path / file), np.full((8, 8, 3), view, np.uint8))
            rows.append((file, name, true_px))
    people = read_clip_views(write_index(tmp_path, rows), None)
    assert [[int(view[0, 0, 0]) for view in views] for views in people] == [[0, 2, 4, 6]]
    assert people[0][0].shape == (512, 512, 3)
    assert read_clip_views(tmp_path, 0) == []
