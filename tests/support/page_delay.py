"""True delay of the page of `serve` against the delay that it displays: a measurement, not a test.

    PYTHONPATH=tests python -m support.page_delay CLIP --seconds 30

The frames of CLIP, 640x480 with their numbers in black and white, are the camera of a headless Chromium. Each picture
that the page shows is read there: from the capture of a number to its showing, restored, is the true delay. The screen
itself comes on top.
"""

from __future__ import annotations

import argparse
import asyncio
import tempfile
from fractions import Fraction
from itertools import islice
from pathlib import Path

import av
import cv2
import numpy as np
from numpy.typing import NDArray

from pipeline.live.sinks import write_y4m_frame, y4m_header
from pipeline.media.coding import planes_of
from support.browser import CHROMIUM, Browser
from support.serving import served

SIZE = (640, 480)
BLOCK = 32
BITS = 8
MOST_FRAMES = 150
"""Frames after which the camera repeats; longer than any delay."""
FLAGS = ("--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream")
WATCH = f"""(() => {{
  window.shown = {{before: [], after: []}};
  window.displayed = [];
  for (const id of ['before', 'after']) {{
    const video = document.querySelector('#' + id);
    const context = new OffscreenCanvas({2 * BITS * BLOCK}, {BLOCK}).getContext('2d', {{willReadFrequently: true}});
    const read = (now, facts) => {{
      const top = video.videoHeight - {BLOCK};
      context.drawImage(video, 0, top, {2 * BITS * BLOCK}, {BLOCK}, 0, 0, {2 * BITS * BLOCK}, {BLOCK});
      const row = context.getImageData(0, {BLOCK} / 2, {2 * BITS * BLOCK}, 1).data;
      let value = 0, inverse = 0;
      for (let bit = 0; bit < {BITS}; bit++) {{
        value |= (row[4 * (bit + 0.5) * {BLOCK}] > 127) << bit;
        inverse |= (row[4 * (bit + {BITS} + 0.5) * {BLOCK}] < 128) << bit;
      }}
      if (value === inverse && video.videoHeight === {SIZE[1]})
        shown[id].push([value, id === 'before' ? facts.captureTime ?? now : facts.presentationTime]);
      video.requestVideoFrameCallback(read);
    }};
    video.requestVideoFrameCallback(read);
  }}
  setInterval(() => {{
    const ms = parseFloat(document.querySelector('#delay').textContent);
    if (!isNaN(ms)) displayed.push([ms, performance.now()]);
  }}, 500);
}})()"""


def write_camera(clip: Path, path: Path, rate: int) -> None:
    """Writes a camera for Chromium: the first frames of `clip` forwards and backwards, numbered in the lowest rows."""
    with av.open(str(clip)) as container:
        frames = [
            np.asarray(cv2.resize(frame.to_ndarray(format="rgb24"), SIZE), np.uint8)
            for frame in islice(container.decode(video=0), MOST_FRAMES // 2 + 1)
        ]
    with path.open("wb") as file:
        for number, image in enumerate([*frames, *frames[-2:0:-1]]):
            native = av.VideoFrame.from_ndarray(image, "rgb24").reformat(format="yuv420p")
            burn(planes_of(native)[0], number)
            if number == 0:
                file.write(y4m_header(native, Fraction(rate)).replace(b" C420mpeg2", b" C420jpeg"))
            write_y4m_frame(file, native)


def burn(luma: NDArray[np.generic], number: int) -> None:
    """Writes `number` and its inverse as blocks into the lowest rows of `luma` (H, W)."""
    for place in range(2 * BITS):
        bit = (number >> place % BITS & 1) ^ (place >= BITS)
        luma[-BLOCK:, place * BLOCK : (place + 1) * BLOCK] = 235 if bit else 16


def delays(before: list[list[float]], after: list[list[float]]) -> list[tuple[float, float]]:
    """Milliseconds from the capture of a number to its last display before the next one, and its time."""
    found = []
    for number, at in after:
        captured = [moment for value, moment in before if value == number and moment <= at]
        if captured:
            found.append((at - captured[-1], at))
    return found


async def measure(clip: Path, seconds: float, rate: int, changes: list[str]) -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        camera = folder / "camera.y4m"
        write_camera(clip, camera, rate)
        async with (
            served(folder, changes) as page,
            Browser(*FLAGS, f"--use-file-for-fake-video-capture={camera}") as browser,
        ):
            await browser.open(page.address)
            await browser.until("document.querySelector('#version').textContent")
            await browser.run("document.querySelector('#start').click()")
            await browser.until("document.body.dataset.camera === 'on'")
            await browser.until("document.querySelector('#after').videoWidth > 0")
            await browser.until("/\\d/.test(document.querySelector('#delay').textContent)", 120)
            await asyncio.sleep(5)
            await browser.run(WATCH)
            await asyncio.sleep(seconds)
            found = await browser.run("[shown.before, shown.after, displayed]")
            figures = await browser.run("document.querySelector('.figures').innerText")
    true, displayed = delays(*found[:2]), [(float(ms), float(at)) for ms, at in found[2]]
    if not true or not displayed:
        raise SystemExit(
            f"no numbers were read (before {len(found[0])}, after {len(found[1])}, displayed {len(displayed)})"
        )
    apart = [
        ms - float(np.median(near))
        for ms, at in displayed
        if (near := [late for late, moment in true if at - 2000 < moment <= at])
    ]
    for what, values in (
        ("true", [ms for ms, _ in true]),
        ("displayed", [ms for ms, _ in displayed]),
        ("apart", apart),
    ):
        low, middle, high = np.percentile(values, [5, 50, 95])
        print(f"{what}: median {middle:.0f} ms, 5 to 95 %: {low:.0f} to {high:.0f} ms ({len(values)} values)")
    print(
        f"shown {len(found[1]) / seconds:.1f} pictures a second of {len(found[0]) / seconds:.1f} of the camera"
    )
    print("at the end: " + " · ".join(figures.split("\n")))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("clip", metavar="CLIP", type=Path)
    parser.add_argument("--seconds", type=float, default=30.0)
    parser.add_argument("--rate", type=int, default=30, help="frames per second of the camera")
    parser.add_argument("--set", dest="changes", metavar="A.B=C", action="append", default=[])
    options = parser.parse_args()
    if CHROMIUM is None:
        parser.error("Chromium is needed (apt install chromium)")
    asyncio.run(measure(options.clip, options.seconds, options.rate, options.changes))


if __name__ == "__main__":
    main()
