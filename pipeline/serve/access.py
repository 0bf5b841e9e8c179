"""Who is heard: this machine's own pages, with the token that was printed.

- A page of another site can make a browser send requests to here. Their `Origin` and `Sec-Fetch-Site` tell, and they
  cannot carry the token's header.
- A name of another site can be made to lead here (DNS rebinding). The `Host` tells: only names that were told at the
  start, and addresses, which cannot be made to lead elsewhere.
- The token stands behind the `#` of the printed address, which browsers send to nobody.
"""

from __future__ import annotations

import hmac
import ipaddress
import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from aiohttp import web

logger = logging.getLogger(__name__)

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]

_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; media-src 'self' blob:; "
        "connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Permissions-Policy": "camera=(self), microphone=(), geolocation=(), display-capture=()",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
    "Cache-Control": "no-store",
}


class RequestError(Exception):
    """A request that is not done, with one sentence for whoever sent it."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Access:
    """Lets requests through to their handlers, or answers them with a sentence."""

    def __init__(self, token: str, names: Sequence[str], *, any_address: bool) -> None:
        """`names`: hosts under which the page is reached; `any_address`: under any address too."""
        self._token, self._names, self._any_address = token, frozenset(names), any_address

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Answers in JSON whatever goes wrong."""
        try:
            self._check(request)
            return await handler(request)
        except RequestError as error:
            response = web.json_response({"error": str(error)}, status=error.status)
        except web.HTTPException as error:
            response = web.json_response({"error": _sentence(error)}, status=error.status)
        except Exception:
            logger.exception("this is a bug in anchorface; please report it with the following lines")
            response = web.json_response({"error": "this is a bug; the terminal tells more"}, status=500)
        if not request.content.is_eof():
            # What comes after a refusal, perhaps gigabytes, is not read.
            response.force_close()
        return response

    async def add_headers(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Tells the browser to load and show nothing from elsewhere."""
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)

    def _check(self, request: web.Request) -> None:
        if not self._is_ours(request.headers.get("Host", "")):
            raise RequestError(403, "this page is not served under that name; see --name")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
            raise RequestError(403, "requests of other sites are refused")
        if not request.path.startswith("/api/"):
            return
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise RequestError(403, "requests of other sites are refused")
        # A link to a result has a key of its own, as links carry no headers.
        given = request.headers.get("Authorization", "")
        if not request.path.endswith("/result") and not same(given, f"Bearer {self._token}"):
            raise RequestError(401, "the token is missing or wrong; open the address that the terminal shows")

    def _is_ours(self, host: str) -> bool:
        with suppress(ValueError):
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._names:
                return True
            if self._any_address:
                ipaddress.ip_address(name)
                return True
        return False


def same(given: str, expected: str) -> bool:
    """Compares in a time that does not tell where they differ."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), expected.encode())


def _sentence(error: web.HTTPException) -> str:
    told = {404: "there is nothing at this address", 405: "this address does not take such a request"}
    return told.get(error.status, error.reason.lower())
