"""The objects of the cluster: what server and controllers read, write and follow.

A write is one etcd transaction that holds only while the object is unchanged; when another
write came first it is worked out again from the newer object, unless the caller named the
version that it was based on. Services are written one at a time: their addresses and node
ports are chosen from what is free at that moment.
"""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import nullcontext
from ipaddress import IPv4Network

import msgspec

from hostkit.etcd.errors import EtcdError
from hostkit.etcd.gateway import EtcdClient, Op, delete, mod_revision_is, put
from lab.api import defaults, services, validation
from lab.api.kinds import ENDPOINT_SLICE, ENDPOINTS, NAMESPACE, POD, REPLICA_SET, SERVICE, Kind
from lab.api.meta import (
    Scope,
    carry_over,
    check_based_on,
    grace_of,
    mark_leaving,
    name_of,
    new_meta,
    scheduled,
    wish,
)
from lab.api.mirror import Item, Mirror, Name, Shelf, etcd_key
from lab.api.objects import (
    FieldErrors,
    Json,
    StatusError,
    already_exists,
    conflict,
    forbidden,
    items,
    not_found,
    path,
    timestamp,
)
from lab.api.schema import conform

__all__ = ["Json", "Registry", "StatusError"]

SERVICES = IPv4Network("10.0.0.0/24")
ALWAYS_THERE = ("default", "kube-node-lease", "kube-system")
CAUGHT_UP = 10.0
"""Seconds within which a write has to come back from etcd."""
ATTEMPTS = 10


class _OutdatedError(Exception):
    """The object changed before it was written."""


class Registry:
    """Objects by kind, namespace ("" for kinds without one) and name, kept in etcd.

    Every object that is returned is the caller's own copy. Raises StatusError (objects.py);
    503 when etcd does not answer. *history* is how many changes per kind are kept for watches.
    """

    def __init__(
        self,
        client: EtcdClient,
        *,
        service_range: IPv4Network = SERVICES,
        history: int = 10_000,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._client = client
        self._pool = services.ServicePool(service_range)
        self._clock = clock
        self._services = asyncio.Lock()
        self._follower: asyncio.Task[None] | None = None
        self.mirror = Mirror(client, history=history)

    async def start(self) -> None:
        """Read etcd and make the namespaces that always exist; then everything below works."""
        self._follower = asyncio.create_task(self.mirror.run())
        await self.mirror.reached(1)
        for name in ALWAYS_THERE:
            await self._ensure(NAMESPACE, "", {"metadata": {"name": name}})

    async def close(self) -> None:
        """Stop following etcd."""
        if self._follower is not None:
            self._follower.cancel()
            await asyncio.gather(self._follower, return_exceptions=True)

    async def advertise(self, address: str, port: int) -> None:
        """Make the service ``kubernetes`` lead to *address*:*port*, or nowhere if it is empty."""
        meta = {"name": "kubernetes", "namespace": "default"}
        labels = {"component": "apiserver", "provider": "kubernetes"}
        entry = {"name": "http", "port": port, "protocol": "TCP"}
        service: Json = {
            "metadata": {**meta, "labels": labels},
            "spec": {
                "clusterIP": str(self._pool.first),
                "ports": [{**entry, "port": 443, "targetPort": port}],
            },
        }
        unmirrored = {"endpointslice.kubernetes.io/skip-mirror": "true"}
        endpoints: Json = {
            "metadata": {**meta, "labels": unmirrored},
            "subsets": [{"addresses": [{"ip": address}], "ports": [entry]}],
        }
        slices: Json = {
            "metadata": {**meta, "labels": {"kubernetes.io/service-name": "kubernetes"}},
            "addressType": "IPv4",
            "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
            "ports": [entry],
        }
        await self._ensure(SERVICE, "default", service)
        if not address:
            return
        await self._ensure(ENDPOINTS, "default", endpoints)
        await self._ensure(ENDPOINT_SLICE, "default", slices)

    async def _ensure(self, kind: Kind, namespace: str, obj: Json) -> None:
        try:
            await self.create(kind, namespace, obj)
        except StatusError as error:
            if error.reason != "AlreadyExists":
                raise
            await self.change(kind, namespace, obj["metadata"]["name"], lambda old: {**old, **{
                name: value for name, value in obj.items() if name != "metadata"
            }})  # fmt: skip

    # Reading

    def shelf(self, kind: Kind) -> Shelf:
        """The objects of *kind* with their history."""
        return self.mirror.shelves[kind]

    def item(self, kind: Kind, namespace: str, name: str) -> Item:
        """One object as it is served; 404."""
        found = self.shelf(kind).items.get((namespace, name))
        if found is None:
            raise not_found(kind, name)
        return found

    async def get(self, kind: Kind, namespace: str, name: str) -> Json:
        """One object; 404."""
        return self.item(kind, namespace, name).obj()

    async def list(
        self, kind: Kind, namespace: str = "", labels: Mapping[str, str] | None = None
    ) -> list[Json]:
        """The objects of *namespace* ("": of all) that carry all *labels*, sorted by name."""
        shelf, wanted = self.shelf(kind), (labels or {}).items()
        return [
            shelf.items[name].obj()
            for name in shelf.names()
            if namespace in {"", name[0]} and wanted <= shelf.items[name].labels.items()
        ]

    async def watch(self, kind: Kind) -> AsyncIterator[tuple[str, Json]]:
        """For ever: ("ADDED"|"MODIFIED"|"DELETED", object), beginning with all that are there.

        Who reads too slowly misses intermediate states, never the last one.
        """
        shelf = self.shelf(kind)
        known: dict[Name, Item] = {}
        position, epoch = 0, -1
        while True:
            changed = shelf.changed
            whole = epoch != shelf.epoch or position < shelf.start
            news = shelf.difference(known) if whole else shelf.since(position)
            position, epoch = shelf.end(), shelf.epoch
            for change in news:
                if change.after is None:
                    known.pop(change.name, None)
                else:
                    known[change.name] = change.after
                yield change.type, msgspec.json.decode(change.last())
            await changed.wait()

    # Writing

    async def create(self, kind: Kind, namespace: str, obj: Json) -> Json:
        """Default, check and store; 409 AlreadyExists, 422 Invalid."""
        new, _ = conform(kind, obj)
        meta = new_meta(kind, namespace, new, self._clock())
        new = {"apiVersion": kind.api_version, "kind": kind.name, **new, "metadata": meta}
        self._admit(kind, new, namespace)
        defaults.fill(kind, new)
        if kind.status:
            new["status"] = defaults.first_status(kind, new)
        return await self._write(kind, new, None)

    async def update(self, kind: Kind, obj: Json) -> Json:
        """Replace all but the status; 409 Conflict if ``resourceVersion`` is given and old."""
        namespace, name = name_of(kind, obj)
        return await self.change(kind, namespace, name, lambda _: obj)

    async def update_status(self, kind: Kind, obj: Json) -> Json:
        """Replace the status alone; 409 Conflict as in update."""
        namespace, name = name_of(kind, obj)
        return await self.change(kind, namespace, name, lambda _: obj, scope="status")

    async def change(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        make: Callable[[Json], Json],
        *,
        scope: Scope = "spec",
    ) -> Json:
        """Replace what *scope* names of an object by what *make* makes of a copy of it.

        "wish" is all but the status; "spec" leaves a pod's node alone too.
        *make* is called again when another write came first.
        """
        for _ in range(ATTEMPTS):
            item = self.item(kind, namespace, name)
            old = item.obj()
            new, _dropped = conform(kind, make(item.obj()))
            check_based_on(kind, name, old, new)
            new = carry_over(kind, old, new, scope)
            if kind is POD and not path(old, "spec.nodeName") and path(new, "spec.nodeName"):
                scheduled(new, timestamp(self._clock()))
            try:
                return await self._write(kind, new, item)
            except _OutdatedError:
                continue
        raise conflict(kind, name)

    async def bind(self, namespace: str, name: str, node: str) -> None:
        """Put a pod on *node*; 409 when it is on one or being deleted."""

        def place(pod: Json) -> Json:
            if path(pod, "spec.nodeName"):
                raise conflict(POD, name, f"pod {name} is already assigned to node "
                               f'"{pod["spec"]["nodeName"]}"')  # fmt: skip
            if path(pod, "metadata.deletionTimestamp"):
                raise conflict(
                    POD, name, f"pod {name} is being deleted, cannot be assigned to a host"
                )
            pod["spec"]["nodeName"] = node
            return pod

        await self.change(POD, namespace, name, place, scope="wish")

    async def delete(
        self,
        kind: Kind,
        namespace: str,
        name: str,
        *,
        grace: int | None = None,
        uid: str = "",
        orphan: bool = False,
    ) -> Json:
        """Delete; 404; 409 if *uid* is given and another one's. Returns the object as it was left.

        A pod on a node is only marked (deletionTimestamp) until called with *grace* 0; so is a
        namespace, which the namespace controller empties and then deletes with *grace* 0.
        With *orphan* it is marked, then pods and replica sets lose their references to it, then it
        goes.
        """
        if kind is NAMESPACE and name in ALWAYS_THERE:
            raise forbidden(kind, name, "this namespace may not be deleted")
        for _ in range(ATTEMPTS):
            item = self.item(kind, namespace, name)
            obj = item.obj()
            found = path(obj, "metadata.uid")
            if uid and uid != found:
                raise conflict(kind, name, f"Precondition failed: UID in precondition: {uid}, "
                               f"UID in object meta: {found}")  # fmt: skip
            seconds = grace_of(kind, obj, grace)
            try:
                if orphan:
                    # A controller would adopt again, or replace, what its owner in force has lost.
                    if mark_leaving(kind, obj, 0, self._clock()):
                        await self._store(kind, obj, item.revision)
                    await self._disown(found)
                    orphan = False
                    continue
                if not seconds:
                    await self._commit(kind, (namespace, name), item.revision, delete)
                    if kind is POD:
                        mark_leaving(kind, obj, 0, self._clock())
                    return obj
                if not mark_leaving(kind, obj, seconds, self._clock()):
                    return obj
                return await self._store(kind, obj, item.revision)
            except _OutdatedError:
                continue
        raise conflict(kind, name)

    async def _disown(self, uid: str | None) -> None:
        """Take the references to the owner *uid* off pods and replica sets."""

        def without(obj: Json) -> Json:
            owners = items(obj, "metadata.ownerReferences")
            obj["metadata"]["ownerReferences"] = [o for o in owners if o.get("uid") != uid]
            return obj

        for kind in (POD, REPLICA_SET):
            for place, item in list(self.shelf(kind).items.items()):
                owners = items(item.obj(), "metadata.ownerReferences")
                if not any(owner.get("uid") == uid for owner in owners):
                    continue
                try:
                    await self.change(kind, *place, without)
                except StatusError as error:
                    # It was deleted meanwhile.
                    if error.code != 404:
                        raise

    def _admit(self, kind: Kind, new: Json, namespace: str) -> None:
        if not kind.namespaced:
            return
        home = self.shelf(NAMESPACE).items.get(("", namespace))
        if home is None:
            raise not_found(NAMESPACE, namespace)
        if path(home.obj(), "status.phase") == "Terminating":
            why = (
                f"unable to create new content in namespace {namespace} because it is being "
                "terminated"
            )
            raise forbidden(kind, new["metadata"].get("name", ""), why)

    async def _write(self, kind: Kind, new: Json, item: Item | None) -> Json:
        """Check *new*, which is to follow *item*, and store it unless it is equal."""
        name = new["metadata"].get("name", "")
        place = (new["metadata"].get("namespace", ""), name)
        if item is None and place in self.shelf(kind).items:
            raise already_exists(kind, name)
        old = item.obj() if item else None
        async with self._services if kind is SERVICE else nullcontext():
            if old is not None:
                if kind is SERVICE:
                    services.keep_assigned(old, new)
                defaults.fill(kind, new)
            validation.check(kind, new, old)
            if kind is SERVICE:
                errors = FieldErrors()
                self._pool.assign(errors, new, old, self.shelf(SERVICE).taken)
                errors.raise_for(kind, name)
            if item is not None and new == old:
                return new
            if kind.generation and old is not None and wish(new) != wish(old):
                new["metadata"]["generation"] = (path(old, "metadata.generation") or 0) + 1
            try:
                return await self._store(kind, new, item.revision if item else 0)
            except _OutdatedError:
                if item is None:
                    raise already_exists(kind, name) from None
                raise

    async def _store(self, kind: Kind, obj: Json, revision: int) -> Json:
        meta = obj["metadata"]
        meta.pop("resourceVersion", None)
        value = msgspec.json.encode(obj)
        place = (meta.get("namespace", ""), meta["name"])
        written = await self._commit(kind, place, revision, lambda key: put(key, value))
        meta["resourceVersion"] = str(written)
        return obj

    async def _commit(
        self, kind: Kind, name: Name, revision: int, write: Callable[[str], Op]
    ) -> int:
        """Do *write* if the object is still at *revision*; returns when the mirror shows it."""
        key = etcd_key(kind, name)
        try:
            async with asyncio.timeout(CAUGHT_UP):
                result = await self._client.txn([mod_revision_is(key, revision)], [write(key)])
                if result.succeeded:
                    await self.mirror.reached(result.revision)
                elif revision:
                    await self.mirror.differs(kind, name, revision)
        except EtcdError as error:
            raise StatusError(503, "ServiceUnavailable", str(error)) from error
        except TimeoutError as error:
            text = "etcd did not report the write in time; it may have been applied"
            raise StatusError(504, "Timeout", text) from error
        if not result.succeeded:
            raise _OutdatedError
        return result.revision
