"""`python -m pipeline serve`."""

from __future__ import annotations

import argparse
import asyncio
import ipaddress
import logging
import secrets
import signal
import socket
import ssl
from collections.abc import Callable
from contextlib import ExitStack, suppress
from dataclasses import replace
from pathlib import Path

from aiohttp import web

import configs
from configs import ConfigError
from pipeline.config import PipelineConfig
from pipeline.errors import reason
from pipeline.serve.access import Access
from pipeline.serve.site import Settings, Site
from pipeline.serve.uploads import PrivateFolder
from pipeline.serve.wire import prepare

PORT = 8765
_LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")


def command(options: argparse.Namespace, changes: list[str]) -> int:
    """Runs the command until Ctrl-C; returns its exit code."""
    live = configs.load(PipelineConfig, options.config or configs.preset("live"), changes)
    file = configs.load(PipelineConfig, options.config, changes)
    if not 0 <= options.port <= 65535:
        raise ConfigError(f"--port must be between 0 and 65535, got {options.port}")
    context = _certificate(options.certificate, options.key)
    listening = listen(options.host, options.port)
    with suppress(KeyboardInterrupt), PrivateFolder(live.serve.folder) as folder:
        asyncio.run(serve(Settings(live, file), folder, listening, names=options.name, context=context))
    print("stopped")
    return 0


async def serve(
    settings: Settings,
    folder: PrivateFolder,
    listening: socket.socket,
    *,
    names: list[str],
    context: ssl.SSLContext | None = None,
    tell: Callable[[str], None] = lambda sentence: print(sentence, flush=True),
) -> None:
    """Serves the page on a listening socket until it is cancelled or receives SIGINT or SIGTERM.

    `names`: further host names of the page. `tell` is called with messages, first the address with the token.
    """
    host, port = listening.getsockname()[:2]
    is_local = ipaddress.ip_address(host).is_loopback
    limits = settings.live.serve
    if is_local:
        # No network between: bandwidth estimates must not reduce quality.
        limits = replace(limits, least_kilobits=limits.most_kilobits)
        settings = replace(settings, live=replace(settings.live, serve=limits))
    prepare(least_kilobits=limits.least_kilobits, most_kilobits=limits.most_kilobits, local_only=is_local)
    token = secrets.token_urlsafe(24)
    known = [*_LOOPBACK_NAMES, *names, *([] if is_local else [socket.gethostname().lower()])]
    site = Site(settings, folder, Access(token, known, any_address=not is_local))
    runner = web.AppRunner(site.application, access_log=None, handle_signals=False, shutdown_timeout=5)
    await runner.setup()
    try:
        await web.SockSite(runner, listening, ssl_context=context).start()
        secure = "https" if context else "http"
        shown = f"[{host}]" if ":" in host else host
        tell(f"{secure}://{_reached(shown, names)}:{port}/#{token}")
        tell("open this address in a browser; Ctrl-C stops the server and removes all uploaded files")
        if not is_local and context is None:
            tell(
                "browsers allow cameras on pages of other machines only over https (see --certificate); "
                "files can be restored without it"
            )
        await _until_signalled()
    finally:
        await runner.cleanup()


def _reached(host: str, names: list[str]) -> str:
    if names:
        return names[0]
    return socket.gethostname() if host in ("0.0.0.0", "[::]") else host


async def _until_signalled() -> None:
    ended = asyncio.Event()
    loop = asyncio.get_running_loop()
    with suppress(NotImplementedError, RuntimeError, ValueError):
        # Not available on Windows, where Ctrl-C cancels this task, nor outside the main thread.
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, ended.set)
    await ended.wait()


def listen(host: str, port: int) -> socket.socket:
    """A listening socket. Raises ConfigError."""
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, address = found[0]
        with ExitStack() as opened:
            listening = opened.enter_context(socket.socket(family, kind, protocol))
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listening.bind(address)
            listening.listen(64)
            opened.pop_all()
    except OSError as error:
        raise ConfigError(
            f"cannot listen on {host}, port {port} ({reason(error)}); choose another --host or --port"
        ) from error
    return listening


def _certificate(certificate: Path | None, key: Path | None) -> ssl.SSLContext | None:
    if certificate is None:
        if key is not None:
            raise ConfigError("--key needs --certificate; give both")
        return None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    try:
        context.load_cert_chain(certificate, key)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(
            f"{certificate}: cannot be used as a certificate ({error.strerror or error})"
        ) from error
    return context


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Options of `serve` alone."""
    parser.add_argument(
        "--host", default="127.0.0.1", help="address to listen on (default: this machine only)"
    )
    parser.add_argument("--port", type=int, default=PORT, help=f"default: {PORT}; 0 = any free port")
    parser.add_argument(
        "--name",
        action="append",
        default=[],
        metavar="NAME",
        help="host name under which browsers reach this machine; repeatable",
    )
    parser.add_argument(
        "--certificate", type=Path, metavar="FILE", help="serve over https with this certificate (PEM)"
    )
    parser.add_argument("--key", type=Path, metavar="FILE", help="private key of the certificate")
    parser.add_argument(
        "--config", type=Path, metavar="FILE", help="TOML settings instead of default.toml and live.toml"
    )
    logging.getLogger("aioice").setLevel(logging.WARNING)
