"""What pods refer to at the API server: ConfigMaps, Secrets, tokens, services, claims.

Model: an object that a pod holds is first read by a plain GET, when somebody asks for it, so that
a start waits for one answer only; soon after it is followed by a watch of its own (a node may
read single objects, not all of a kind) until the last pod lets go of it. What a watch holds is
fresh; while no server answers, what was known last is.

Invariants:

* a change is told to each pod that holds the object, once the new content can be asked for;
* immutable objects are not watched;
* nothing here reads the wall clock: a token's life is counted from when it was asked for.
"""

import asyncio
import logging
import re
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec

from hostkit.errors import cut
from hostkit.kube.errors import ApiError, KubeError, KubeUnavailable, NotFound
from hostkit.kube.listwatch import Changed, Listed, follow
from hostkit.kube.transport import KubeClient
from hostkit.problems import Problems
from nodeagent.api.port import Kind, SecretData, ServiceLink
from nodeagent.api.services import ServiceList
from nodeagent.api.tokens import Tokens
from nodeagent.errors import PodError
from nodeagent.pods.model import Pod

log = logging.getLogger(__name__)

UNAVAILABLE = "ObjectUnavailable"
"""The reason in a PodError of an object that cannot be had now; callers know a better one."""
Content = Mapping[str, bytes] | SecretData | None
T = TypeVar("T")
_PLURAL: Mapping[Kind, str] = {"ConfigMap": "configmaps", "Secret": "secrets"}
# metadata.name of both kinds: a DNS subdomain (RFC 1123); pods' references are not checked so.
_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]*[a-z0-9])?")
# A node has tens of these watches, and each probe of a quiet one is a request.
_PROBE_EVERY = 30.0


@dataclass(frozen=True, slots=True)
class Key:
    """Which object."""

    kind: Kind
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.kind} {self.namespace}/{self.name}"


class _Meta(msgspec.Struct, rename="camel"):
    resource_version: str = ""


class _ConfigMap(msgspec.Struct, rename="camel"):
    metadata: _Meta
    data: dict[str, str] | None = None
    binary_data: dict[str, bytes] | None = None
    immutable: bool | None = None


class _Secret(msgspec.Struct):
    metadata: _Meta
    type: str = ""
    data: dict[str, bytes] | None = None
    immutable: bool | None = None


@dataclass(frozen=True, slots=True)
class _Found:
    """What is known of an object; *error* is why its content makes no sense."""

    content: Content = None
    version: int = 0
    immutable: bool = False
    error: str = ""


@dataclass(slots=True)
class _Held:
    """An object that pods hold. *found* is None before the first answer, *fresh* once a watch
    keeps it so. *wanted* says that somebody asked for it in vain."""

    users: set[str] = field(default_factory=set)
    found: _Found | None = None
    fresh: bool = False
    wanted: bool = False
    task: asyncio.Task[None] | None = None


class ApiObjects:
    """The objects of one API server; *on_change* hears the UID of each pod that holds one that
    changed. *settle* is for how many seconds a start is left alone before watches begin,
    *deadline* how many one server has for an answer."""

    def __init__(
        self,
        client: KubeClient,
        on_change: Callable[[str], None],
        problems: Problems,
        *,
        settle: float = 1.0,
        deadline: float = 5.0,
        services_within: float = 10.0,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._client = client
        self._on_change = on_change
        self._settle = settle
        self._deadline = deadline
        self._services_within = services_within
        self._sleep = sleep
        self._services = ServiceList(client, problems)
        self._tokens = Tokens(client, deadline=deadline, clock=clock)
        self._held: dict[Key, _Held] = {}
        self._pods: dict[str, frozenset[Key]] = {}
        self._reading: dict[Key, asyncio.Task[_Found | PodError]] = {}

    @property
    def services_listed(self) -> bool:
        """Whether ``services`` has not to be waited for; a static pod must not wait for it."""
        return self._services.listed

    async def run(self) -> None:
        """Follow services for ever."""
        await self._services.run()

    async def close(self) -> None:
        """Close all watches."""
        for uid in list(self._pods):
            self.release(uid)
        await asyncio.gather(*self._reading.values(), return_exceptions=True)

    def hold(self, pod: Pod, wanted: frozenset[tuple[Kind, str]]) -> None:
        """Keep these objects of the pod's namespace fresh; a change of one wakes the pod."""
        keys = frozenset(Key(kind, pod.metadata.namespace, name) for kind, name in wanted)
        before = self._pods.get(pod.uid, frozenset())
        self._pods[pod.uid] = keys
        for key in keys - before:
            held = self._held.setdefault(key, _Held())
            held.users.add(pod.uid)
            if held.task is None and _NAME.fullmatch(key.name):
                held.task = asyncio.create_task(self._keep(key, held))
        for key in before - keys:
            self._let_go(pod.uid, key)

    def release(self, uid: str) -> None:
        """The pod is gone."""
        for key in self._pods.pop(uid, frozenset()):
            self._let_go(uid, key)
        self._tokens.forget(uid)

    async def config_map(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """``data`` and ``binaryData`` of a ConfigMap."""
        content = await self._content(Key("ConfigMap", namespace, name))
        return None if isinstance(content, SecretData) else content

    async def secret(self, namespace: str, name: str) -> SecretData | None:
        """A Secret."""
        content = await self._content(Key("Secret", namespace, name))
        return content if isinstance(content, SecretData) else None

    async def token(self, pod: Pod, audience: str, seconds: int) -> tuple[str, float]:
        """A token of the pod's service account, and for how many seconds to keep it."""
        try:
            return await self._tokens.get(pod, audience, seconds)
        except (KubeError, ValueError) as error:
            name = pod.spec.service_account_name or "default"
            where = f"service account {pod.metadata.namespace}/{name}"
            raise PodError(UNAVAILABLE, f"no token of {where}: {error}") from error

    async def get(self, path: str) -> Mapping[str, Any] | None:
        """Any object by its path, decoded: claims and persistent volumes."""
        try:
            data = await self._client.request("GET", path, deadline=self._deadline)
            return msgspec.json.decode(data, type=dict[str, Any])
        except NotFound:
            return None
        except (KubeError, ValueError, RecursionError) as error:
            raise PodError(UNAVAILABLE, f"{path} cannot be read: {error}") from error

    async def services(self) -> Sequence[ServiceLink]:
        """All services with a cluster IP, by namespace and name; waits for the first list."""
        try:
            return await self._services.links(self._services_within)
        except TimeoutError as error:
            text = "services are not listed yet, so their variables are not known"
            raise PodError(UNAVAILABLE, text) from error

    # --- inside ---

    async def _content(self, key: Key) -> Content:
        if not _NAME.fullmatch(key.name):
            raise PodError(UNAVAILABLE, f"{key} cannot exist: that is no name of an object")
        held = self._held.get(key)
        if held is not None and held.fresh and held.found is not None:
            return _usable(key, held.found)
        answer = await self._read(key)
        held = self._held.get(key)
        if isinstance(answer, PodError):
            if held is not None and held.found is not None:
                return _usable(key, held.found)
            if held is not None:
                held.wanted = True
            raise answer
        if held is not None and not held.fresh:
            held.found, held.fresh = answer, answer.immutable
        return _usable(key, answer)

    async def _read(self, key: Key) -> _Found | PodError:
        """The answer to one GET, shared by all who ask for the object at this time."""
        task = self._reading.get(key)
        if task is None:
            task = self._reading[key] = asyncio.create_task(self._ask(key))
            task.add_done_callback(lambda _: self._reading.pop(key, None))
        # Who gives up asking must not take the answer from the others.
        return await asyncio.shield(task)

    async def _ask(self, key: Key) -> _Found | PodError:
        path = f"/api/v1/namespaces/{key.namespace}/{_PLURAL[key.kind]}/{key.name}"
        try:
            data = await self._client.request("GET", path, deadline=self._deadline)
        except NotFound:
            return _Found()
        except (ApiError, KubeUnavailable) as error:
            return PodError(UNAVAILABLE, f"{key} cannot be read: {error}")
        return _decode(key.kind, data)

    async def _keep(self, key: Key, held: _Held) -> None:
        """Follow an object until it turns out to be immutable."""
        await self._sleep(self._settle)
        if held.found is not None and held.found.immutable:
            return

        def state(connected: bool, text: str) -> None:
            log.debug("%s: %s", key, "followed" if connected else text)

        path = f"/api/v1/namespaces/{key.namespace}/{_PLURAL[key.kind]}"
        params = (("fieldSelector", f"metadata.name={key.name}"),)
        source = follow(
            self._client, path, params=params, probe_every=_PROBE_EVERY, on_state=state
        )  # fmt: skip
        async with aclosing(source) as items:
            async for item in items:
                self._take(key, held, item)
                # A list holds on to its whole answer, and the next item may be long in coming.
                del item
                if held.found is not None and held.found.immutable:
                    return

    def _take(self, key: Key, held: _Held, item: Listed | Changed) -> None:
        raw: msgspec.Raw | None
        if isinstance(item, Listed):
            raw = item.items[0] if item.items else None
        else:
            raw = None if item.kind == "DELETED" else item.object
        found = _Found() if raw is None else _decode(key.kind, raw)
        before, is_first = held.found, not held.fresh
        held.fresh = True
        if is_first and before is not None and 0 < found.version < before.version:
            # The first list may be older than what was read; the watch brings it up to date.
            return
        held.found = found
        is_other = before is not None and (before.content, before.error) != (
            found.content, found.error,
        )  # fmt: skip
        if is_other or held.wanted:
            held.wanted = False
            for uid in sorted(held.users):
                self._on_change(uid)

    def _let_go(self, uid: str, key: Key) -> None:
        held = self._held[key]
        held.users.discard(uid)
        if not held.users:
            del self._held[key]
            if held.task is not None:
                held.task.cancel()


class NoObjects:
    """For an agent without API server: nothing that its pods may refer to is to be had."""

    services_listed = True

    def hold(self, pod: Pod, wanted: frozenset[tuple[Kind, str]]) -> None:
        """Nothing: asking for one of them is what fails."""

    def release(self, uid: str) -> None:
        """Nothing is held."""

    async def config_map(self, namespace: str, name: str) -> Mapping[str, bytes] | None:
        """Raise PodError."""
        raise _nowhere(f"ConfigMap {namespace}/{name}")

    async def secret(self, namespace: str, name: str) -> SecretData | None:
        """Raise PodError."""
        raise _nowhere(f"Secret {namespace}/{name}")

    async def token(self, pod: Pod, audience: str, seconds: int) -> tuple[str, float]:
        """Raise PodError."""
        raise _nowhere("a service account's token")

    async def get(self, path: str) -> Mapping[str, Any] | None:
        """Raise PodError."""
        raise _nowhere(path)

    async def services(self) -> Sequence[ServiceLink]:
        """None are known."""
        return ()


def _nowhere(what: str) -> PodError:
    text = f"a static pod cannot have {what}: this node has no API server to ask (--api-servers)"
    return PodError(UNAVAILABLE, text, final=True)


def _usable(key: Key, found: _Found) -> Content:
    if found.error:
        raise PodError(UNAVAILABLE, f"{key} makes no sense: {found.error}")
    return found.content


def _decode(kind: Kind, data: bytes | msgspec.Raw) -> _Found:
    try:
        if kind == "Secret":
            secret = msgspec.json.decode(data, type=_Secret)
            content: Content = SecretData(secret.type, secret.data or {})
            return _Found(content, _number(secret.metadata), bool(secret.immutable))
        found = msgspec.json.decode(data, type=_ConfigMap)
    except (ValueError, RecursionError) as error:
        return _Found(error=cut(str(error), 300))
    texts = {name: text.encode() for name, text in (found.data or {}).items()}
    content = texts | (found.binary_data or {})
    return _Found(content, _number(found.metadata), bool(found.immutable))


def _number(meta: _Meta) -> int:
    version = meta.resource_version
    return int(version) if version.isascii() and version.isdigit() else 0
