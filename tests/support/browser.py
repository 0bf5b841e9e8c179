"""A headless Chromium for the tests of pages, driven over the DevTools protocol."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
import shutil
import subprocess
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Self

import aiohttp

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
_FLAGS = (
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-dev-shm-usage",
    "--remote-debugging-port=0",
)


_CODES = {"Home": 36, "End": 35, "ArrowLeft": 37, "ArrowRight": 39, "Tab": 9}


class Browser:
    """One page of a fresh Chromium. A context manager; `errors` collects errors of its scripts."""

    def __init__(self, *flags: str, width: int = 1280, height: int = 900) -> None:
        self.errors: list[str] = []
        self._flags = (*flags, f"--window-size={width},{height}")
        self._ids = itertools.count(1)
        self._answers: dict[int, asyncio.Future[dict[str, Any]]] = {}

    async def __aenter__(self) -> Self:
        self._folder = TemporaryDirectory(prefix="chromium", ignore_cleanup_errors=True)
        assert CHROMIUM is not None
        self._process = subprocess.Popen(
            [CHROMIUM, *_FLAGS, f"--user-data-dir={self._folder.name}", *self._flags, "about:blank"],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            await self._connect()
        except BaseException:
            await self.__aexit__()
            raise
        return self

    async def __aexit__(self, *error: object) -> None:
        for name in ("_reader", "_socket", "_session"):
            part = getattr(self, name, None)
            if isinstance(part, asyncio.Task):
                part.cancel()
            elif part is not None:
                await part.close()
        self._process.terminate()
        with suppress(subprocess.TimeoutExpired):
            await asyncio.to_thread(self._process.wait, 10)
        self._process.kill()
        self._process.wait()
        self._folder.cleanup()

    async def _connect(self) -> None:
        port_file = Path(self._folder.name) / "DevToolsActivePort"
        for _ in range(600):
            if port_file.exists() and len(port_file.read_text(encoding="ascii").split()) == 2:
                break
            await asyncio.sleep(0.1)
        port = port_file.read_text(encoding="ascii").split()[0]
        self._session = aiohttp.ClientSession()
        async with self._session.get(f"http://127.0.0.1:{port}/json/list") as answer:
            page = next(target for target in await answer.json() if target["type"] == "page")
        self._socket = await self._session.ws_connect(page["webSocketDebuggerUrl"], max_msg_size=0)
        self._reader = asyncio.create_task(self._read())
        for domain in ("Page", "Runtime", "Log", "DOM"):
            await self.call(f"{domain}.enable")

    async def _read(self) -> None:
        async for message in self._socket:
            event = json.loads(message.data)
            if "id" in event:
                self._answers.pop(event["id"]).set_result(event)
            elif event["method"] == "Runtime.exceptionThrown":
                details = event["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description", details["text"]))
            elif event["method"] == "Runtime.consoleAPICalled" and event["params"]["type"] == "error":
                self.errors.append(str(event["params"]["args"]))
            elif event["method"] == "Log.entryAdded" and event["params"]["entry"]["level"] == "error":
                entry = event["params"]["entry"]
                # Answers that refuse something are told by the page itself.
                if entry["source"] != "network":
                    self.errors.append(f"{entry['text']} ({entry.get('url', '')})")

    async def call(self, method: str, **parameters: object) -> dict[str, Any]:
        """One call of the protocol."""
        number = next(self._ids)
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        await self._socket.send_json({"id": number, "method": method, "params": parameters})
        event = await asyncio.wait_for(answer, 60)
        assert "error" not in event, event
        result: dict[str, Any] = event["result"]
        return result

    async def open(self, address: str) -> None:
        """Goes to a page and waits until it is loaded."""
        await self.call("Page.navigate", url=address)
        await self.until("document.readyState === 'complete' && location.href !== 'about:blank'")

    async def run(self, script: str) -> Any:
        """The value of an expression in the page; a promise is waited for."""
        answer = await self.call(
            "Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True, userGesture=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    async def until(self, condition: str, seconds: float = 60) -> Any:
        """Waits until an expression in the page is true; gives its value."""
        for _ in range(int(10 * seconds)):
            value = await self.run(condition)
            if value:
                return value
            await asyncio.sleep(0.1)
        text = await self.run("document.body.innerText")
        raise AssertionError(f"{condition} did not come true; errors {self.errors}, the page says: {text}")

    async def press(self, key: str) -> None:
        """Presses and releases a key, by its name in the DOM."""
        letter = {"text": key} if len(key) == 1 else {}
        for kind in ("keyDown", "keyUp"):
            await self.call(
                "Input.dispatchKeyEvent",
                type=kind,
                key=key,
                windowsVirtualKeyCode=_CODES.get(key, ord(key[0].upper())),
                **(letter if kind == "keyDown" else {}),
            )

    async def give(self, selector: str, file: Path) -> None:
        """Chooses a file in a file field."""
        root = (await self.call("DOM.getDocument"))["root"]["nodeId"]
        node = (await self.call("DOM.querySelector", nodeId=root, selector=selector))["nodeId"]
        await self.call("DOM.setFileInputFiles", files=[str(file)], nodeId=node)

    async def screenshot(self, path: Path, *, whole: bool = False) -> None:
        """Writes what is seen as PNG."""
        answer = await self.call("Page.captureScreenshot", format="png", captureBeyondViewport=whole)
        path.write_bytes(base64.b64decode(answer["data"]))

    async def size(self, width: int, height: int, *, dark: bool = False, mobile: bool = False) -> None:
        """Sets the size of the page in pixels, and light or dark mode."""
        await self.call(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=2 if mobile else 1,
            mobile=mobile,
        )
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        features = [scheme, {"name": "prefers-reduced-motion", "value": "reduce"}]
        await self.call("Emulation.setEmulatedMedia", features=features)
