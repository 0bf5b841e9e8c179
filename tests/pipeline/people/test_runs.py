"""Who is in films, edited by the user, and what a run makes of it: through the doors that a user has."""

from __future__ import annotations

import json
import re
import shutil
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from configs import ConfigError
from pipeline import Report, cli, restore_video
from pipeline.errors import SinkError, SourceError
from pipeline.frames import Frame
from pipeline.live.addresses import source_address
from pipeline.live.faces import Faces
from pipeline.live.sources import Opened
from pipeline.people.command import scan
from pipeline.runs.assembly import build
from support.films import environment
from support.people_films import (
    ANNA,
    BERT,
    CARL,
    LEFT,
    OPTIONS,
    RIGHT,
    BrighteningRestorer,
    changed,
    decoded,
    settings,
    shot,
    together,
    write,
)  # fmt: skip
from support.squares import picture

FRAMES = 25


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A second of Anna on the left and Bert on the right."""
    return write(tmp_path_factory.mktemp("film") / "film.mkv", together(FRAMES))


@pytest.fixture(scope="module")
def scanned(film: Path) -> Path:
    """Its gallery, in which nobody has edited anything: person-1 and person-2."""
    folder = film.with_name("people")
    scan([film], folder, settings())
    return folder


@pytest.fixture
def people(scanned: Path, tmp_path: Path) -> Path:
    """The same, with the names that a user would give: Anna and Bert."""
    folder = tmp_path / "people"
    shutil.copytree(scanned, folder)
    anna, bert = named_by_look(folder)
    edit(folder, f'name = "{anna}"', 'name = "Anna"')
    edit(folder, f'name = "{bert}"', 'name = "Bert"')
    return folder


def named_by_look(folder: Path) -> list[str]:
    """The folders of the red and of the green person."""
    means = {}
    for each in folder.glob("person-*"):
        with Image.open(next(each.iterdir())) as image:
            means[each.name] = np.asarray(image.convert("RGB"), float)[100:200, 100:156].mean((0, 1))
    return [max(means, key=lambda name: means[name][channel] - means[name].mean()) for channel in (0, 1)]


def edit(folder: Path, old: str, new: str, count: int = 1) -> None:
    file = folder / "people.toml"
    text = file.read_text(encoding="utf-8")
    assert old in text
    file.write_text(text.replace(old, new, count), encoding="utf-8")


def told(folder: Path, name: str, line: str) -> None:
    """Writes another line below the name of a person, in place of the one with the same key."""
    text = (folder / "people.toml").read_text(encoding="utf-8")
    head, body = text.split(f'name = "{name}"\n', 1)
    lines = body.split("\n")
    key = line.split(" = ")[0]
    place = next(n for n, each in enumerate(lines) if each.startswith(f"{key} = "))
    lines[place] = line
    (folder / "people.toml").write_text(f'{head}name = "{name}"\n' + "\n".join(lines), encoding="utf-8")


def restored(film: Path, output: Path, people: Path, *changes: str) -> Report:
    """A run with a gallery."""
    return restore_video(film, output, settings(f"input.people={people}", *changes))


# scan


def test_a_scan_writes_pictures_a_sheet_and_a_list(film: Path, scanned: Path) -> None:
    names = {path.name for path in scanned.iterdir()}
    assert names == {"contact_sheet.jpg", "people.toml", "views.npz", "person-1", "person-2"}
    with Image.open(scanned / "contact_sheet.jpg") as sheet:
        assert sheet.width >= 480
    text = (scanned / "people.toml").read_text(encoding="utf-8")
    assert "# on screen about 1.2 s: film.mkv 0:00.0-0:01.0; best view: eyes" in text
    pictures = [path.name for path in (scanned / "person-1").iterdir()]
    assert pictures
    assert all(re.fullmatch(r"person-1_\d_film_0-0[01]\.\d\.png", name) for name in pictures), pictures


def test_one_person_in_three_shots_and_a_second_film_is_one_entry(tmp_path: Path) -> None:
    shots = [
        *shot([(LEFT, 60, ANNA), (RIGHT, 60, BERT)], 15, 0),
        *shot([(120, 40, ANNA)], 15, 1),
        *shot([(90, 70, CARL)], 15, 2),
        *shot([(RIGHT, 80, ANNA)], 15, 3),
    ]
    films = [write(tmp_path / "a.mkv", shots), write(tmp_path / "b.mkv", shot([(100, 50, ANNA)], 15, 4))]
    report = scan(films, tmp_path / "people", settings())
    assert len(report.scan.people) == 3
    spans = report.scan.people[0].spans
    assert [span.film for span in spans] == [0, 0, 0, 1]
    assert report.as_dict()["people"]["person-1"] > 2 * report.as_dict()["people"]["person-2"]


def test_a_film_that_cannot_be_read_does_not_stop_the_others(
    film: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "bad.mkv").write_bytes(b"no film")
    folder = tmp_path / "people"
    assert cli.main(["scan", str(tmp_path / "bad.mkv"), str(film), "--people", str(folder), *OPTIONS]) == 4
    said = capsys.readouterr().out
    assert "people: 2" in said
    assert "failed:" in said
    assert (folder / "people.toml").exists()
    with pytest.raises(SourceError):
        scan([tmp_path / "bad.mkv"], tmp_path / "none", settings())
    assert not (tmp_path / "none").exists()


def test_a_gallery_is_replaced_only_when_told_and_a_folder_of_others_never(film: Path, people: Path) -> None:
    edited = (people / "people.toml").read_text(encoding="utf-8")
    with pytest.raises(SinkError, match="exists already"):
        scan([film], people, settings())
    assert (people / "people.toml").read_text(encoding="utf-8") == edited
    scan([film], people, settings("output.overwrite=true"))
    assert 'name = "person-1"' in (people / "people.toml").read_text(encoding="utf-8")
    (people / "people.toml").unlink()
    with pytest.raises(SinkError, match="is not a gallery"):
        scan([film], people, settings("output.overwrite=true"))
    assert sorted(path.name for path in people.parent.iterdir()) == ["people"]


def test_photos_are_no_films(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").touch()
    with pytest.raises(ConfigError, match=r"a\.jpg: is not a video"):
        scan([tmp_path / "a.jpg"], tmp_path / "people", settings())


# choices


def test_only_one_person_changes_and_no_other_sample_of_the_film(
    film: Path, people: Path, tmp_path: Path
) -> None:
    report = restored(film, tmp_path / "out.mkv", people, 'input.only=["Bert"]')
    left, right = changed(film, tmp_path / "out.mkv")
    assert left.tolist() == [0] * FRAMES
    assert (right > 0).all()
    assert report.names == {"Anna", "Bert"}
    assert report.passed["not chosen"] == FRAMES
    assert "people: 2 (Anna, Bert)" in report.summary()


def test_who_is_skipped_or_not_to_be_restored_is_left_as_before(
    film: Path, people: Path, tmp_path: Path
) -> None:
    restored(film, tmp_path / "skip.mkv", people, 'input.skip=["Bert"]')
    told(people, "Bert", "restore = false")
    restored(film, tmp_path / "no.mkv", people)
    for name in ("skip", "no"):
        left, right = changed(film, tmp_path / f"{name}.mkv")
        assert (left > 0).all()
        assert right.sum() == 0


def test_each_person_has_a_strength_of_its_own(film: Path, people: Path, tmp_path: Path) -> None:
    restored(film, tmp_path / "full.mkv", people)
    told(people, "Anna", "strength = 0.25")
    restored(film, tmp_path / "less.mkv", people)
    full, less = (changed(film, tmp_path / f"{name}.mkv") for name in ("full", "less"))
    assert less[0] / full[0] == pytest.approx(0.25, abs=0.05)
    assert (less[1] == full[1]).all()


def test_a_person_is_restored_within_the_given_times_alone(film: Path, people: Path, tmp_path: Path) -> None:
    """Eased in from there on; where the film ends nothing needs to fade."""
    told(people, "Anna", 'times = ["0.4-9", "other.mkv 0-9"]')
    restored(film, tmp_path / "out.mkv", people)
    left, right = changed(film, tmp_path / "out.mkv")
    assert not left[:10].any()
    assert (np.diff(left[10:]) >= -left.max() // 20).all()
    assert left[20:].all()
    assert (right > 0).all()


def test_another_restorer_is_made_only_for_who_asks_for_it(film: Path, people: Path, tmp_path: Path) -> None:
    told(people, "Anna", 'restorer = "support.people_films:BrighteningRestorer"')
    before = BrighteningRestorer.made
    restored(film, tmp_path / "none.mkv", people, 'input.skip=["Anna"]')
    assert BrighteningRestorer.made == before
    restored(film, tmp_path / "out.mkv", people, "blend.colour_match=0")
    assert BrighteningRestorer.made == before + 1
    change = decoded(tmp_path / "out.mkv").astype(int) - decoded(film).astype(int)
    luma = change[:, 0]
    assert luma[..., :150].min() >= -1
    assert luma[..., :150].max() >= 5
    assert luma[..., 170:].min() < -20


def test_a_restorer_of_one_person_works_beside_none(film: Path, people: Path, tmp_path: Path) -> None:
    told(people, "Anna", 'restorer = "support.people_films:BrighteningRestorer"')
    restored(film, tmp_path / "out.mkv", people, "restorer.kind=none", "blend.colour_match=0")
    left, right = changed(film, tmp_path / "out.mkv")
    assert (left > 0).all()
    assert right.sum() == 0


def test_the_result_and_its_page_name_the_restorer_of_one_person(
    film: Path, people: Path, tmp_path: Path
) -> None:
    told(people, "Anna", 'restorer = "support.people_films:BrighteningRestorer"')
    told(people, "Bert", 'restorer = "support.fakes:InvertingRestorer"')
    output, page = tmp_path / "out.mkv", tmp_path / "page.html"
    more = ("restorer.kind=none", 'input.skip=["Bert"]', f"output.report={page}")
    restored(film, output, people, *more)
    with av.open(str(output)) as container:
        said = " ".join(container.metadata.values())
    for text in (said, page.read_text(encoding="utf-8").partition("<h2>Settings")[0]):
        assert "support.people_films:BrighteningRestorer" in text
        assert "support.fakes:InvertingRestorer" not in text
    assert "faces restored by" in said
    assert "Person 0 (Anna)" in page.read_text(encoding="utf-8")


def test_strangers_are_restored_unless_the_list_says_no(film: Path, people: Path, tmp_path: Path) -> None:
    text = (people / "people.toml").read_text(encoding="utf-8")
    entries = text.split("[[person]]")
    kept = "[[person]]".join(part for part in entries if 'name = "Bert"' not in part)
    (people / "people.toml").write_text(kept, encoding="utf-8")
    report = restored(film, tmp_path / "yes.mkv", people)
    assert (changed(film, tmp_path / "yes.mkv")[1] > 0).all()
    assert report.names == {"Anna"}
    edit(people, "strangers = true", "strangers = false")
    restored(film, tmp_path / "no.mkv", people)
    left, right = changed(film, tmp_path / "no.mkv")
    assert (left > 0).all()
    assert right.sum() == 0


# editing who is who


def test_people_are_joined_by_one_name(people: Path, tmp_path: Path) -> None:
    film = write(tmp_path / "film.mkv", [*shot([(LEFT, 60, ANNA)], 15, 0), *shot([(RIGHT, 40, BERT)], 15, 1)])
    edit(people, 'name = "Bert"', 'name = "Anna"')
    report = restored(film, tmp_path / "joined.mkv", people, 'input.only=["Anna"]')
    assert (report.names, len(report.people)) == ({"Anna"}, 1)
    left, right = changed(film, tmp_path / "joined.mkv")
    assert left[:15].all()
    assert right[15:].all()


def test_people_are_parted_by_naming_pictures(film: Path, people: Path, tmp_path: Path) -> None:
    """All in one folder, as if the scan had taken them for one; then the green ones are named."""
    anna, bert = (people / name for name in named_by_look(people))
    green = [file.name for file in bert.iterdir()]
    for file in bert.iterdir():
        file.rename(anna / file.name)
    pictures = json.dumps([f"{anna.name}/{name}" for name in green])
    (people / "people.toml").write_text(
        f'[[person]]\nname = "A"\nviews = ["{anna.name}"]\n[[person]]\nname = "B"\nviews = {pictures}\n',
        encoding="utf-8",
    )
    report = restored(film, tmp_path / "parted.mkv", people, 'input.only=["B"]')
    assert report.names == {"A", "B"}
    left, right = changed(film, tmp_path / "parted.mkv")
    assert left.sum() == 0
    assert (right > 0).all()


def test_views_of_a_later_scene_serve_an_earlier_one(tmp_path: Path) -> None:
    """Once through a gallery, once in two passes of one command; a plain run has only what it has seen."""
    film = write(tmp_path / "film.mkv", [*shot([(LEFT, 60, ANNA)], 15, 0), *shot([(RIGHT, 40, ANNA)], 60, 1)])
    scan([film], tmp_path / "people", settings())
    runs = {
        "gallery": f"input.people={tmp_path / 'people'}",
        "passes": "input.two_passes=true",
        "plain": "depth=4",
    }
    later = {}
    for name, change in runs.items():
        log = tmp_path / f"{name}.jsonl"
        restore_video(film, tmp_path / f"{name}.mkv", settings(change, f"output.references_log={log}"))
        first = json.loads(log.read_text(encoding="utf-8").splitlines()[0])
        assert first["frames"][0] == 0
        later[name] = [view["from"] for view in first["views"]]
    assert any(origin.startswith("film.mkv 0:0") and float(origin[-4:]) > 1.2 for origin in later["gallery"])
    assert set(later["passes"]) & set(later["gallery"])
    assert all(origin.startswith("frame ") and int(origin[6:]) < 30 for origin in later["plain"])


def test_the_log_tells_of_every_restored_face_once_and_its_weights_add_up(
    film: Path, people: Path, tmp_path: Path
) -> None:
    photo = tmp_path / "mother.png"
    Image.fromarray(picture([(100, 60, ANNA)], 7)).save(photo)
    told(people, "Anna", f"photos = [{json.dumps(str(photo))}]")
    log = tmp_path / "log.jsonl"
    restored(film, tmp_path / "out.mkv", people, f"output.references_log={log}", 'input.only=["Anna"]')
    rows = [json.loads(line) for line in log.read_text(encoding="utf-8").splitlines()]
    frames = [frame for row in rows for frame in range(row["frames"][0], row["frames"][1] + 1)]
    assert sorted(frames) == list(range(FRAMES))
    for row in rows:
        assert row["name"] == "Anna"
        assert sum(view["weight"] for view in row["views"]) == pytest.approx(1, abs=0.001)
        assert "photo mother.png" in [view["from"] for view in row["views"]]


def test_a_call_knows_the_people_of_a_gallery_from_its_first_frame_on(film: Path, people: Path) -> None:
    config = settings(f"input.people={people}", 'input.only=["Bert"]')
    with Opened(source_address(str(film)), 1) as source:
        live = Faces(build(config, source), config)
        frame, _ = live.restore(Frame(0, 0, Fraction(1, 25), source.first))
    assert {face.name for face in frame.tracked.faces} == {"Anna", "Bert"}
    assert [face.tracked.name for face in frame.faces] == ["Bert"]
    assert len(frame.faces[0].tracked.references) > 1


# chunks


def test_chunks_give_the_film_of_a_straight_run(film: Path, people: Path, tmp_path: Path) -> None:
    told(people, "Anna", "strength = 0.5")
    told(people, "Anna", 'restorer = "support.people_films:BrighteningRestorer"')
    straight = restored(film, tmp_path / "straight.mkv", people, 'input.skip=["Bert"]')
    chunks = ("chunks.resume=true", "chunks.seconds=0.4", 'input.skip=["Bert"]')
    report = restored(film, tmp_path / "chunks.mkv", people, *chunks)
    assert (decoded(tmp_path / "chunks.mkv") == decoded(tmp_path / "straight.mkv")).all()
    assert report.names == straight.names == {"Anna", "Bert"}
    assert report.passed == straight.passed


def test_two_workers_give_the_film_of_a_straight_run(film: Path, people: Path, tmp_path: Path) -> None:
    told(people, "Anna", 'restorer = "support.people_films:BrighteningRestorer"')
    straight = restored(film, tmp_path / "straight.mkv", people, "blend.strength=0.5")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", environment()["PYTHONPATH"])
        workers = ("chunks.workers=2", "chunks.seconds=0.4", "blend.strength=0.5")
        report = restored(film, tmp_path / "chunks.mkv", people, *workers)
    assert (decoded(tmp_path / "chunks.mkv") == decoded(tmp_path / "straight.mkv")).all()
    assert (report.names, report.restored) == (straight.names, straight.restored)
    assert report.restored > 0


def test_an_edited_list_is_another_run(film: Path, people: Path, tmp_path: Path) -> None:
    output, chunks = tmp_path / "out.mkv", ("chunks.resume=true", "chunks.seconds=0.4")

    def stop(report: Report) -> None:
        if report.frames >= 22:
            raise KeyboardInterrupt

    config = settings(f"input.people={people}", *chunks)
    with pytest.raises(KeyboardInterrupt):
        restore_video(film, output, config, watch=stop)
    told(people, "Anna", "strength = 0.5")
    with pytest.raises(SinkError, match="the list of people has changed"):
        restore_video(film, output, config)
    told(people, "Anna", "strength = 1.0")
    shutil.move(people, tmp_path / "moved")
    assert restored(film, output, tmp_path / "moved", *chunks).kept > 0


# mistakes, as a user meets them


def mistake(film: Path, output: Path, capsys: pytest.CaptureFixture[str], *options: str) -> tuple[int, str]:
    code = cli.main([str(film), str(output), "--progress", "none", *OPTIONS, *options])
    said = capsys.readouterr().err
    assert len(said.splitlines()) == 1
    assert not output.exists()
    return code, said


def test_mistakes_are_one_sentence_and_leave_nothing(
    film: Path, people: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    output, gallery = tmp_path / "out.mkv", ("--people", str(people))
    code, said = mistake(film, output, capsys, *gallery, "--only", "Ana")
    assert (code, "known: Anna, Bert" in said) == (2, True)
    code, said = mistake(film, output, capsys, "--only", "Anna")
    assert (code, "give it with --people FOLDER" in said) == (2, True)
    code, said = mistake(film, output, capsys, "--people", str(tmp_path))
    assert (code, "has no people.toml" in said) == (2, True)
    code, said = mistake(film, output, capsys, *gallery, "--two-passes")
    assert (code, "not both" in said) == (2, True)
    page = str(tmp_path / "page.html")
    code, said = mistake(film, output, capsys, "--report", page, "--references-log", page)
    assert (code, "is the page of --report" in said) == (2, True)
    Image.fromarray(picture([], 3)).save(tmp_path / "empty.png")
    told(people, "Anna", f"photos = [{json.dumps(str(tmp_path / 'empty.png'))}]")
    code, said = mistake(film, output, capsys, *gallery)
    assert (code, "empty.png: no face found" in said) == (4, True)
    told(people, "Anna", "photos = []")
    told(people, "Anna", 'restorer = "quick"')
    code, said = mistake(film, output, capsys, *gallery)
    assert (code, "the restorer of 'Anna' in the list of people" in said) == (2, True)
    told(people, "Anna", "restorer = quick")
    code, said = mistake(film, output, capsys, *gallery, "--dry-run")
    assert (code, "is not valid TOML" in said) == (2, True)
    code, said = mistake(film, output, capsys, *gallery)
    assert (code, "is not valid TOML" in said) == (2, True)
    assert "line" in said


def test_a_damaged_record_is_told_and_without_it_pictures_are_photos(
    film: Path, people: Path, tmp_path: Path
) -> None:
    (people / "views.npz").write_bytes(b"no record")
    with pytest.raises(ConfigError, match=r"views\.npz: is damaged"):
        restored(film, tmp_path / "out.mkv", people)


def test_who_was_asked_for_and_not_seen_is_told(people: Path, tmp_path: Path) -> None:
    other = write(tmp_path / "other.mkv", shot([(LEFT, 60, BERT)], 10, 0))
    report = restored(other, tmp_path / "out.mkv", people, 'input.only=["Anna"]')
    assert report.warnings == ["Anna was not seen in other.mkv"]
    assert report.restored == 0


def test_somebody_without_a_picture_cannot_be_asked_for(film: Path, people: Path, tmp_path: Path) -> None:
    told(people, "Anna", "views = []")
    with pytest.raises(ConfigError, match="--only Anna: has neither views nor photos"):
        restored(film, tmp_path / "out.mkv", people, 'input.only=["Anna"]')
