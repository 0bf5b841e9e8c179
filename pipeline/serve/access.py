"""Access control: only the page served here, with the printed token.

- A page of another site can make a browser send requests here. `Origin` and `Sec-Fetch-Site` reveal them, and they
  lack the token's header.
- A name of another site can resolve to this machine (DNS rebinding). Only hosts named at the start are accepted, and
  IP addresses where the page is reached under them.
- The token follows the `#` of the printed address, a part that browsers never send.
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
    """A refused request: HTTP status and one sentence for the client."""

    def __init__(self, status: int, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Access:
    """Passes requests to their handlers, or answers with an error."""

    def __init__(self, token: str, names: Sequence[str], *, any_address: bool) -> None:
        """`names`: accepted hosts; `any_address`: accept every IP address too."""
        self._token, self._names, self._any_address = token, frozenset(names), any_address

    @web.middleware
    async def guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Middleware that answers every error in JSON."""
        try:
            self._check(request)
            return await handler(request)
        except RequestError as error:
            response = web.json_response({"error": str(error)}, status=error.status)
        except web.HTTPException as error:
            response = web.json_response({"error": _sentence(error)}, status=error.status)
        except Exception:
            logger.exception("this is a bug in anchorface; please report it with the following lines")
            response = web.json_response({"error": "this is a bug; see the terminal for details"}, status=500)
        if not request.content.is_eof():
            # The rest of a refused upload is not read.
            response.force_close()
        return response

    async def add_headers(self, request: web.BaseRequest, response: web.StreamResponse) -> None:
        """Adds headers that forbid the browser to load anything from elsewhere."""
        for name, value in _HEADERS.items():
            response.headers.setdefault(name, value)

    def _check(self, request: web.Request) -> None:
        if not self._is_known_host(request.headers.get("Host", "")):
            raise RequestError(403, "this page is not served under that host name; see --name")
        origin = request.headers.get("Origin")
        if origin is not None and urlsplit(origin).netloc != request.headers.get("Host"):
            raise RequestError(403, "requests from other sites are refused")
        if not request.path.startswith("/api/"):
            return
        if request.headers.get("Sec-Fetch-Site", "same-origin") not in ("same-origin", "none"):
            raise RequestError(403, "requests from other sites are refused")
        # Links carry no headers, so the link to a result has its own key.
        given = request.headers.get("Authorization", "")
        if not request.path.endswith("/result") and not same(given, f"Bearer {self._token}"):
            raise RequestError(401, "the token is missing or wrong; open the address that the terminal shows")

    def _is_known_host(self, host: str) -> bool:
        with suppress(ValueError):
            name = urlsplit(f"//{host}").hostname or ""
            if name in self._names:
                return True
            if self._any_address:
                ipaddress.ip_address(name)
                return True
        return False


def same(given: str, expected: str) -> bool:
    """Compares in constant time."""
    return hmac.compare_digest(given.encode(errors="surrogateescape"), expected.encode())


def _sentence(error: web.HTTPException) -> str:
    known = {404: "there is nothing at this address", 405: "this address does not take such a request"}
    return known.get(error.status, error.reason.lower())
