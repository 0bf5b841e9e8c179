"""The grouping of a scan is measured by pairs of labelled faces."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from pipeline.evaluation.people import main, score
from support.people_films import ANNA, BERT, LEFT, OPTIONS, RIGHT, shot, together, write


def test_precision_and_recall_are_of_pairs() -> None:
    found = score([("a", 0), ("a", 0), ("a", 1), ("b", 1), ("b", None)])
    assert (found.faces, found.people, found.entries) == (5, 2, 2)
    assert (found.together, found.same, found.right) == (2, 4, 1)
    assert (found.precision, found.recall) == (0.5, 0.25)


def test_what_is_in_no_entry_is_with_nobody() -> None:
    found = score([("a", None), ("a", None)])
    assert (found.precision, found.recall) == (1.0, 0.0)


def test_labelled_films_give_a_table(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    films = [
        write(tmp_path / "a.mkv", together(15)),
        write(tmp_path / "b.mkv", shot([(LEFT, 40, BERT), (RIGHT, 60, ANNA)], 15, 1)),
    ]
    names = [str(film) for film in films]
    assert main([*names, "--faces", str(tmp_path / "faces"), *OPTIONS]) == 0
    file = tmp_path / "faces" / "faces.csv"
    with file.open(newline="", encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * 2 * 4
    assert (tmp_path / "faces" / rows[0]["picture"]).stat().st_size > 100
    for row in rows:
        on_left = float(row["x"]) < 150
        row["person"] = "anna" if on_left == (row["film"] == "a.mkv") else "bert"
    # One label is wrong, one says nothing.
    rows[0]["person"], rows[1]["person"] = "carl", ""
    with file.open("w", newline="", encoding="utf-8") as stream:
        writer = csv.DictWriter(stream, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)
    assert main([*names, "--labels", str(file), *OPTIONS]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[2] == "| a.mkv | 7 | 3 | 2 | 0.667 | 1.000 |"
    assert lines[3] == "| b.mkv | 8 | 2 | 2 | 1.000 | 1.000 |"
    assert lines[4].startswith("| all | 15 | 3 | 2 |")


def test_a_table_of_something_else_is_refused(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "other.csv").write_text("a,b\n1,2\n", encoding="utf-8")
    film = write(tmp_path / "a.mkv", together(3))
    assert main([str(film), "--labels", str(tmp_path / "other.csv"), *OPTIONS]) == 2
    assert "needs the columns film, seconds" in capsys.readouterr().err
    assert main([str(tmp_path / "none.mkv"), "--labels", str(tmp_path / "none.csv"), *OPTIONS]) == 4
