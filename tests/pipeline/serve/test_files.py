"""Files uploaded to the page of `serve`: inspected, restored in order and removed."""

from __future__ import annotations

import asyncio
import io
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiortc", reason="needs the extra `serve`")

import av
from PIL import Image

import configs
from pipeline import PipelineConfig
from pipeline.errors import SourceError
from pipeline.runs.demo import write_damaged_clip
from pipeline.serve.child import Facts, child_command, child_environment, inspect
from pipeline.serve.choice import Choice, chosen
from pipeline.serve.jobs import Job, Jobs
from pipeline.serve.uploads import PrivateFolder
from support.clips import astronaut, write_clip
from support.serving import Served, served

ROOT = Path(__file__).parents[3]


def test_a_restorer_chosen_on_the_page_has_the_settings_of_the_command() -> None:
    changes = [
        "restorer.crop_size=512",
        "restorer.iconface.steps=4",
        "restorer.device=cpu",
        "restorer.seed=3",
    ]
    config = configs.load(PipelineConfig, None, changes)
    restorer = chosen(config, Choice("iconface")).restorer
    assert (restorer.kind, restorer.crop_size) == ("iconface", 256)
    assert (restorer.iconface.steps, restorer.device, restorer.seed) == (4, "cpu", 3)


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "in.mp4"
    write_damaged_clip(path, frames=8)
    return path


async def give(page: Served, name: str, content: Any, **query: str) -> tuple[int, dict[str, Any]]:
    """Uploads a file for restoration."""
    asked = "?" + "&".join(f"{key}={value}" for key, value in query.items())
    content = io.BytesIO(content) if isinstance(content, bytes) else content
    return await page.ask("POST", "/api/jobs" + asked, headers={"X-File-Name": name}, data=content)


async def ended(page: Served, job: dict[str, Any]) -> dict[str, Any]:
    """A job's last state."""
    for _ in range(1200):
        _, told = await page.ask("GET", f"/api/jobs/{job['job']}")
        if told["state"] in ("done", "failed"):
            return told
        await asyncio.sleep(0.1)
    raise AssertionError(f"the job did not end: {told}")


def test_a_film_comes_back_restored_under_its_own_name(film: Path, tmp_path: Path) -> None:
    async def go() -> None:
        async with served(tmp_path) as page:
            status, job = await give(page, "Mother%201984.mp4", film.read_bytes(), strength="1")
            assert (status, job["state"], job["width"]) == (201, "waiting", 320)
            assert (await page.ask("GET", f"/api/jobs/{job['job']}/result?key=wrong"))[0] == 401
            told = await ended(page, job)
            assert (told["state"], told["frames"], told["people"]) == ("done", 8, 1), told
            assert told["restored"] == 8
            async with page.client.get(page.site + told["result"]) as answer:
                assert "Mother%201984%20restored.mp4" in answer.headers["Content-Disposition"]
                (tmp_path / "back.mp4").write_bytes(await answer.read())
            wrong = await page.ask("GET", told["result"][:-1])
            assert wrong[0] == 401
            assert str(tmp_path) not in str(told)
            assert (await page.ask("DELETE", f"/api/jobs/{job['job']}"))[0] == 200
            assert (await page.ask("GET", f"/api/jobs/{job['job']}"))[0] == 404
            assert page.left() == []

    asyncio.run(go())
    with av.open(str(tmp_path / "back.mp4")) as container:
        assert sum(1 for _ in container.decode(video=0)) == 8


def test_a_photo_comes_back_and_a_reference_without_a_face_is_told_by_its_name(tmp_path: Path) -> None:
    Image.fromarray(astronaut()[::2, ::2]).save(tmp_path / "face.png")
    Image.new("RGB", (64, 64), "gray").save(tmp_path / "wall.png")

    async def go() -> None:
        async with served(tmp_path) as page:
            wall = (tmp_path / "wall.png").read_bytes()
            status, photo = await page.ask(
                "POST", "/api/photos", headers={"X-File-Name": "wall.png"}, data=wall
            )
            assert status == 201
            face = (tmp_path / "face.png").read_bytes()
            _, bad = await give(page, "face.png", face, photo=photo["photo"])
            _, good = await give(page, "face.png", face)
            bad, good = await ended(page, bad), await ended(page, good)
            assert bad["state"] == "failed"
            assert bad["error"].startswith("wall.png: no face found")
            assert (good["state"], good["is_photo"], good["restored"]) == ("done", True, 1)
            async with page.client.get(page.site + good["result"] + "&inline") as answer:
                assert answer.content_type == "image/png"

    asyncio.run(go())


@pytest.mark.parametrize(
    "name", ["..%2F..%2Fevil.mp4", "a/b.mp4", "C:%5Cevil.mp4", "", "..", "a%00b.mp4", "a%0Ab.mp4", "x" * 200]
)
def test_a_name_that_is_a_path_or_none_is_refused_and_nothing_is_written(
    film: Path, tmp_path: Path, name: str
) -> None:
    async def go() -> None:
        async with served(tmp_path / "private") as page:
            for path in ("/api/jobs", "/api/photos"):
                status, told = await page.ask(
                    "POST", path, headers={"X-File-Name": name}, data=film.read_bytes()
                )
                assert status == 400
                assert "the name of a file must not" in told["error"]
            assert page.left() == []

    (tmp_path / "private").mkdir()
    asyncio.run(go())
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["private"]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("film.mp4", b"this is no film"),
        ("photo.jpg", b"<html><script>alert(1)</script></html>"),
        ("film.m3u8", b"#EXTM3U\n#EXTINF:1,\n/etc/passwd\n"),
        ("film.mp4", b"ffconcat version 1.0\nfile '/etc/passwd'\n"),
        ("photo.png", b"\x89PNG\r\n\x1a\n" + b"\x00" * 64),
        ("weights.mp4", b"PK\x03\x04" + b"\x00" * 64),
    ],
    ids=["text", "html", "playlist", "concat", "broken", "zip"],
)
def test_a_file_that_lies_about_its_kind_is_refused_by_its_name(
    tmp_path: Path, name: str, content: bytes
) -> None:
    path = tmp_path / "upload"
    path.write_bytes(content)
    with pytest.raises(SourceError, match="upload"):
        inspect(path, Path(name).suffix)


def test_what_was_refused_leaves_nothing(tmp_path: Path) -> None:
    async def go() -> None:
        async with served(tmp_path, ["serve.most_upload_mib=1", "serve.most_photo_mib=1"]) as page:
            status, told = await give(page, "film.mp4", b"this is no film")
            assert (status, told["error"][:9]) == (415, "film.mp4:")
            assert str(tmp_path) not in told["error"]
            status, told = await give(page, "film.mp4", b"")
            assert (status, told["error"]) == (400, "the file is empty")
            status, told = await give(page, "film.mp4", b"x" * (1 << 20 | 1))
            assert (status, "larger than 1 MB" in told["error"]) == (413, True)
            # Without telling its length, and far more than is read before the answer.
            status, told = await give(page, "film.mp4", _endless(64))
            assert (status, "larger than 1 MB" in told["error"]) == (413, True)
            status, told = await give(page, "film.mp4", b"x", restorer="/etc/passwd")
            assert (status, "restorer must be one of" in told["error"]) == (400, True)
            assert page.left() == []

    asyncio.run(go())


def test_what_is_announced_too_large_is_not_waited_for(tmp_path: Path) -> None:
    async def go() -> bytes:
        async with served(tmp_path) as page:
            host, port = page.site.removeprefix("http://").split(":")
            reader, writer = await asyncio.open_connection(host, int(port))
            head = (
                f"POST /api/jobs HTTP/1.1\r\nHost: {host}:{port}\r\nAuthorization: Bearer {page.token}\r\n"
                f"X-File-Name: film.mp4\r\nContent-Length: {1 << 40}\r\n\r\n"
            )
            writer.write(head.encode())
            answer = await asyncio.wait_for(reader.readuntil(b"\r\n"), 10)
            writer.close()
            assert page.left() == []
            return answer

    assert b" 413 " in asyncio.run(go())


async def _endless(mib: int) -> AsyncIterator[bytes]:
    for _ in range(mib):
        yield b"x" * (1 << 20)


def test_an_upload_that_stalls_is_given_up(tmp_path: Path) -> None:
    async def halting() -> AsyncIterator[bytes]:
        yield b"x"
        await asyncio.sleep(30)

    async def go() -> None:
        async with served(tmp_path, ["serve.stall_seconds=0.3"]) as page:
            status, told = await give(page, "film.mp4", halting())
            assert (status, "send the file again" in told["error"]) == (408, True)
            assert page.left() == []

    asyncio.run(go())


def test_a_full_disk_and_a_full_queue_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async def go() -> None:
        async with served(tmp_path, ["serve.most_waiting=0"]) as page:
            with monkeypatch.context() as full:
                full.setattr(PrivateFolder, "has_room", lambda self, wanted: False)
                assert (await give(page, "film.mp4", b"x"))[0] == 507

            async def slow() -> AsyncIterator[bytes]:
                yield b"x"
                await asyncio.sleep(1)

            first = asyncio.create_task(give(page, "film.mp4", slow()))
            await asyncio.sleep(0.3)
            status, told = await give(page, "film.mp4", b"x")
            assert (status, "wait for their turn" in told["error"]) == (503, True)
            assert (await first)[0] == 415
            # The place of a file that was refused is free again.
            assert (await give(page, "film.mp4", b""))[1]["error"] == "the file is empty"

    asyncio.run(go())


def test_cancelling_ends_the_process_and_the_next_file_has_its_turn(tmp_path: Path) -> None:
    write_clip(tmp_path / "long.mp4", frames=180, width=320, height=240)
    content = (tmp_path / "long.mp4").read_bytes()

    async def go() -> None:
        async with served(tmp_path) as page:
            _, first = await give(page, "long.mp4", content)
            _, second = await give(page, "long.mp4", content, restorer="none")
            while (await page.ask("GET", f"/api/jobs/{first['job']}"))[1]["state"] == "waiting":
                await asyncio.sleep(0.05)
            assert (await page.ask("GET", f"/api/jobs/{second['job']}"))[1]["place"] == 1
            assert len(_children()) == 1
            assert (await page.ask("DELETE", f"/api/jobs/{first['job']}"))[0] == 200
            while (await page.ask("GET", f"/api/jobs/{second['job']}"))[1]["state"] == "waiting":
                await asyncio.sleep(0.05)
            assert len(_children()) == 1
        # The page has ended, and what it had begun with it.
        assert _children() == []

    asyncio.run(go())
    assert [p.name for p in tmp_path.iterdir()] == ["long.mp4"]


def test_a_file_that_cannot_even_be_begun_fails_and_the_next_one_has_its_turn(
    film: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async def go() -> None:
        jobs = Jobs(most_waiting=4, keep_seconds=60)
        facts = Facts(False, ".mp4", 320, 240)
        (tmp_path / "there").mkdir()
        missing = tmp_path / "there" / "no.mp4"
        first, second = (
            Job(name, tmp_path / name, missing, facts, PipelineConfig()) for name in ("missing", "there")
        )
        jobs.add(first)
        jobs.add(second)
        working = asyncio.create_task(jobs.work())
        while second.state in ("waiting", "running"):
            await asyncio.sleep(0.05)
        working.cancel()
        await asyncio.gather(working, return_exceptions=True)
        assert (first.state, "see the terminal" in first.sentence) == ("failed", True)
        assert (second.state, second.sentence[:9]) == ("failed", "there: no")

    asyncio.run(go())
    assert "missing" in caplog.text


def _children() -> list[int]:
    psutil = pytest.importorskip("psutil")
    return [
        child.pid
        for child in psutil.Process().children(recursive=True)
        if "pipeline.serve.child" in child.cmdline()
    ]


def test_a_restoration_does_not_outlive_its_server(tmp_path: Path) -> None:
    write_clip(tmp_path / "in.mp4", frames=180, width=320, height=240)
    process = subprocess.Popen(
        [
            *child_command("restore", str(tmp_path / "in.mp4"), str(tmp_path / "out.mp4")),
            *("--progress", "json"),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        env=child_environment(),
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdout.readline()
    process.stdin.close()  # as the system does for a server that was killed
    assert process.wait(30) == 130
    process.stdout.close()
    assert [p.name for p in tmp_path.iterdir()] == ["in.mp4"]


def test_the_folder_is_private_and_a_crashed_one_is_removed_at_the_next_start(tmp_path: Path) -> None:
    script = (
        "import os, sys; from pathlib import Path; from pipeline.serve.uploads import PrivateFolder\n"
        "folder = PrivateFolder(Path(sys.argv[1])); folder.__enter__(); (folder.path / 'film').write_text('x')\n"
        "print(folder.path, flush=True); sys.stdin.read(); os._exit(9)"
    )
    crashing = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=child_environment(),
    )
    assert crashing.stdout is not None
    left = Path(crashing.stdout.readline().strip())
    (tmp_path / "anchorface-serve-link").symlink_to(tmp_path.parent)
    with PrivateFolder(tmp_path) as folder:
        assert folder.path.stat().st_mode & 0o777 == 0o700
        assert (left / "film").exists()  # its run is still alive
    assert not folder.path.exists()
    crashing.communicate("")
    with PrivateFolder(tmp_path) as folder:
        assert not left.exists()
    assert (tmp_path / "anchorface-serve-link").is_symlink()
    assert tmp_path.exists()


def test_old_results_are_removed(film: Path, tmp_path: Path) -> None:
    async def go() -> None:
        async with served(tmp_path, ["serve.keep_minutes=0.02", "restorer.kind=none"]) as page:
            _, job = await give(page, "in.mp4", film.read_bytes())
            await ended(page, job)
            until = time.monotonic() + 20
            while page.left() and time.monotonic() < until:
                await asyncio.sleep(0.1)
            assert page.left() == []
            assert (await page.ask("GET", f"/api/jobs/{job['job']}"))[0] == 404

    asyncio.run(go())


@pytest.mark.parametrize(
    ("written", "named", "extension"),
    [
        ("a.mp4", ".mov", ".mov"),
        ("a.mp4", ".mkv", ".mp4"),
        ("a.mkv", ".exe", ".mkv"),
        ("a.avi", ".avi", ".mkv"),
    ],
)
def test_the_result_is_of_a_kind_that_is_written(
    tmp_path: Path, written: str, named: str, extension: str
) -> None:
    path = write_clip(tmp_path / written, frames=2, width=64, height=64)
    upload = path.rename(tmp_path / "upload")
    assert inspect(upload, named).extension == extension


def test_a_child_runs_this_very_code() -> None:
    assert child_environment()["PYTHONPATH"].split(os.pathsep)[0] == str(ROOT)
