"""The page of a run: complete, closed in itself, safe against names, bounded."""

from __future__ import annotations

import base64
import hashlib
import io
import shutil
import subprocess
import tomllib
from collections.abc import Sequence
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import av
import numpy as np
import pytest
import torch
from PIL import Image

from configs import ConfigError
from models.protocols import References
from models.recogniser import Likeness
from models.weights import EMBEDDED
from pipeline import PipelineConfig, Report, restore_video
from pipeline.cli import main
from pipeline.errors import SinkError
from pipeline.frames import RestoredFace, RestoredFrame
from pipeline.report import page as report_page
from pipeline.report.diary import (
    LARGE_BYTES,
    MOST_SMALL,
    NOBODY,
    SMALL_BYTES,
    Chosen,
    Diary,
    Entry,
    Pair,
    Witness,
    aligned,
    jpeg,
    large_pair,
    small,
)
from pipeline.report.page import MOST_PEOPLE, Contents, Person, render
from pipeline.report.provenance import Weights, weights, witness_weights
from pipeline.report.series import MOST_BINS, Series, Thinned
from support.clips import astronaut, write_clip
from support.fakes import gray_frame, tracked_face, tracked_frame

NASTY = "<script>alert('x')</script>\"'><img src=x onerror=alert(1)>&amp;"
MOST_PAGE_BYTES = 20_000_000


class Page(HTMLParser):
    """What a browser would see."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.words: list[str] = []
        self.inside: dict[str, str] = {}
        self._open = ""
        self.feed(text)
        self.close()

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        self._open = tag

    def handle_endtag(self, tag: str) -> None:
        self._open = ""

    def handle_data(self, data: str) -> None:
        if self._open in ("style", "script"):
            self.inside[self._open] = self.inside.get(self._open, "") + data
        else:
            self.words.append(data)

    def all(self, tag: str, **attributes: str) -> list[dict[str, str | None]]:
        return [
            found
            for name, found in self.elements
            if name == tag and all(found.get(key) == value for key, value in attributes.items())
        ]

    @property
    def text(self) -> str:
        return " ".join(self.words)


class Dlib:
    """Stands for the judge: the mean light of a crop is its descriptor."""

    def __init__(self) -> None:
        self.asked = 0

    def describe(self, pictures: Sequence[np.ndarray], targets: Sequence[np.ndarray]) -> np.ndarray:
        self.asked += 1
        assert all(picture.shape == (256, 256, 3) for picture in [*pictures, *targets])
        return np.array([[picture.mean() / 255] for picture in pictures])


def restored(
    index: int, persons: Sequence[int | None] = (0,), level: int = 200, **changes: object
) -> tuple[RestoredFrame, object]:
    """A frame with a face of each person, and its finished picture."""
    references = References((torch.full((3, 64, 64), 90, dtype=torch.uint8),), torch.ones(1, 4), 1)
    faces = [
        replace(tracked_face(track), person_id=person, references=references)
        for track, person in enumerate(persons)
    ]
    image = torch.full((3, 64, 64), level, dtype=torch.uint8)
    done = [
        RestoredFace(face, image, likeness=Likeness(0.8, 0.9, -0.1), **changes)  # type: ignore[arg-type]
        for face in faces
    ]
    return RestoredFrame(tracked_frame(index, faces), tuple(done)), gray_frame(index, level=level).native


def opened(content: bytes) -> np.ndarray:
    """The picture of a JPEG, float32 (H, W, 3)."""
    return np.asarray(Image.open(io.BytesIO(content)), np.float32)


def contents(people: Sequence[Person] = (), **changes: object) -> Contents:
    usual = Contents("in.mp4", Report(), people, "depth = 4", [("torch", "2")], [], "", True)
    return replace(usual, **changes)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def page_of_a_run(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The command's page of a small clip with a photo of the person; without another recogniser."""
    folder = tmp_path_factory.mktemp("page")
    clip = write_clip(folder / "in.mp4", frames=6, width=320, height=240)
    photo = folder / "<b>her & co.png"
    Image.fromarray(astronaut()).save(photo)
    page = folder / "page.html"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(report_page, "find_witness", lambda: None)
        command = [str(clip), str(folder / "out.mkv"), "--report", str(page), "--reference", str(photo)]
        assert main([*command, "--codec", "ffv1", "--progress", "none"]) == 0
    return page.read_text(encoding="utf-8")


def test_the_page_tells_who_what_how_fast_and_with_which_weights(page_of_a_run: str) -> None:
    page = Page(page_of_a_run)
    assert "in.mp4" in page.text
    assert "Person 0 (" in page.text
    assert "her" in page.text
    assert len(page.all("input", type="range")) >= 1
    assert len(page.all("img", **{"class": "before"})) == len(page.all("img", **{"class": "after"})) >= 1
    assert len(page.all("svg", **{"class": "chart"})) == 2
    for stage in ("decode", "track", "restore", "gate", "blend", "encode"):
        assert stage in page.words
    manifest = tomllib.loads((EMBEDDED / "manifest.toml").read_text(encoding="utf-8"))
    for network in ("fast", "encoder"):
        assert manifest[network]["sha256"] in page.text
        assert manifest[network]["licence"] in page.text
    assert "ease_frames = 5" in page.text
    assert "torch" in page.words
    assert "6 frames in" in page.text


def test_the_page_says_when_the_gate_grades_itself(page_of_a_run: str) -> None:
    assert "it grades itself." in page_of_a_run
    judged = render(contents(witness="a stranger"))
    assert "measured by a stranger, which has no part" in judged
    assert "grades itself" not in judged
    assert "Likeness was not measured" in render(contents(gated=False))


def test_a_single_point_is_told_in_words_and_not_drawn() -> None:
    diary = Diary(1.0, Witness(Dlib()))
    diary.write(*restored(0))
    once = Page(render(contents([Person(0, diary.people[0])], witness="dlib")))
    assert once.all("svg", **{"class": "chart"}) == []
    assert "at full strength: input 0.800, result 0.900" in once.text
    diary.write(*restored(1))
    assert len(Page(render(contents([Person(0, diary.people[0])]))).all("svg", **{"class": "chart"})) == 2


def test_the_page_says_where_references_come_from() -> None:
    person = Person(0, Entry(), [("frame 3", b"jpeg")])
    assert "All come from this film" in render(contents([person]))
    listed = render(contents([replace(person, photo="her.jpg", name="Anna")]))
    assert "Person 0 (Anna)" in listed
    assert "the pictures of the list of people" in listed
    given = render(contents([replace(person, photo="her.jpg")]))
    assert "From --reference" in given
    assert "All come" not in given


def test_dlib_is_among_the_weights_where_it_judged(tmp_path: Path) -> None:
    pytest.importorskip("dlib")
    names = [(each.part, each.file) for each in witness_weights()]
    assert ("judge: recogniser", "dlib_face_recognition_resnet_model_v1.dat") in names
    clip = write_clip(tmp_path / "in.mp4", frames=2, width=320, height=240)
    assert (
        main(
            [str(clip), str(tmp_path / "out.mp4"), "--report", str(tmp_path / "p.html"), "--progress", "none"]
        )
        == 0
    )
    page = (tmp_path / "p.html").read_text(encoding="utf-8")
    assert all(each.sha256 in page for each in witness_weights())
    assert str(tmp_path / "out.mp4") not in page.partition("Settings")[0]


def test_nothing_on_the_page_is_fetched(page_of_a_run: str) -> None:
    page = Page(page_of_a_run)
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "base", "a")
        for name, value in attributes.items():
            assert name not in ("href", "srcset", "action", "style")
            assert not name.startswith("on")
            if name == "src":
                assert value is not None
                assert value.startswith("data:image/jpeg;base64,")
    assert "url(" not in page.inside["style"]
    assert "import" not in page.inside["style"] + page.inside["script"]
    assert "://" not in page_of_a_run


def test_the_policy_allows_just_this_style_and_this_script(page_of_a_run: str) -> None:
    page = Page(page_of_a_run)
    (policy,) = page.all("meta", **{"http-equiv": "Content-Security-Policy"})
    allowed = str(policy["content"])
    assert allowed.startswith("default-src 'none'; img-src data:;")
    for tag in ("style", "script"):
        digest = base64.b64encode(hashlib.sha256(page.inside[tag].encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in allowed
    assert "unsafe" not in allowed


def test_hostile_names_stay_text() -> None:
    entry = Entry()
    entry.series.add(0, 0.0, NASTY, strength=0.5)
    report = Report(output=NASTY, warnings=[NASTY], damage=[NASTY], stage_seconds={NASTY: 1.0})
    person = Person(3, entry, [(NASTY, b"jpeg")], NASTY)
    text = render(
        contents(
            [person],
            input_name=NASTY,
            report=report,
            settings=NASTY,
            versions=[(NASTY, NASTY)],
            weights=[Weights(NASTY, NASTY, NASTY, NASTY, NASTY)],
            witness=NASTY,
        )
    )
    page = Page(text)
    assert len(page.all("script")) == 1
    assert [image["src"] for image in page.all("img")] == ["data:image/jpeg;base64,anBlZw=="]
    assert "<script>alert" not in text
    assert page.text.count("alert('x')") >= 10


def test_names_that_are_no_text_do_not_stop_the_page(tmp_path: Path) -> None:
    page = report_page.ReportPage(
        tmp_path / "page.html", input=Path("bad\udcff.mp4"), output=tmp_path / "o", config=PipelineConfig()
    )
    page.write(Report(), _Nobody())  # type: ignore[arg-type]
    assert "bad\\udcff.mp4" in (tmp_path / "page.html").read_text(encoding="utf-8")


class _Nobody:
    def current(self, person: int) -> int | None:
        return person


def test_the_page_of_ten_thousand_frames_is_bounded() -> None:
    diary = Diary(1.0, None)
    frame, after = restored(0)
    for index in range(10_000):
        place = replace(frame.tracked.frame, index=index, pts=index)
        diary.write(replace(frame, tracked=replace(frame.tracked, frame=place)), after)  # type: ignore[arg-type]
    entry = diary.people[0]
    assert (entry.faces, len(diary.people)) == (10_000, 1)
    assert len(entry.series.bins) <= MOST_BINS
    assert 6 <= len(entry.strip.all()) <= MOST_SMALL
    people = 30
    text = render(contents([Person(number, entry) for number in range(people)]))
    page = Page(text)
    pairs, pictures = page.all("input", type="range"), page.all("img")
    assert len(pairs) == 3 * MOST_PEOPLE
    assert f"{people - MOST_PEOPLE} more people" in text
    small_ones = MOST_PEOPLE * (2 * MOST_SMALL + 8)
    assert len(pictures) <= 2 * len(pairs) + small_ones
    # If all pictures were as large as they may become, and with references.
    largest = len(text) + 4 / 3 * (2 * len(pairs) * LARGE_BYTES + small_ones * SMALL_BYTES)
    assert largest < MOST_PAGE_BYTES


def test_no_jpeg_is_larger_than_it_may_be() -> None:
    noise = torch.from_numpy(np.random.default_rng(0).integers(0, 256, (3, 448, 448), np.uint8))
    assert 2 < len(jpeg(noise, LARGE_BYTES)) <= LARGE_BYTES
    assert 2 < len(small(noise)) <= SMALL_BYTES


def test_pictures_show_the_place_of_the_face_before_and_after() -> None:
    frame, after = restored(3, level=200)
    face = frame.faces[0].tracked
    before = frame.tracked.frame.native
    assert aligned(after, face.matrix, 64, 128).shape == (3, 128, 128)  # type: ignore[arg-type]
    pair = large_pair(before, after, face.matrix, 64, 0.0)  # type: ignore[arg-type]
    assert opened(pair.after).mean() > opened(pair.before).mean() + 80


def test_a_wider_view_has_the_face_in_its_middle() -> None:
    frame, _ = restored(0)
    face = frame.faces[0].tracked
    picture = gray_frame(0)
    planes = picture.native.to_ndarray().copy()
    planes[46:50, 46:50] = 235  # the middle of the crop at 16..80
    native = av.VideoFrame.from_ndarray(planes, format="yuv420p")
    pair = large_pair(native, native, face.matrix, 64, 0.0)
    view = opened(pair.before).mean(-1)
    rows, columns = np.where(view > view.max() - 20)
    assert (rows.mean(), columns.mean()) == (pytest.approx(223.5, abs=4), pytest.approx(223.5, abs=4))


def test_who_is_wanted_less_strongly_is_not_easing() -> None:
    diary = Diary(1.0, None)
    for index, strength in enumerate((0.5, 0.3)):
        face = replace(tracked_face(0, strength=strength), wish=0.5)
        done = RestoredFace(face, torch.zeros(3, 64, 64, dtype=torch.uint8))
        diary.write(RestoredFrame(tracked_frame(index, [face]), (done,)), gray_frame(index).native)
    assert [dict(each.reasons) for each in diary.people[0].series.bins.values()] == [{}, {"easing": 1}]


def test_the_strength_and_its_reason_are_noted() -> None:
    diary = Diary(0.5, None)
    for index, allowed in enumerate((1.0, 1.0, 0.0)):
        diary.write(*restored(index, allowed=allowed))  # type: ignore[arg-type]
    unrestored = tracked_frame(3, [replace(tracked_face(0, strength=0, reason="profile"), person_id=0)])
    diary.write(RestoredFrame(unrestored, ()), unrestored.frame.native)
    series = diary.people[0].series
    assert [value for _, value in series.line("strength")] == [0.5, 0.5, 0, 0]
    assert [dict(each.reasons) for each in series.bins.values()] == [{}, {}, {"identity": 1}, {"profile": 1}]
    assert [time for time, _ in series.line("before")] == pytest.approx([0, 0.04, 0.08])
    text = render(contents([Person(0, diary.people[0])]))
    assert "identity 25%" in text
    assert "profile 25%" in text


def test_the_witness_sees_what_was_written_now_and_then() -> None:
    dlib = Dlib()
    diary = Diary(1.0, Witness(dlib))
    for index in range(60):
        diary.write(*restored(index, level=235))  # type: ignore[arg-type]
    assert dlib.asked == 3
    series = diary.people[0].series
    before, after = (series.line(name)[0][1] for name in ("seen before", "seen after"))
    assert before == pytest.approx(1, abs=0.03)
    assert after < 0.6
    text = render(contents([Person(0, diary.people[0])], witness="dlib"))
    assert text.count("<title>likeness over time</title>") == 2


def test_people_who_turned_out_to_be_one_have_one_entry() -> None:
    diary = Diary(1.0, None)
    for index in range(200):
        diary.write(*restored(index, (0 if index < 100 else 5,), level=150 + index // 10))  # type: ignore[arg-type]
    diary.write(*restored(200, (None,)))  # type: ignore[arg-type]
    diary.write(*restored(201, (9,)))  # type: ignore[arg-type]
    merged = diary.merged(lambda person: {0: 0, 5: 0}.get(person))
    assert {number: entry.faces for number, entry in merged.items()} == {0: 200, NOBODY: 2}
    assert len(merged[0].series.line("strength")) == 200
    assert len(merged[0].chosen.all()) == 3
    assert merged[0].strip.all()[0][0] < 100 < merged[0].strip.all()[-1][0]


def test_a_series_keeps_its_means_when_it_grows() -> None:
    values = np.random.default_rng(1).random(5000)
    series, halves = Series(), (Series(), Series())
    for index, value in enumerate(values):
        series.add(index, index / 25, "", x=value)
        halves[index < 700].add(index, index / 25, "", x=value)
    halves[1].join(halves[0])
    for each in (series, halves[1]):
        assert len(each.bins) <= MOST_BINS
        assert sum(b.means["x"].total for b in each.bins.values()) == pytest.approx(values.sum())
        assert each.line("x")[0][0] == 0
        assert [time for time, _ in each.line("x")] == sorted(time for time, _ in each.line("x"))
    assert np.array(series.line("x")) == pytest.approx(np.array(halves[1].line("x")))


def test_what_is_thinned_is_spread_over_the_whole() -> None:
    thinned = Thinned[int](12)
    for index in range(10_000):
        if thinned.wants(index):
            thinned.keep(index, index)
    kept = [index for index, _ in thinned.all()]
    assert 6 <= len(kept) <= 12
    assert kept[0] == 0
    assert max(np.diff([*kept, 10_000])) < 2500


def test_pairs_with_the_most_change_are_shown_apart_in_time() -> None:
    chosen = Chosen()
    for index, worth in [(0, 1.0), (10, 1.1), (20, 3.0), (100, 2.0), (300, 2.0), (500, 1.9), (900, 9.0)]:
        chosen.keep(index, worth, Pair(index / 25, b"", b""))
    assert [index for index, _ in chosen.all()] == [20, 300, 900]


def test_weights_of_the_users_own_are_named_by_file_and_hash(tmp_path: Path) -> None:
    own = tmp_path / "mine.safetensors"
    own.write_bytes(b"weights")
    config = PipelineConfig()
    found = weights(replace(config, restorer=replace(config.restorer, kind=str(own))))
    (mine,) = [each for each in found if each.part == "restorer"]
    assert (mine.file, mine.sha256) == ("mine.safetensors", hashlib.sha256(b"weights").hexdigest())
    nothing = weights(replace(config, restorer=replace(config.restorer, kind="none")))
    assert [each.part for each in nothing] == ["detector", "recogniser"]


@pytest.mark.parametrize(
    ("name", "error", "sentence"),
    [
        ("page.txt", ConfigError, "must end in .html"),
        ("out.html", ConfigError, "is the output itself"),
        ("there.html", SinkError, "exists already"),
        ("missing/page.html", SinkError, "does not exist"),
    ],
)
def test_unfit_names_are_refused_before_anything_is_done(
    name: str, error: type[Exception], sentence: str, tmp_path: Path
) -> None:
    for there in ("there.html", "in.mp4"):
        (tmp_path / there).write_text("mine")
    with pytest.raises(error, match=sentence):
        report_page.ReportPage(
            tmp_path / name, input=tmp_path / "in.mp4", output=tmp_path / "out.html", config=PipelineConfig()
        )
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in.mp4", "there.html"]


def test_a_run_that_fails_leaves_no_page(tmp_path: Path) -> None:
    clip = write_clip(tmp_path / "in.mp4", frames=3, width=64, height=48)
    config = PipelineConfig()
    config = replace(config, output=replace(config.output, report=tmp_path / "page.html"))

    def stop(report: Report) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        restore_video(clip, tmp_path / "out.mkv", config, watch=stop)
    assert [path.name for path in tmp_path.iterdir()] == ["in.mp4"]


def test_a_film_in_chunks_has_no_page(tmp_path: Path) -> None:
    config = PipelineConfig()
    config = replace(
        config,
        output=replace(config.output, report=tmp_path / "page.html"),
        chunks=replace(config.chunks, resume=True),
    )
    with pytest.raises(ConfigError, match="--report sees a film as a whole"):
        restore_video(tmp_path / "in.mp4", tmp_path / "out.mkv", config)


@pytest.mark.skipif(not (shutil.which("chromium") or shutil.which("google-chrome")), reason="needs a browser")
def test_a_browser_opens_the_page(page_of_a_run: str, tmp_path: Path) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    assert browser is not None
    (tmp_path / "page.html").write_text(page_of_a_run, encoding="utf-8")
    done = subprocess.run(
        [browser, "--headless", "--no-sandbox", "--dump-dom", (tmp_path / "page.html").as_uri()],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    assert "Person 0" in done.stdout
