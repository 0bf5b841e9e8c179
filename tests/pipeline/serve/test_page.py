"""The page of `serve` in a headless Chromium, whose camera is a file."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiortc", reason="needs the extra `serve`")

import av
import cv2

from pipeline.live.sinks import write_y4m_frame, y4m_header
from pipeline.media.coding import planes_of
from pipeline.runs.demo import write_damaged_clip
from support.browser import CHROMIUM, Browser
from support.calling import Caller
from support.serving import UNHURRIED, Served, served

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

FAKE = ("--use-fake-device-for-media-stream",)
FAKE_AND_ALLOWED = (*FAKE, "--use-fake-ui-for-media-stream")
LUMA = """(() => {
  const video = document.querySelector('#%s'), canvas = new OffscreenCanvas(320, 240);
  const context = canvas.getContext('2d');
  context.drawImage(video, 0, 0, 320, 240);
  const found = [], data = context.getImageData(0, 0, 320, 240).data;
  for (let at = 0; at < data.length; at += 4) found.push(0.3 * data[at] + 0.6 * data[at + 1] + 0.1 * data[at + 2]);
  return found;
})()"""


@pytest.fixture(scope="module")
def film(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("film") / "in.mp4"
    write_damaged_clip(path, frames=8)
    return path


@pytest.fixture(scope="module")
def camera(film: Path) -> Path:
    """A camera for Chromium: a still, degraded face at ten frames per second."""
    path = film.with_name("camera.y4m")
    with av.open(str(film)) as container, path.open("wb") as file:
        native = next(container.decode(video=0)).reformat(format="yuv420p")
        luma = planes_of(native)[0]
        luma[...] = cv2.GaussianBlur(luma, (0, 0), 2.0)
        file.write(y4m_header(native, Fraction(10)).replace(b" C420mpeg2", b" C420jpeg"))
        for _ in range(10):
            write_y4m_frame(file, native)
    return path


async def luma(browser: Browser, video: str) -> list[float]:
    values: list[float] = await browser.run(LUMA % video)
    return values


def difference(a: list[float], b: list[float]) -> float:
    """Mean over the 5 % of the pixels that differ most, as a face is small."""
    most = sorted((abs(one - other) for one, other in zip(a, b, strict=True)), reverse=True)[:3840]
    return sum(most) / len(most)


async def opened(browser: Browser, page: Served) -> None:
    await browser.open(page.address)
    await browser.until("document.querySelector('#version').textContent")
    assert page.token not in await browser.run("location.href")


async def figures(browser: Browser) -> str:
    text: str = await browser.run("document.querySelector('.figures').innerText")
    return text


def test_a_camera_is_restored_and_follows_slider_and_bypass(camera: Path, tmp_path: Path) -> None:
    async def go() -> None:
        async with (
            served(tmp_path, UNHURRIED) as page,
            Browser(*FAKE_AND_ALLOWED, f"--use-file-for-fake-video-capture={camera}") as browser,
        ):
            await opened(browser, page)
            await browser.run("document.querySelector('#start').click()")
            await browser.until("document.body.dataset.camera === 'on'")
            await browser.until("document.querySelector('#after').videoWidth === 320")
            await browser.until("parseInt(document.querySelector('#share').textContent) > 50", 120)
            # Frames flow, also where the picture stands still.
            since = await browser.run("document.querySelector('#after').currentTime")
            await browser.until(f"document.querySelector('#after').currentTime > {since} + 0.5")
            before = await luma(browser, "before")
            restored = await shown(browser, lambda now: difference(now, before) > 6)
            changed = difference(restored, before)

            await browser.run("document.querySelector('#strength').focus()")
            await browser.press("Home")
            assert await browser.run("document.querySelector('#strength-value').textContent") == "0 %"
            await shown(browser, lambda now: difference(now, before) < changed / 2)
            await browser.press("End")
            await shown(
                browser,
                lambda now: difference(now, restored) < changed / 2 < difference(now, before),
            )

            await browser.press("b")
            assert await browser.run("document.querySelector('#bypass').ariaPressed") == "true"
            await shown(browser, lambda now: difference(now, before) < changed / 2)
            await browser.until("document.querySelector('#badge').textContent === 'original'")
            await browser.press("b")
            await shown(browser, lambda now: difference(now, before) > changed / 2)

            told = await figures(browser)
            assert " ms" in await browser.until(
                "document.querySelector('#delay').textContent.match(/\\d+ ms/)?.[0]"
            )
            assert "Mbit/s" in told
            await browser.run("document.querySelector('#start').click()")
            await browser.until("document.body.dataset.camera === 'off'")
            assert browser.errors == []

    asyncio.run(go())


async def shown(browser: Browser, holds: Callable[[list[float]], bool]) -> list[float]:
    """The displayed luma, once `holds` is true of it and it is stable over new frames."""
    for _ in range(300):
        one = await luma(browser, "after")
        since = await browser.run("document.querySelector('#after').currentTime")
        # On a busy machine the picture may pause, and a stale one proves nothing.
        await browser.until(f"document.querySelector('#after').currentTime > {since} + 0.4")
        two = await luma(browser, "after")
        if difference(one, two) < 1.5 and holds(one) and holds(two):
            return two
    raise AssertionError("the picture did not become what it should: " + await figures(browser))


def test_a_file_is_given_and_comes_back(film: Path, tmp_path: Path) -> None:
    (tmp_path / "lie.mp4").write_text("no film", encoding="utf-8")

    async def go() -> None:
        async with served(tmp_path) as page, Browser() as browser:
            await opened(browser, page)
            await browser.run("document.querySelector('#tab-camera').focus()")
            await browser.press("ArrowRight")
            await browser.until(
                "!document.querySelector('#file').hidden && document.querySelector('#camera').hidden"
            )
            assert await browser.run("document.activeElement.id") == "tab-file"
            await browser.give("#upload", tmp_path / "lie.mp4")
            await browser.until("!document.querySelector('#send').disabled")
            await browser.run("document.querySelector('#send').click()")
            told = await browser.until("document.querySelector('#file-notice').textContent")
            assert told.startswith("Lie.mp4: ")
            assert await browser.run("!document.querySelector('#give').hidden")

            await browser.give("#upload", film)
            await browser.until("document.querySelector('#drop-title').textContent === 'in.mp4'")
            await browser.run("document.querySelector('#send').click()")
            await browser.until("document.querySelector('#job').dataset.state === 'done'", 120)
            assert "8 of 8 faces were restored" in await browser.run(
                "document.querySelector('#job-state').textContent"
            )
            assert await browser.run("document.querySelector('#save').download") == "in restored.mp4"
            await browser.until("document.querySelector('#result video')?.videoWidth === 320")
            assert len(page.left()) > 0
            await browser.run("document.querySelector('#cancel').click()")
            await browser.until("!document.querySelector('#give').hidden")
            assert page.left() == []
            assert browser.errors == []

    asyncio.run(go())


async def refused(page: Served, *flags: str, permission: str = "") -> str:
    """The page's message about a refused camera."""
    async with Browser(*flags) as browser:
        await opened(browser, page)
        if permission:
            settings: dict[str, Any] = {"permission": {"name": "camera"}, "setting": permission}
            await browser.call("Browser.setPermission", **settings)
        await browser.run("document.querySelector('#start').click()")
        told = await browser.until("document.querySelector('#camera-notice').textContent")
        assert await browser.run("document.body.dataset.camera") == "off"
        assert browser.errors == []
        return str(told)


def test_what_hinders_a_camera_is_told(camera: Path, tmp_path: Path) -> None:
    async def go() -> None:
        async with served(tmp_path, ["serve.most_peers=1", "restorer.kind=none"]) as page:
            assert "may not use the camera" in await refused(page, *FAKE, permission="denied")
            assert "No camera was found" in await refused(page, "--use-fake-ui-for-media-stream")
            other = Caller()
            page.closing.push_async_callback(other.close)
            assert await other.call(page.client, page.site, page.token) == 200
            told = await refused(page, *FAKE_AND_ALLOWED, f"--use-file-for-fake-video-capture={camera}")
            assert "1 cameras are restored here already" in told
            assert "Try again" in told

    asyncio.run(go())


def test_without_the_token_there_is_a_door_and_a_lost_program_is_told(camera: Path, tmp_path: Path) -> None:
    async def go() -> None:
        flags = (*FAKE_AND_ALLOWED, f"--use-file-for-fake-video-capture={camera}")
        async with Browser(*flags) as browser:
            async with served(tmp_path, ["restorer.kind=none"]) as page:
                await browser.open(page.site + "/")
                await browser.until("!document.querySelector('#door').hidden")
                assert await browser.run("document.querySelector('main').hidden")
                for token, shut in (("wrong", True), (page.address, False)):
                    await browser.run(f"document.querySelector('#door-token').value = {token!r}")
                    await browser.run("document.querySelector('#door button').click()")
                    await browser.until("/not the token/.test(document.body.innerText)" if shut else "true")
                await browser.until("document.querySelector('#door').hidden")
                await browser.run("document.querySelector('#start').click()")
                await browser.until("document.querySelector('#after').videoWidth === 320")
            await browser.until("document.body.dataset.camera === 'lost'")
            assert "is lost" in await browser.run("document.querySelector('#camera-notice').textContent")
            assert browser.errors == []

    asyncio.run(go())
