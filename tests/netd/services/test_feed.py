"""From API servers to the book: where endpoints come from, and what is wrong with which object."""

import json
import time
from collections.abc import AsyncIterator

import msgspec
import pytest

from netd.services.feed import trigger_time
from tests.fakes.kube import Refused
from tests.fakes.kubeobjects import (
    BETA_SLICES,
    ENDPOINTS,
    SERVICES,
    SLICES,
    AgedKube,
    ObjectStore,
)
from tests.netd.services.feedworld import following, named, slice_of, subset
from tests.netd.services.objects import (
    endpoint_slice,
    endpoints_object,
    service,
)
from tests.support.poll import eventually

TRIGGER = "endpoints.kubernetes.io/last-change-trigger-time"


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


# --- what arrives ---


@pytest.mark.parametrize(
    ("age", "source", "address"),
    [
        ("v1", "EndpointSlice v1", "10.1.1.2"),
        ("v1beta1", "EndpointSlice v1beta1", "10.1.1.2"),
        ("", "Endpoints v1", "10.1.1.9"),
    ],
)
async def test_endpoints_are_slices_where_there_are_any_else_endpoints(
    server: AgedKube, age: str, source: str, address: str
) -> None:
    server.serve(age)
    async with following(server) as follower:
        await eventually(lambda: follower.answering() == (f"{address}:8080",))
        await eventually(lambda: follower.feed.connected)
        assert follower.feed.source == source
        assert sorted(follower.lists) == ["endpoints", "services"]
        assert follower.changes >= 2
        assert follower.problems.all() == ()


async def test_a_server_of_1_0_has_no_groups_of_apis_at_all(
    server: AgedKube, store: ObjectStore
) -> None:
    server.serve("")
    del server.groups["/apis"]
    async with following(server) as follower:
        await eventually(lambda: follower.answering() == ("10.1.1.9:8080",))
        store.set(ENDPOINTS, endpoints_object(subset("10.1.1.9"), subset("10.1.1.8")))
        await eventually(lambda: follower.answering() == ("10.1.1.8:8080", "10.1.1.9:8080"))


async def test_changes_arrive_and_are_counted(server: AgedKube, store: ObjectStore) -> None:
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        store.set(SLICES, slice_of("web", "10.1.1.2", "10.1.2.2"))
        await eventually(lambda: follower.answering() == ("10.1.1.2:8080", "10.1.2.2:8080"))
        store.remove(SLICES, "default/web-abcde")
        await eventually(lambda: follower.answering() == ())
        store.remove(SERVICES, "default/web")
        await eventually(lambda: follower.answering() is None)
        assert follower.value("sync_proxy_rules_service_changes_total") == 2
        assert follower.value("sync_proxy_rules_endpoint_changes_total") == 3
        assert follower.figures.pending == {"service": 2, "endpoint": 3}


async def test_an_update_that_changes_nothing_for_netd_leaves_nothing_pending(
    server: AgedKube, store: ObjectStore
) -> None:
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        pending, changes = dict(follower.figures.pending), follower.changes
        store.set(SERVICES, named(service(), "web", annotations={"note": "another"}))
        store.set(SLICES, slice_of("web", "10.1.1.2", annotations={"note": "another"}))
        # Those were taken when what came after them has been.
        for path, name in ((SERVICES, "last"), (SLICES, "last-x")):
            store.set(path, named(service() if path == SERVICES else endpoint_slice(), name))
        await eventually(lambda: follower.figures.pending["service"] > pending["service"])
        await eventually(lambda: follower.figures.pending["endpoint"] > pending["endpoint"])
        assert follower.figures.pending == {one: pending[one] + 1 for one in pending}
        assert follower.changes == changes + 2


async def test_programming_is_timed_from_the_change_of_the_pod_but_not_for_lists_and_deletions(
    server: AgedKube, store: ObjectStore
) -> None:
    def since(seconds: float) -> dict[str, str]:
        when = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() - seconds))
        return {TRIGGER: when}

    store.set(SLICES, slice_of("web", "10.1.1.2", annotations=since(1000)))
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        store.set(SLICES, slice_of("web", "10.1.1.3", annotations=since(100)))
        await eventually(lambda: follower.answering() == ("10.1.1.3:8080",))
        store.remove(SLICES, "default/web-abcde")
        await eventually(lambda: follower.answering() == ())
        follower.figures.begun()
        follower.figures.written(0.1, {})
        name = "network_programming_duration_seconds"
        assert follower.value(f"{name}_count") == 1
        taken = follower.value(f"{name}_sum")
        assert taken is not None
        assert 99 <= taken <= 160


@pytest.mark.parametrize(
    "text",
    [
        "", "yesterday", "2024-13-01T00:00:00Z", "0001-01-01T00:00:00", 7, None, [], {},
        "9" * 5000,
    ],
)  # fmt: skip
def test_a_trigger_time_that_is_none_counts_as_absent(text: object) -> None:
    document = {"metadata": {"annotations": {TRIGGER: text}}}
    assert trigger_time(msgspec.Raw(json.dumps(document).encode())) is None


@pytest.mark.parametrize(
    "raw", [b"{}", b"[]", b"7", b'{"metadata":7}', b'{"metadata":{"annotations":[]}}', b"\xff"]
)
def test_an_object_of_another_shape_has_no_trigger_time(raw: bytes) -> None:
    assert trigger_time(msgspec.Raw(raw)) is None


def test_a_trigger_time_is_read_with_fractions_of_a_second() -> None:
    document = {"metadata": {"annotations": {TRIGGER: "2024-01-31T12:00:00.250000Z"}}}
    assert trigger_time(msgspec.Raw(json.dumps(document).encode())) == 1706702400.25


# --- servers that change ---


async def test_when_a_server_without_slices_takes_over_endpoints_are_followed(
    store: ObjectStore,
) -> None:
    async with (
        AgedKube(store) as new,
        AgedKube(store, slices="") as old,
        following(new, old) as follower,
    ):
        await eventually(lambda: follower.answering() == ("10.1.1.2:8080",))
        await new.down()
        await eventually(lambda: follower.answering() == ("10.1.1.9:8080",))
        assert follower.feed.source == "Endpoints v1"
        await eventually(lambda: follower.feed.connected and not follower.problem())
        assert len(follower.book.slices_of("default/web")) == 1, "the slices are forgotten"


async def test_when_a_server_got_slices_by_an_upgrade_they_are_followed(
    server: AgedKube,
) -> None:
    server.serve("")
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        await server.down()
        await eventually(lambda: not follower.feed.connected)
        assert follower.answering() == ("10.1.1.9:8080",), "what was known stays"
        server.serve("v1")
        await server.up()
        await eventually(lambda: follower.answering() == ("10.1.1.2:8080",))
        assert follower.feed.source == "EndpointSlice v1"
        await eventually(lambda: follower.feed.connected)


async def test_a_server_that_is_gone_is_a_problem_and_everything_stays_known(
    server: AgedKube, store: ObjectStore
) -> None:
    async with following(server) as follower:
        await eventually(lambda: follower.feed.connected)
        await server.down()
        await eventually(lambda: server.url in follower.problem())
        assert not follower.feed.connected
        assert follower.answering() == ("10.1.1.2:8080",)
        assert not any(one.blocking for one in follower.problems.all())
        store.set(SLICES, slice_of("web", "10.1.1.3"))
        await server.up()
        await eventually(lambda: follower.answering() == ("10.1.1.3:8080",))
        await eventually(lambda: follower.feed.connected and not follower.problem())


async def test_slices_are_found_although_the_watch_of_endpoints_never_ends(
    server: AgedKube,
) -> None:
    """One of several servers behind one address was upgraded."""
    server.serve("")
    async with following(server, look_again=0.01) as follower:
        await eventually(lambda: follower.answering() == ("10.1.1.9:8080",))
        server.serve("v1")
        await eventually(lambda: follower.answering() == ("10.1.1.2:8080",))
        assert follower.feed.source == "EndpointSlice v1"


async def test_a_look_for_slices_that_fails_is_a_problem_while_it_does_and_the_watch_goes_on(
    server: AgedKube, store: ObjectStore
) -> None:
    server.serve("")
    async with following(server, look_again=0.01) as follower:
        await eventually(lambda: follower.feed.connected)
        server.fail("list", Refused(403, "Forbidden", "no discovery for you"))
        await eventually(lambda: "no discovery for you" in follower.problem())
        assert follower.feed.connected
        store.set(ENDPOINTS, endpoints_object(subset("10.1.1.8")))
        await eventually(lambda: follower.answering() == ("10.1.1.8:8080",))
        await eventually(lambda: not follower.problem())


async def test_before_the_first_answer_nothing_is_connected(server: AgedKube) -> None:
    await server.down()
    async with following(server) as follower:
        assert not follower.feed.connected
        assert follower.feed.source is None
        await eventually(lambda: server.url in follower.problem())
        assert follower.lists == []
        await server.up()
        await eventually(lambda: sorted(follower.lists) == ["endpoints", "services"])
