"""The page of `--report` in a headless Chromium."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

pytest.importorskip("aiohttp", reason="needs the extra `serve`")

from pipeline.cli import main
from pipeline.runs.demo import write_damaged_clip
from support.browser import CHROMIUM, Browser

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")

PLACE = "getComputedStyle(document.querySelector('.slider img.after')).clipPath"
COVERED = """(() => {
  const [slider] = document.querySelectorAll('.slider'), box = slider.getBoundingClientRect();
  return [box.left + box.width / 4, box.top + box.height / 2];
})()"""


def test_the_line_between_before_and_after_moves_by_key_and_by_hand(tmp_path: Path) -> None:
    write_damaged_clip(tmp_path / "in.mp4", frames=8)
    page = tmp_path / "page.html"
    command = [
        str(tmp_path / "in.mp4"),
        str(tmp_path / "out.mp4"),
        "--report",
        str(page),
        "--progress",
        "none",
    ]
    assert main(command) == 0

    async def go() -> None:
        async with Browser() as browser:
            await browser.open(page.as_uri())
            assert await browser.run(PLACE) == "inset(0px 0px 0px 50%)"
            await browser.run("document.querySelector('.slider input').focus()")
            await browser.press("Home")
            assert await browser.run(PLACE) == "inset(0px 0px 0px 0%)"
            await browser.run("document.querySelector('.slider').scrollIntoView({block: 'center'})")
            x, y = await browser.run(COVERED)
            for kind in ("mousePressed", "mouseReleased"):
                await browser.call(
                    "Input.dispatchMouseEvent", type=kind, x=x, y=y, button="left", clickCount=1
                )
            moved = float((await browser.run(PLACE)).split()[-1].removesuffix("%)"))
            assert 20 <= moved <= 30
            # All pictures are in the page and can be shown.
            assert await browser.run("[...document.images].every((each) => each.naturalWidth > 0)")
            for width in (1280, 390):
                await browser.size(width, 800, mobile=width < 500)
                assert await browser.run("document.documentElement.scrollWidth") <= width
            assert browser.errors == []

    asyncio.run(go())
