"""What is wrong with which object comes, changes and goes with it, and stops no other."""

from collections.abc import AsyncIterator, Callable
from typing import Any

import pytest

from tests.fakes.kubeobjects import (
    BETA_SLICES,
    ENDPOINTS,
    SERVICES,
    SLICES,
    AgedKube,
    ObjectStore,
)
from tests.netd.services.feedworld import Follower, following, named, slice_of, subset
from tests.netd.services.objects import (
    endpoint_slice,
    endpoints_object,
    service,
)
from tests.support.poll import eventually


@pytest.fixture
def store() -> ObjectStore:
    """default/web with one endpoint, both as a slice and as Endpoints."""
    made = ObjectStore()
    made.set(SERVICES, service())
    for path in (SLICES, BETA_SLICES):
        made.set(path, slice_of("web", "10.1.1.2"))
    made.set(ENDPOINTS, endpoints_object(subset("10.1.1.9")))
    return made


@pytest.fixture
async def server(store: ObjectStore) -> AsyncIterator[AgedKube]:
    async with AgedKube(store) as made:
        yield made


BAD_PORT = {"name": "http", "port": 70000}


async def test_what_is_wrong_with_a_service_comes_changes_and_goes_with_it(
    server: AgedKube, store: ObjectStore
) -> None:
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        assert follower.troubles() == {}
        store.set(SERVICES, service(ports=[BAD_PORT]))
        await eventually(lambda: "70000" in follower.troubles().get("service default/web", ""))
        assert follower.answering() is None, "no port is left"
        store.set(SERVICES, service(ports=[{"name": "http", "port": 80, "nodePort": -1}]))
        await eventually(lambda: "nodePort is -1" in str(follower.troubles()))
        assert follower.answering() == ("10.1.1.2:8080",), "only the node port is left out"
        store.set(SERVICES, service())
        await eventually(lambda: follower.troubles() == {})


async def heard(follower: Follower, act: Callable[[], None], troubles: set[str]) -> None:
    """After *act* exactly *troubles* are named, and whoever writes the log was called."""
    changes = follower.changes
    act()
    await eventually(lambda: set(follower.troubles()) == troubles)
    assert follower.changes > changes


@pytest.mark.parametrize("bad", ["service", "endpoints"])
async def test_a_skipped_object_that_is_deleted_is_no_trouble_any_more(
    server: AgedKube, store: ObjectStore, bad: str
) -> None:
    path, document, key = {
        "service": (SERVICES, named(service(ports=[BAD_PORT]), "bad"), "service default/bad"),
        "endpoints": (
            SLICES,
            named(endpoint_slice(addressType="IPX"), "bad"),
            "endpointslice default/bad",
        ),
    }[bad]
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        await heard(follower, lambda: store.set(path, document), {key})
        await heard(follower, lambda: store.remove(path, "default/bad"), set())


async def test_bad_endpoints_of_an_old_server_are_named_and_forgotten_too(
    server: AgedKube, store: ObjectStore
) -> None:
    server.serve("")
    bad = named(endpoints_object({"addresses": [{"ip": "127.0.0.1"}]}), "bad")
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        await heard(follower, lambda: store.set(ENDPOINTS, bad), {"endpoints default/bad"})
        await heard(follower, lambda: store.remove(ENDPOINTS, "default/bad"), set())


async def test_what_went_while_the_server_was_away_is_forgotten_with_the_new_list(
    server: AgedKube, store: ObjectStore
) -> None:
    store.set(SERVICES, named(service(ports=[BAD_PORT]), "bad"))
    store.set(SERVICES, named(service(ports=[BAD_PORT]), "still-bad"))
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        assert set(follower.troubles()) == {"service default/bad", "service default/still-bad"}
        for name, left in (("bad", {"service default/still-bad"}), ("still-bad", set())):
            await server.down()
            changes, lists = follower.changes, len(follower.lists)
            store.remove(SERVICES, f"default/{name}")
            store.compact()
            await server.up()
            await eventually(lambda before=lists: len(follower.lists) >= before + 2)  # type: ignore[misc]
            assert set(follower.troubles()) == left
            assert follower.changes > changes, "whoever writes the log was called"


GARBAGE: list[Any] = [
    {"metadata": {"name": "stray"}, "spec": {}},
    {"metadata": {"name": 7, "namespace": []}},
    {"metadata": {"name": "x" * 5000, "namespace": "default"}, "spec": "no"},
    {"metadata": {"name": "a\nb;-j ACCEPT", "namespace": "\x1b[0m"}, "spec": {"ports": 7}},
    {"metadata": {"name": "odd", "namespace": "default"}, "spec": [], "status": 1, "subsets": 7},
    {"metadata": {"name": "deep", "namespace": "default"}, "spec": {"ports": [[[[[]]]]]}},
]


@pytest.mark.parametrize("age", ["v1", ""])
async def test_garbage_in_a_list_never_stops_the_others(
    server: AgedKube, store: ObjectStore, age: str
) -> None:
    server.serve(age)
    for path in (SERVICES, SLICES, ENDPOINTS):
        for index, document in enumerate([*GARBAGE, {}, {"metadata": None}]):
            store.set(path, document, f"garbage{index}")
    store.set(SERVICES, named(service(clusterIP="10.0.0.8", clusterIPs=["10.0.0.8"]), "zz"))
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        assert follower.answering() is not None
        assert follower.answering("10.0.0.8") == ()
        assert all(text.isprintable() for text in (*follower.troubles().values(),))


async def test_garbage_in_a_watch_never_stops_the_others(
    server: AgedKube, store: ObjectStore
) -> None:
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        for index, document in enumerate(GARBAGE):
            for path in (SERVICES, SLICES):
                store.set(path, document, f"garbage{index}")
        await server.inject(b'{"type":"ADDED","object":{"metadata":{"resourceVersion":"')
        store.set(SERVICES, named(service(clusterIP="10.0.0.8", clusterIPs=["10.0.0.8"]), "zz"))
        store.set(SLICES, slice_of("web", "10.1.1.7"))
        await eventually(lambda: follower.answering("10.0.0.8") == ())
        await eventually(lambda: follower.answering() == ("10.1.1.7:8080",))


async def test_an_object_without_a_key_is_named_through_new_lists_until_it_is_gone(
    server: AgedKube, store: ObjectStore
) -> None:
    store.set(SERVICES, {"metadata": {"name": "stray"}, "spec": {}}, "stray")
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        assert "namespace is missing" in follower.troubles()["service stray"]
        lists = len(follower.lists)
        await server.down()
        store.set(SERVICES, service(sessionAffinity="ClientIP"))
        store.compact()
        await server.up()
        await eventually(lambda: len(follower.lists) >= lists + 2)
        assert set(follower.troubles()) == {"service stray"}
        await heard(follower, lambda: store.remove(SERVICES, "stray"), set())
