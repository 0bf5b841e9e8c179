"""Access control of the page of `serve`."""

from __future__ import annotations

import asyncio
import re
import sys
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("aiortc", reason="needs the extra `serve`")

from aiohttp import FormData, web
from aiohttp.test_utils import make_mocked_request

from configs import ConfigError
from pipeline import cli
from pipeline.serve.access import Access
from pipeline.serve.command import listen
from support.serving import served

STATIC = Path(__file__).parents[3] / "pipeline" / "serve" / "static"
OFFER = {"sdp": "v=0", "rate": 25}


def asked(tmp_path: Path, *requests: dict[str, Any]) -> list[tuple[int, dict[str, Any]]]:
    """The answers to requests to one served page."""

    async def go() -> list[tuple[int, dict[str, Any]]]:
        async with served(tmp_path) as page:
            return [
                await page.ask(**{"method": "GET", "path": "/api/about"} | request) for request in requests
            ]

    return asyncio.run(go())


def test_the_page_is_shown_without_a_token_and_does_nothing_without_it(tmp_path: Path) -> None:
    async def go() -> None:
        async with served(tmp_path) as page:
            async with page.client.get(page.site + "/") as answer:
                assert answer.status == 200
                assert "anchorface" in await answer.text()
                assert page.token not in await answer.text()
            for method, path in (
                ("GET", "/api/about"),
                ("POST", "/api/peers"),
                ("DELETE", "/api/peers/x"),
                ("POST", "/api/photos"),
                ("POST", "/api/jobs"),
                ("GET", "/api/jobs/x"),
                ("DELETE", "/api/jobs/x"),
            ):
                for token in ("", "wrong", page.token[:-1]):
                    status, told = await page.ask(method, path, token=token)
                    assert (status, "token" in told["error"]) == (401, True), (method, path)
            assert (await page.ask("GET", "/api/about"))[0] == 200

    asyncio.run(go())


@pytest.mark.parametrize(
    "headers",
    [
        {"Origin": "https://elsewhere.example"},
        {"Origin": "http://127.0.0.1:1"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Host": "elsewhere.example"},
        {"Host": "127.0.0.1.elsewhere.example"},
        {"Host": "192.0.2.7"},
        {"Host": ""},
    ],
    ids=str,
)
def test_another_site_is_refused_even_with_the_token(tmp_path: Path, headers: dict[str, str]) -> None:
    answers = asked(
        tmp_path,
        {"headers": headers},
        {"headers": headers, "method": "POST", "path": "/api/peers", "json": OFFER},
        {"headers": headers, "method": "POST", "path": "/api/jobs", "data": b"x"},
    )
    for status, told in answers:
        assert status == 403
        assert "refused" in told["error"] or "--name" in told["error"]


def test_a_name_that_was_told_and_addresses_are_heard_where_the_page_is_for_others_too() -> None:
    access = Access("t", ["films.example"], any_address=True)

    async def fine(request: web.Request) -> web.StreamResponse:
        return web.Response()

    async def status(host: str) -> int:
        headers = {"Host": host, "Authorization": "Bearer t"}
        return (await access.guard(make_mocked_request("GET", "/api/about", headers=headers), fine)).status

    async def go() -> list[int]:
        hosts = ("films.example:8765", "192.0.2.7:8765", "[fd00::2]:8765", "elsewhere.example", "[::1")
        return [await status(host) for host in hosts]

    assert asyncio.run(go()) == [200, 200, 200, 403, 403]


def test_every_answer_forbids_the_browser_what_is_not_needed(tmp_path: Path) -> None:
    async def go() -> None:
        async with served(tmp_path) as page:
            for path in ("/", "/serve.js", "/api/about", "/nowhere"):
                async with page.client.get(page.site + path) as answer:
                    policy = answer.headers["Content-Security-Policy"]
                    assert policy.startswith("default-src 'none'; script-src 'self'")
                    assert "frame-ancestors 'none'" in policy
                    assert answer.headers["X-Content-Type-Options"] == "nosniff"
                    assert answer.headers["Referrer-Policy"] == "no-referrer"
                    assert answer.headers["Cache-Control"] == "no-store"
                    assert "Access-Control-Allow-Origin" not in answer.headers

    asyncio.run(go())


def test_the_page_loads_nothing_from_elsewhere() -> None:
    for path in STATIC.iterdir():
        text = path.read_text(encoding="utf-8").replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|//[a-z]+\.|@import|url\(", text), path.name
        assert "style=" not in text, path.name
        assert not re.search(r"\bon[a-z]+=\"", text), path.name


@pytest.mark.parametrize(
    ("request_", "status", "words"),
    [
        ({"path": "/api/nothing"}, 404, "nothing at this address"),
        ({"path": "/../settings.py"}, 404, "nothing"),
        ({"path": "/static/serve.js"}, 404, "nothing"),
        ({"method": "PUT"}, 405, "does not take"),
        ({"method": "POST", "path": "/api/peers", "data": b"{"}, 400, "not JSON"),
        ({"method": "POST", "path": "/api/peers", "data": b"[" * 100_000}, 400, "not JSON"),
        ({"method": "POST", "path": "/api/peers", "json": [1]}, 400, "not a JSON object"),
        ({"method": "POST", "path": "/api/peers", "data": b" " * 300_000}, 413, "large"),
        ({"method": "POST", "path": "/api/peers", "json": {}}, 400, "sdp must be"),
        ({"method": "POST", "path": "/api/peers", "json": OFFER}, 400, "one picture and no sound"),
        ({"method": "POST", "path": "/api/peers", "json": OFFER | {"sdp": "m=video"}}, 400, "not an offer"),
        ({"method": "POST", "path": "/api/peers", "json": OFFER | {"rate": 1e9}}, 400, "rate must be"),
        ({"method": "POST", "path": "/api/peers", "json": OFFER | {"strength": 2}}, 400, "strength must be"),
        (
            {"method": "POST", "path": "/api/peers", "json": OFFER | {"restorer": "/etc/x"}},
            400,
            "one of fast",
        ),
        ({"method": "POST", "path": "/api/peers", "json": OFFER | {"photo": "../x"}}, 400, "upload it again"),
        ({"method": "DELETE", "path": "/api/peers/x"}, 404, "not connected"),
        ({"path": "/api/jobs/..%2f..%2fetc"}, 404, "has been removed"),
        ({"path": "/api/jobs/x/result?key=y"}, 404, "has been removed"),
    ],
    ids=lambda value: value if isinstance(value, str) else None,
)
def test_what_makes_no_sense_is_one_sentence(
    tmp_path: Path, request_: dict[str, Any], status: int, words: str
) -> None:
    [(found, told)] = asked(tmp_path, request_)
    assert (found, list(told)) == (status, ["error"])
    assert words in told["error"]


def test_a_bug_is_told_in_the_terminal_alone(caplog: pytest.LogCaptureFixture) -> None:
    access = Access("t", ["127.0.0.1"], any_address=False)

    async def broken(request: web.Request) -> web.StreamResponse:
        raise RuntimeError("/home/somebody/secret")

    request = make_mocked_request("GET", "/", headers={"Host": "127.0.0.1"})
    answer = asyncio.run(access.guard(request, broken))
    assert isinstance(answer, web.Response)
    assert answer.status == 500
    assert "secret" not in str(answer.text)
    assert "secret" in caplog.text


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--port", "70000"], "--port must be between 0 and 65535"),
        (["--host", "256.1.1.1"], "choose another --host or --port"),
        (["--key", "k.pem"], "give both"),
        (["--certificate", "nowhere.pem"], "cannot be used as a certificate"),
        (["--set", "serve.most_peers=0"], "most_peers must be at least 1"),
        (["--set", "serve.least_kilobits=9000"], "most_kilobits must not be below"),
    ],
)
def test_a_wrong_option_is_one_sentence(
    arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["serve", *arguments]) == 2
    assert sentence in capsys.readouterr().err


def test_a_port_that_is_taken_is_told() -> None:
    with listen("127.0.0.1", 0) as taken, pytest.raises(ConfigError, match="choose another --host or --port"):
        listen("127.0.0.1", taken.getsockname()[1])


def test_a_form_of_another_site_cannot_start_a_job(tmp_path: Path) -> None:
    # A plain form needs no leave of the browser, but it has an origin and no token.
    form = FormData({"file": "x"})
    [(status, _)] = asked(
        tmp_path,
        {
            "method": "POST",
            "path": "/api/jobs",
            "data": form,
            "headers": {"Origin": "https://elsewhere.example"},
        },
    )
    assert status == 403


def test_a_missing_package_is_told_with_what_brings_it(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.delitem(sys.modules, "pipeline.serve.command")
    monkeypatch.setitem(sys.modules, "aiohttp", None)
    assert cli.main(["serve"]) == 2
    assert (
        "serve needs the package aiohttp; install it with `pip install anchorface[serve]`"
        in capsys.readouterr().err
    )
