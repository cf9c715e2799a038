"""From the API server to the book: Services, and their endpoints in the form that it offers.

The endpoints are EndpointSlices where the server has them, else Endpoints. Which it is, is asked
again whenever the watch is in trouble: an older or a newer server may have taken over. Objects
that are bad are left out one by one and named in ``troubles``.
"""

import asyncio
import logging
from collections.abc import Callable, Iterable
from contextlib import aclosing
from datetime import datetime
from typing import Any

import msgspec

from hostkit.kube.discovery import discover
from hostkit.kube.errors import KubeError
from hostkit.kube.listwatch import Changed, Listed, follow
from hostkit.kube.mirror import Mirror
from hostkit.kube.transport import KubeClient
from hostkit.problems import Problems
from hostkit.reconcile import Backoff
from netd.services.book import Book
from netd.services.endpoints import decode_endpoints, decode_slice
from netd.services.figures import ProxyFigures
from netd.services.model import decode_service
from netd.services.values import EndpointSlice, Service, Trouble

log = logging.getLogger(__name__)

SERVICES = "/api/v1/services"

SOURCES = {
    "EndpointSlice v1": ("discovery.k8s.io/v1", "/apis/discovery.k8s.io/v1/endpointslices"),
    "EndpointSlice v1beta1": (
        "discovery.k8s.io/v1beta1", "/apis/discovery.k8s.io/v1beta1/endpointslices",
    ),
    "Endpoints v1": ("v1", "/api/v1/endpoints"),
}  # fmt: skip
"""Where endpoints may be had: the API that has to be served, and the path; the best first."""

LOOK_AGAIN = 60.0
"""Seconds after which a source that is not the best is looked past: a server that starts may not
serve all of its APIs yet."""


class _Annotations(msgspec.Struct):
    changed: Any = msgspec.field(
        default=None, name="endpoints.kubernetes.io/last-change-trigger-time"
    )


class _Meta(msgspec.Struct):
    annotations: _Annotations | None = None


class _Object(msgspec.Struct):
    metadata: _Meta | None = None


_object = msgspec.json.Decoder(_Object)


class ServiceFeed:
    """Keeps *book* as the API says. *changed* hears of changes, *listed* ``services`` and
    ``endpoints`` after each complete list."""

    def __init__(
        self,
        client: KubeClient,
        book: Book,
        problems: Problems,
        figures: ProxyFigures,
        *,
        changed: Callable[[], None],
        listed: Callable[[str], None],
        look_again: float = LOOK_AGAIN,
    ) -> None:
        self._client = client
        self._book = book
        self._problems = problems
        self._figures = figures
        self._changed = changed
        self._listed = listed
        self._look_again = look_again
        self._down: dict[str, str] = {"services": "", "endpoints": ""}
        self._recheck = asyncio.Event()
        self._troubles: dict[str, dict[str, tuple[Trouble, ...]]] = {
            "services": {}, "endpoints": {},
        }  # fmt: skip
        self._unreadable: dict[str, dict[str, Trouble]] = {"services": {}, "endpoints": {}}
        self._cause: float | None = None
        """When that happened which led to the object in hand, Unix seconds."""
        self.source: str | None = None
        """Where endpoints come from, one of ``SOURCES``."""

    @property
    def connected(self) -> bool:
        """Whether changes of services and endpoints arrive."""
        return self._down.keys().isdisjoint(("services", "endpoints"))

    def troubles(self) -> list[Trouble]:
        """What was left out of which object."""
        return [
            *(one for kind in self._troubles.values() for found in kind.values() for one in found),
            *(one for kind in self._unreadable.values() for one in kind.values()),
        ]

    async def run(self) -> None:
        """Follow for ever."""
        async with asyncio.TaskGroup() as group:
            group.create_task(self._follow_services())
            group.create_task(self._follow_endpoints())

    # --- services ---

    async def _follow_services(self) -> None:
        mirror = Mirror(
            self._decode_service,
            on_change=self._service_changed,
            on_listed=lambda: self._listed("services"),
            on_bad=lambda name, text: self._bad("services", name, text),
        )
        await self._follow("services", SERVICES, mirror)

    def _decode_service(self, raw: msgspec.Raw) -> tuple[str, Service] | None:
        key, service, troubles = decode_service(raw)
        self._note("services", key, troubles)
        return None if service is None else (key, service)

    def _service_changed(self, key: str, _old: Service | None, new: Service | None) -> None:
        self._book.put_service(key, new)
        self._figures.arrived("service")
        self._changed()

    # --- endpoints ---

    async def _follow_endpoints(self) -> None:
        mirror = Mirror(
            self._decode_endpoints,
            on_change=self._endpoints_changed,
            on_listed=lambda: self._listed("endpoints"),
            on_bad=lambda name, text: self._bad("endpoints", name, text),
        )
        while True:
            self.source = await self._choose_source()
            log.info("endpoints are read from %s", self.source)
            following = asyncio.create_task(
                self._follow("endpoints", SOURCES[self.source][1], mirror)
            )
            try:
                await self._source_changed(following)
            finally:
                following.cancel()
                await asyncio.gather(following, return_exceptions=True)

    async def _source_changed(self, following: asyncio.Task[None]) -> None:
        """Wait until another source is the best one; raises what *following* failed with."""
        while True:
            checking = asyncio.create_task(self._recheck.wait())
            try:
                await asyncio.wait(
                    {checking, following},
                    timeout=self._look_again,
                    return_when=asyncio.FIRST_COMPLETED,
                )
            finally:
                checking.cancel()
            if following.done():
                following.result()
            is_best = self.source == next(iter(SOURCES))
            if is_best and not self._recheck.is_set():
                continue
            self._recheck.clear()
            if await self._choose_source() != self.source:
                return

    async def _choose_source(self) -> str:
        backoff, failures = Backoff(first=0.2, most=5.0), 0
        while True:
            try:
                served = await discover(self._client)
                break
            except KubeError as error:
                failures += 1
                self._state("discovery", False, str(error))
                await asyncio.sleep(backoff.delay(failures))
        self._state("discovery", True, "")
        return next((name for name, (api, _) in SOURCES.items() if api in served), "Endpoints v1")

    def _decode_endpoints(self, raw: msgspec.Raw) -> tuple[str, tuple[EndpointSlice, ...]] | None:
        if self.source == "Endpoints v1":
            key, slices, troubles = decode_endpoints(raw)
        else:
            key, one, troubles = decode_slice(raw)
            slices = () if one is None else (one,)
        self._note("endpoints", key, troubles)
        return (key, slices) if slices else None

    def _endpoints_changed(
        self,
        key: str,
        _old: tuple[EndpointSlice, ...] | None,
        new: tuple[EndpointSlice, ...] | None,
    ) -> None:
        self._book.put_slices(key, new or ())
        self._figures.arrived("endpoint", self._cause)
        self._changed()

    # --- both ---

    async def _follow(self, kind: str, path: str, mirror: Mirror[Any]) -> None:
        def state(connected: bool, text: str) -> None:
            self._state(kind, connected, text)

        async with aclosing(follow(self._client, path, on_state=state)) as items:
            async for item in items:
                self._take(kind, item, mirror)
                # A list holds on to its whole answer, and the next item may be long in coming.
                del item

    def _take(self, kind: str, item: Listed | Changed, mirror: Mirror[Any]) -> None:
        """Let *mirror* take *item*; an object that goes takes its troubles along."""
        self._cause = None
        if isinstance(item, Listed):
            before, self._troubles[kind] = self._troubles[kind], {}
            mirror.take(item)
            if before.keys() - self._troubles[kind].keys():
                self._changed()
            return
        if item.kind == "DELETED":
            self._forget(kind, item.object)
        elif kind == "endpoints":
            self._cause = trigger_time(item.object)
        mirror.take(item)

    def _forget(self, kind: str, raw: msgspec.Raw) -> None:
        decode = decode_service if kind == "services" else decode_slice
        try:
            key = decode(raw)[0]
        except (ValueError, RecursionError):
            return
        if self._troubles[kind].pop(key, None):
            self._changed()

    def _note(self, kind: str, key: str, troubles: Iterable[Trouble]) -> None:
        found = tuple(troubles)
        if self._troubles[kind].get(key, ()) == found:
            return
        if found:
            self._troubles[kind][key] = found
        else:
            del self._troubles[kind][key]
        # Only what is wrong with it may have changed, which no rule tells.
        self._changed()

    def _bad(self, kind: str, name: str, text: str) -> None:
        # The mirror tells each once, and again when it is over, also over new lists.
        if text:
            key = f"{kind[:-1]} {name or '(no name)'}"
            self._unreadable[kind][name] = Trouble(key, text)
        else:
            self._unreadable[kind].pop(name, None)
        self._changed()

    def _state(self, kind: str, connected: bool, text: str) -> None:
        if connected:
            self._down.pop(kind, None)
        else:
            self._down[kind] = text
            if kind == "endpoints":
                self._recheck.set()
        down = "; ".join(dict.fromkeys(filter(None, self._down.values())))
        # What was programmed goes on working without the API.
        self._problems.update("api", down)


def trigger_time(raw: msgspec.Raw) -> float | None:
    """When the change that led to this object happened, Unix seconds (KEP-752's annotation)."""
    try:
        meta = _object.decode(raw).metadata
        text = meta.annotations.changed if meta and meta.annotations else None
        return None if text is None else datetime.fromisoformat(str(text)).timestamp()
    except (ValueError, RecursionError):
        return None
