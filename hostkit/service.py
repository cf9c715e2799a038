"""The shell of a daemon: signals, readiness, watchdog and the HTTP views.

Workers run until a signal or until one of them fails, which ends the service with status 1 so
that its supervisor restarts it. HTTP answers on a Unix socket always and on TCP when asked:

    /healthz   200 while every live check passes, else 503 naming the check that hangs
    /readyz    200 when every ready check passes and no blocking problem stands, else 503
    /metrics   Prometheus text
    /status    JSON for the status command

and whatever else the daemon adds as JSON views.

Alive and ready differ: a daemon that waits for etcd is alive, not ready.

At SIGHUP a ``Reload`` decides whether the service goes on or ends for its process to begin anew.
"""

import asyncio
import contextlib
import json
import logging
import os
import signal
import time
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from hostkit.errors import HostkitError
from hostkit.metrics import Metrics
from hostkit.notify import Notifier
from hostkit.problems import Problems

log = logging.getLogger(__name__)

Check = Callable[[], str | None]
"""Returns None when all is well, else what is not."""

AGAIN = -1
"""What ``Service.run`` returns in place of an exit status when the process has to begin anew."""

View = Callable[[Mapping[str, str]], Mapping[str, Any]]
"""From the query of a request to a document; raises ValueError for a query without sense."""


class Heartbeat:
    """A live check for a loop that beats: it fails when the last beat is *limit* seconds old."""

    def __init__(
        self, what: str, limit: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._what = what
        self._limit = limit
        self._clock = clock
        self._last = clock()

    def beat(self) -> None:
        """The loop went round."""
        self._last = self._clock()

    def __call__(self) -> str | None:
        age = self._clock() - self._last
        return f"{self._what} has not moved for {age:.0f} s" if age > self._limit else None


class Service:
    """Runs workers behind signals, health views and sd_notify."""

    def __init__(
        self,
        name: str,
        *,
        problems: Problems,
        metrics: Metrics,
        status: Callable[[], Mapping[str, Any]],
        socket_path: Path | None = None,
        listen: Sequence[tuple[str, int]] = (),
        notifier: Notifier | None = None,
    ) -> None:
        self.name = name
        self.problems = problems
        self._metrics = metrics
        self._status = status
        self._socket_path = socket_path
        self._listen = tuple(listen)
        self._notifier = notifier or Notifier()
        self._live: dict[str, Check] = {}
        self._ready: dict[str, Check] = {}
        self._holding_start: set[str] = set()
        self._views: dict[str, View] = {}
        self._was_ready = False
        self._stop = asyncio.Event()
        self._reload: Callable[[], bool] | None = None
        self._again = False

    def add_live_check(self, name: str, check: Check) -> None:
        """Make /healthz and the watchdog depend on *check*."""
        self._live[name] = check

    def add_ready_check(self, name: str, check: Check, *, holds_start: bool = True) -> None:
        """Make /readyz depend on *check*, and READY=1 too if it *holds_start*."""
        self._ready[name] = check
        if holds_start:
            self._holding_start.add(name)

    def add_view(self, path: str, view: View) -> None:
        """Answer GET *path* with what *view* makes of the query, as JSON."""
        self._views[path] = view

    def on_hang_up(self, reload: Callable[[], bool]) -> None:
        """At SIGHUP ask *reload* whether the service has to begin anew."""
        self._reload = reload

    def not_alive(self) -> list[str]:
        """What hangs."""
        return [f"{name}: {text}" for name, check in self._live.items() if (text := check())]

    def not_ready(self) -> list[str]:
        """What is missing before the service does its work."""
        return self._lacking(self._ready)

    def _lacking(self, names: Iterable[str]) -> list[str]:
        missing = [f"{name}: {text}" for name in names if (text := self._ready[name]())]
        return missing + [f"{p.key}: {p.text}" for p in self.problems.blocking()]

    def stop(self) -> None:
        """End the service as a signal would."""
        # Also one that ends to begin anew: SIGTERM must not be lost meanwhile.
        self._again = False
        self._stop.set()

    async def run(self, workers: Mapping[str, Awaitable[None]]) -> int:
        """Run *workers* until a signal (returns 0) or a worker's failure (returns 1).

        Returns AGAIN, with SIGHUP blocked, when SIGHUP brought settings to begin anew with.
        """
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self.stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)
        # Blocked, and perhaps pending, when the process was replaced by itself.
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGHUP})
        runner = await self._serve()
        tasks = {asyncio.ensure_future(worker): name for name, worker in workers.items()}
        tasks[asyncio.create_task(self._watch())] = "service watch"
        stopper = asyncio.create_task(self._stopped())
        try:
            done, _ = await asyncio.wait({*tasks, stopper}, return_when=asyncio.FIRST_COMPLETED)
            status = self._verdict([(tasks[task], task) for task in done if task is not stopper])
        finally:
            self._say_end()
            for task in (*tasks, stopper):
                task.cancel()
            await asyncio.gather(*tasks, stopper, return_exceptions=True)
            await runner.cleanup()
            if self._socket_path is not None:
                with contextlib.suppress(OSError):
                    self._socket_path.unlink()
            for number in (signal.SIGTERM, signal.SIGINT):
                loop.remove_signal_handler(number)
            # Blocked is only this thread: the loop's others, which end with it, would still die.
            if not self._again:
                loop.remove_signal_handler(signal.SIGHUP)
        return AGAIN if self._again and not status else status

    def _say_end(self) -> None:
        if not self._again:
            self._notifier.stopping()
            return
        signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGHUP})
        # The next feed comes from the process that begins anew.
        if self._notifier.watchdog_interval:
            self._notifier.alive()

    def _hang_up(self) -> None:
        if self._reload is None:
            # Its default action would end the process.
            log.info("settings are read at the start: restart %s to apply changed ones", self.name)
            return
        if self._stop.is_set():
            return
        self._notifier.reloading()
        if self._reload():
            self._again = True
            self._stop.set()
        elif self._was_ready:
            self._was_ready = self._notifier.ready()

    async def _stopped(self) -> None:
        await self._stop.wait()

    def _verdict(self, ended: list[tuple[str, "asyncio.Future[None]"]]) -> int:
        for name, task in ended:
            error = None if task.cancelled() else task.exception()
            while isinstance(error, BaseExceptionGroup):
                error = error.exceptions[0]
            if isinstance(error, HostkitError):
                log.error("%s: %s", name, error)
            elif error is not None:
                where = error.__traceback__
                while where is not None and where.tb_next is not None:
                    where = where.tb_next
                place = f"{where.tb_frame.f_code.co_qualname}:{where.tb_lineno}" if where else "?"
                log.error(
                    "%s stopped by a fault in the program: %s: %s (at %s); -v=2 shows the trace",
                    name, type(error).__name__, error, place, exc_info=error,
                )  # fmt: skip
            else:
                log.error("%s ended without being asked to", name)
        if not ended:
            ends = "begins anew with other settings" if self._again else "stops"
            log.info("%s %s: what it programmed stays in place", self.name, ends)
        return 1 if ended else 0

    async def _watch(self) -> None:
        """Send READY once ready, STATUS always, and feed the watchdog while everything lives."""
        interval = self._notifier.watchdog_interval
        fed = 0.0
        said_hang = ""
        while True:
            hanging = self.not_alive()
            missing = self.not_ready()
            holding = self._lacking(self._holding_start)
            if hanging and str(hanging) != said_hang:
                log.error("not alive: %s", "; ".join(hanging))
            said_hang = str(hanging) if hanging else ""
            if interval and not hanging and time.monotonic() - fed >= interval / 2:
                fed = time.monotonic()
                self._notifier.alive()
            if not holding and not self._was_ready and self._notifier.ready():
                self._was_ready = True
                log.info(
                    "%s is ready%s", self.name, f", but {'; '.join(missing)}" if missing else ""
                )
            self._notifier.status("; ".join(hanging or missing) or "ready")
            # Until READY=1 other units wait for us: look often then.
            await asyncio.sleep(min(interval / 2 or 1.0, 1.0) if self._was_ready else 0.02)

    async def _serve(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_get("/healthz", self._healthz)
        app.router.add_get("/readyz", self._readyz)
        app.router.add_get("/metrics", self._metrics_view)
        app.router.add_get("/status", self._status_view)
        for path, view in self._views.items():
            app.router.add_get(path, _json_view(view))
        runner = web.AppRunner(app, access_log=None)
        await runner.setup()
        if self._socket_path is not None:
            self._socket_path.parent.mkdir(parents=True, exist_ok=True)
            await web.UnixSite(runner, str(self._socket_path)).start()
            os.chmod(self._socket_path, 0o660)  # noqa: PTH101 - not worth a thread
        refused = []
        for host, port in self._listen:
            try:
                await web.TCPSite(runner, host, port).start()
            except OSError as error:
                refused.append(f"cannot listen on {host}:{port}: {error.strerror or error}")
        self.problems.update("healthz", "; ".join(refused))
        return runner

    async def _healthz(self, _request: web.Request) -> web.Response:
        return _verdict_response(self.not_alive())

    async def _readyz(self, _request: web.Request) -> web.Response:
        return _verdict_response(self.not_ready())

    async def _metrics_view(self, _request: web.Request) -> web.Response:
        return web.Response(
            body=self._metrics.render(),
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    async def _status_view(self, _request: web.Request) -> web.Response:
        status = dict(self._status())
        status["ready"] = not self.not_ready()
        status["not_ready"] = self.not_ready()
        status["problems"] = [
            {"key": p.key, "text": p.text, "blocking": p.blocking, "since": p.since}
            for p in self.problems.all()
        ]
        return web.Response(text=json.dumps(status), content_type="application/json")


def _json_view(view: View) -> Callable[[web.Request], Awaitable[web.Response]]:
    async def answer(request: web.Request) -> web.Response:
        try:
            document = view(request.query)
        except ValueError as error:
            return web.Response(text=f"{error}\n", status=400)
        return web.Response(text=json.dumps(document), content_type="application/json")

    return answer


def _verdict_response(bad: list[str]) -> web.Response:
    return web.Response(text="\n".join(bad or ["ok"]) + "\n", status=503 if bad else 200)
