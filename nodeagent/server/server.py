"""The listeners: TLS for the cluster, plain HTTP with figures for this host.

Each stands alone: one that cannot listen is a named problem and tried again, and never ends the
agent. Certificate and client CA are looked at again now and then and put in use for new
connections; those that are open stay.
"""

import asyncio
import contextlib
import logging
import time
from collections.abc import Awaitable, Callable
from pathlib import Path

from aiohttp import web

from hostkit.command import Runner
from hostkit.errors import HostkitError
from hostkit.problems import Problems
from nodeagent.errors import EngineError
from nodeagent.node.facts import Machine
from nodeagent.server.access import Access, Reviewer
from nodeagent.server.certificate import OwnCertificate
from nodeagent.server.parts import ServerParts, ServerSettings
from nodeagent.server.readings import Reader
from nodeagent.server.stats import Stats
from nodeagent.server.tls import Tls
from nodeagent.server.views import Views

log = logging.getLogger(__name__)

LOOK_AGAIN = 10.0
"""Seconds between two looks at certificates, and at a listener that could not listen."""
RENEWAL = 3600.0
"""Seconds between two looks at the age of our own certificate."""
FAREWELL = 0.5
"""Seconds that requests have to end when the server stops: those who follow a log never do."""


class KubeletServer:
    """Serves *parts* until it is cancelled; *client* is None when there is no API server."""

    def __init__(
        self,
        parts: ServerParts,
        settings: ServerSettings,
        *,
        client: Reviewer | None,
        runner: Runner,
        problems: Problems,
        reader: Reader | None = None,
        clock: Callable[[], float] = time.monotonic,
        wall: Callable[[], float] = time.time,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._parts = parts
        self._settings = settings
        self._problems = problems
        self._clock = clock
        self._wall = wall
        self._sleep = sleep
        self.stats = Stats(parts.observed, settings.root_dir, reader=reader, clock=clock, wall=wall)
        self._views = Views(parts, self.stats, Machine(settings.root_dir), wall)
        self._access = Access(settings, parts.node_name, client, problems, clock=clock)
        self._own = None
        cert, key = Path(settings.cert_file), Path(settings.key_file)
        if not settings.cert_file:
            self._own = OwnCertificate(runner, settings.cert_dir)
            cert, key = self._own.cert, self._own.key
        self._tls = Tls(cert, key, settings.client_ca, tls13_only=settings.tls13_only)
        self._images_known = False
        self._certified: tuple[tuple[str, ...], float] | None = None
        self._secured: web.AppRunner | None = None
        self._read_only: web.AppRunner | None = None

    @property
    def port(self) -> int | None:
        """The port with TLS, None while it is not open."""
        return _port(self._secured)

    @property
    def read_only_port(self) -> int | None:
        """The port on 127.0.0.1, None while it is not open."""
        return _port(self._read_only)

    async def run(self) -> None:
        """Open the listeners and keep them and the certificate right, for ever."""
        try:
            while True:
                await self.look()
                await self._sleep(LOOK_AGAIN)
        finally:
            await self.close()

    async def look(self) -> None:
        """Put right what is not as it should be; reports problems, raises nothing of them."""
        if self._settings.enabled:
            await self._attempt("server certificate", self._renew)
            if self._secured is None and self._tls.ready:
                await self._attempt("server", self._open_secured)
        if self._settings.read_only_port and self._read_only is None:
            await self._attempt("read-only port", self._open_read_only)
        if not self._images_known:
            # Docker's own trouble is told by those who need more of it.
            with contextlib.suppress(EngineError):
                self.stats.image_dir = Path((await self._parts.engine.info()).root)
                self._images_known = True

    async def close(self) -> None:
        """Close both listeners and their connections."""
        runners = [self._secured, self._read_only]
        self._secured = self._read_only = None
        for runner in runners:
            if runner is not None:
                await runner.cleanup()

    async def _attempt(self, key: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        except HostkitError as error:
            self._problems.set(key, str(error))
        except OSError as error:
            self._problems.set(key, error.strerror or str(error))
        else:
            self._problems.clear(key)

    async def _renew(self) -> None:
        names, now = self._parts.names(), self._clock()
        if self._own is not None:
            known = self._certified
            if known is None or known[0] != names or now - known[1] >= RENEWAL:
                if await self._own.ensure(names, self._wall()):
                    log.info("made a certificate for %s", ", ".join(names))
                self._certified = names, now
        if self._tls.load() and self._secured is not None:
            log.info("certificate or client CA changed: new connections use them")

    async def _open_secured(self) -> None:
        settings = self._settings
        app = self._views.secured(self._access, debugging=settings.debugging)
        runner = _runner(app)
        await runner.setup()
        site = web.TCPSite(runner, settings.address, settings.port, ssl_context=self._tls.front)
        self._secured = await _opened(runner, site, settings.address, settings.port)

    async def _open_read_only(self) -> None:
        runner = _runner(self._views.read_only())
        await runner.setup()
        port = self._settings.read_only_port
        self._read_only = await _opened(
            runner, web.TCPSite(runner, "127.0.0.1", port), "127.0.0.1", port
        )


def _runner(app: web.Application) -> web.AppRunner:
    # Without cancellation a followed log would outlive its reader.
    return web.AppRunner(app, access_log=None, handler_cancellation=True, shutdown_timeout=FAREWELL)


async def _opened(runner: web.AppRunner, site: web.TCPSite, host: str, port: int) -> web.AppRunner:
    try:
        await site.start()
    except OSError as error:
        with contextlib.suppress(OSError):
            await runner.cleanup()
        raise OSError(
            error.errno, f"cannot listen on {host}:{port}: {error.strerror or error}"
        ) from error
    return runner


def _port(runner: web.AppRunner | None) -> int | None:
    return int(runner.addresses[0][1]) if runner is not None and runner.addresses else None
