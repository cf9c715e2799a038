"""API servers that fail, and objects that should not exist: the rest goes on working."""

import asyncio
import itertools
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import pytest
from aiohttp import web

from tests.fakes.kube import FakeKube, Json, Verb
from tests.support.netns import Inside, eventually
from tests.support.services import (
    CONTROL,
    POD_NETWORK,
    Api,
    Made,
    Node,
    World,
    endpoint,
    port,
    service,
    slice_of,
    world,
)
from tests.support.talk import Host


@dataclass
class Scene:
    """*node* knows one API server, *other* both: ``world.api``, which fails, and a second one.

    Objects are written by the second one.
    """

    world: World
    failing: Api
    node: Node
    other: Node
    a: Host
    b: Host
    numbers: Iterator[int] = field(default_factory=itertools.count)

    def made(self) -> Made:
        """A service of its own for a test, which both nodes have."""
        made = self.world.service(f"web-{next(self.numbers)}", [self.a])
        self.world.settle()
        assert self.node.ask(made.ip, 80).server == "a"
        return made

    def connected(self) -> bool:
        """Whether changes arrive at the node that knows one API server."""
        return bool(self.node.netd.status()["services"]["api"]["connected"])

    def heal(self) -> None:
        """Switch all faults off."""
        self.failing.faults(refuse=0, stall=0, gone=0, cut=-1, garbage=0, serve_old=0)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scene]:
    with world(tmp_path_factory.mktemp("faults")) as made:
        failing = made.api
        made.api = Api(made.fabric.bridge, made.directory, made.etcd.endpoints[0], 8081)
        try:
            made.api.start()
            pods = f"--cluster-cidr={POD_NETWORK}"
            node = made.node("nft", f"--master={failing.url}", pods)
            other = made.node("nft", f"--master={failing.url},{made.api.url}", pods)
            yield Scene(made, failing, node, other, node.pod("a"), node.pod("b"))
        finally:
            failing.close()


@pytest.fixture
def scene(both: Scene) -> Iterator[Scene]:
    """Without faults before and after."""
    yield both
    both.heal()
    eventually(both.connected, "the API")
    both.world.settle()


@pytest.mark.parametrize("fault", [
    {"gone": 4}, {"cut": 0}, {"cut": 1}, {"cut": 300}, {"garbage": 2},
], ids=lambda fault: "-".join(f"{name} {value}" for name, value in fault.items()))  # fmt: skip
def test_changes_arrive_in_spite_of_a_watch_that_fails(scene: Scene, fault: dict[str, int]) -> None:
    """Too old a version, a cut in the middle of an object, a line that is no JSON."""
    web = scene.made()
    scene.failing.faults(**fault)
    for ends in ([scene.b], [scene.a], [scene.b]):
        scene.world.endpoints(web.name, ends)
        scene.world.settle()
        assert scene.node.servers(web.ip, 80, count=5) == {ends[0].name}
    assert scene.node.netd.process is not None
    assert scene.node.netd.process.poll() is None


@pytest.mark.parametrize("fault", ["refuse", "stall"])
def test_rules_stay_while_the_api_server_is_away_and_changes_arrive_afterwards(
    scene: Scene, fault: str
) -> None:
    """The node that knows another API server goes over to that."""
    web = scene.made()
    before = scene.node.rules()
    scene.failing.faults(**{fault: 1})
    scene.world.endpoints(web.name, [scene.b])
    scene.world.settle(scene.other)
    assert scene.other.servers(web.ip, 80, count=5) == {"b"}
    eventually(lambda: not scene.connected(), "the loss noticed")
    assert scene.node.netd.status()["problems"]
    assert scene.node.netd.status()["ready"]
    assert scene.node.rules() == before
    assert scene.node.ask(web.ip, 80).server == "a"
    scene.heal()
    scene.world.settle()
    assert scene.node.servers(web.ip, 80, count=5) == {"b"}
    eventually(lambda: not scene.node.netd.status()["problems"], "no problem any more")


def test_an_api_server_that_comes_back_with_older_data_is_believed(scene: Scene) -> None:
    """As from a backup; and when it has caught up again, so has the node."""
    web = scene.made()
    scene.failing.faults(serve_old=1)
    scene.world.endpoints(web.name, [scene.b])
    # Watches that were open go on with what is new.
    scene.world.settle()
    scene.failing.faults(refuse=1)
    eventually(lambda: not scene.connected(), "the loss noticed")
    scene.failing.faults(refuse=0)
    eventually(lambda: scene.node.ask(web.ip, 80).server == "a", "the older data")
    scene.failing.faults(serve_old=0)
    scene.world.settle()
    assert scene.node.servers(web.ip, 80, count=5) == {"b"}


def test_an_api_server_that_is_killed_and_comes_again_is_followed_again(scene: Scene) -> None:
    web = scene.made()
    scene.failing.kill()
    scene.world.endpoints(web.name, [scene.b])
    scene.world.settle(scene.other)
    assert scene.node.ask(web.ip, 80).server == "a"
    scene.failing.start()
    scene.world.settle()
    assert scene.node.servers(web.ip, 80, count=5) == {"b"}


def test_an_etcd_that_lost_everything_and_counts_anew_is_believed(scene: Scene) -> None:
    """As one that was made again from nothing: its versions are lower than those netd knows."""
    lost, kept = scene.made(), scene.made()
    for api in (scene.failing, scene.world.api):
        api.kill()
    scene.world.etcd.kill(0)
    assert scene.node.ask(lost.ip, 80).server == "a"
    scene.world.etcd.wipe(0)
    scene.world.etcd.start_member(0)
    scene.world.etcd.wait_ready()
    for api in (scene.world.api, scene.failing):
        api.start()
    scene.world.service(kept.name, [scene.b], clusterIP=kept.ip)
    scene.world.settle()
    for node in (scene.node, scene.other):
        assert node.servers(kept.ip, 80, count=5) == {"b"}
        assert f"default/{lost.name}:" not in "\n".join(node.rules())


class HalfKube(FakeKube):
    """Lists everything but endpoints, until it may."""

    def __init__(self) -> None:
        super().__init__()
        self.allowed = asyncio.Event()

    async def _answer(self, verb: Verb, request: web.Request) -> web.StreamResponse:
        if request.path.endswith("endpoints"):
            await self.allowed.wait()
        return await super()._answer(verb, request)


def test_no_rule_is_touched_before_services_and_endpoints_were_listed(scene: Scene) -> None:
    """After a restart a list of services alone would have every service refuse."""
    web = scene.made()
    before = scene.other.rules(), scene.other.rules("filter")
    scene.other.netd.kill()
    inside = Inside(scene.other.ns)
    api = inside.call(HalfKube)
    inside.wait(api.up())
    ports: list[Json] = [{"protocol": "TCP", "port": 80}]
    inside.call(lambda: api.store.put("/api/v1/services", "default/new", clusterIP="10.0.0.9",
                                      ports=ports))  # fmt: skip
    try:
        scene.other.netd.start(f"--master={api.url}")
        scene.other.netd.wait(
            lambda status: status["services"]["services"] == 1, "the list of services"
        )
        assert not scene.other.netd.status()["ready"]
        assert "endpoints" in str(scene.other.netd.status())
        assert (scene.other.rules(), scene.other.rules("filter")) == before
        assert scene.other.ask(web.ip, 80).server == "a"
        inside.call(api.allowed.set)
        scene.other.netd.wait_ready()
        assert "default/new" in "\n".join(scene.other.rules())
    finally:
        scene.other.netd.kill()
        inside.wait(api.down())
        inside.close()
        scene.other.netd.up()


CREATED = "2024-01-31T12:00:0{}Z"


def raw(name: str, ip: str, created: int = 5, **spec: object) -> Json:
    """A service as it would be in etcd, port 80, but for *spec*."""
    made = service(name, [port(80)], clusterIP=ip, clusterIPs=[ip], type="ClusterIP")
    made["metadata"]["creationTimestamp"] = CREATED.format(created)
    made["spec"] |= spec
    return made


Bend = Callable[[Json], object]

BAD: dict[str, tuple[Bend, str]] = {
    "port": (lambda one: one["spec"].update(ports=[port(70000)]), "70000"),
    "protocol": (lambda one: one["spec"].update(ports=[port(80, protocol="igmp")]), "IGMP"),
    "address": (lambda one: one["spec"].update(clusterIP="10.0.300.1", clusterIPs=["10.0.300.1"]),
                "10.0.300.1"),
    "name": (lambda one: one["metadata"].update(name='x" -j ACCEPT\n-A OUTPUT'), "metadata.name"),
    "control": (lambda one: one["spec"].update(ports=[port(80, "a\x1b[31m\nb")]), "ports[0].name"),
    "text": (lambda one: one["spec"].update(ports="80"), "spec.ports"),
    "nothing": (lambda one: one.pop("spec"), ""),
}  # fmt: skip


def test_bad_objects_are_named_and_left_out_and_all_others_work(scene: Scene) -> None:
    """Written straight into etcd, as no API server would take them."""
    bad = {}
    for number, (name, (bend, _)) in enumerate(BAD.items()):
        bad[name] = raw(f"bad-{name}", f"10.0.90.{number + 1}")
        bend(bad[name])
    long = raw("long", "10.0.90.50")
    long["metadata"]["annotations"] = {"note": "x" * 65536, "control": "a\x00b\x1b[2J\n-A"}
    ends = slice_of("mixed", [scene.b, endpoint("999.1.1.1"), endpoint("127.0.0.1")], [port(8080)])
    scene.world.put(
        {f"services/default/bad-{name}": one for name, one in bad.items()}
        | {
            "services/default/long": long,
            "endpointslices/default/long-x": slice_of("long", [scene.a], [port(8080)]),
            "services/default/mixed": raw("mixed", "10.0.90.51"),
            "endpointslices/default/mixed-x": ends,
        }
    )
    scene.world.settle()
    assert scene.node.ask("10.0.90.50", 80).server == "a"
    assert scene.node.servers("10.0.90.51", 80, count=10) == {"b"}
    skipped = scene.node.skipped()
    shown = json.dumps(skipped)
    for name, (_, word) in BAD.items():
        found = [text for key, text in skipped.items() if f"bad-{name}" in key or name == "name"]
        assert name == "nothing" or any(word in text for text in found), (name, shown)
    assert "endpointslice default/mixed-x" in skipped
    assert "service default/long" not in skipped
    assert shown.isascii()
    assert not any(sign in text for text in skipped.values() for sign in "\n\x00\x1b")
    rules = "\n".join(scene.node.rules())
    assert "bad-" not in rules
    assert "70000" not in rules
    assert "999.1" not in rules
    assert "OUTPUT -j ACCEPT" not in rules
    assert "\x1b" not in scene.node.netd.log
    for name in BAD:
        scene.world.etcd.ctl("del", f"/registry/services/default/bad-{name}")
    eventually(lambda: "bad-" not in json.dumps(scene.node.skipped()), "nothing named any more")


def test_what_two_services_want_is_the_older_ones_on_every_node(scene: Scene) -> None:
    """By time of creation, then by name; the younger keeps what is only its own."""
    scene.world.put({
        "services/default/young": raw("young", "10.0.91.1", 2, type="NodePort",
                                      ports=[port(80, nodePort=31999)]),
        "services/default/old": raw("old", "10.0.91.2", 1, type="NodePort",
                                    ports=[port(80, nodePort=31999)]),
        "services/default/y": raw("y", "10.0.91.3", 3),
        "services/default/x": raw("x", "10.0.91.3", 3),
        "endpointslices/default/young-x": slice_of("young", [scene.b], [port(8080)]),
        "endpointslices/default/old-x": slice_of("old", [scene.a], [port(8080)]),
        "endpointslices/default/x-x": slice_of("x", [scene.a], [port(8080)]),
        "endpointslices/default/y-x": slice_of("y", [scene.b], [port(8080)]),
    })  # fmt: skip
    scene.world.settle()
    for node in (scene.node, scene.other):
        client = scene.world.outside
        assert client.servers(node.address, 31999, count=10) == {"a"}
        assert node.servers("10.0.91.1", 80, count=10) == {"b"}
        assert node.servers("10.0.91.3", 80, count=10) == {"a"}
        skipped = node.skipped()
        assert "default/old" in skipped["service default/young"]
        assert "default/x" in skipped["service default/y"]
    for name in ("old", "x"):
        scene.world.etcd.ctl("del", f"/registry/services/default/{name}")
    scene.world.settle()
    assert scene.world.outside.servers(scene.node.address, 31999, count=10) == {"b"}
    assert scene.node.servers("10.0.91.3", 80, count=10) == {"b"}
    assert scene.node.skipped().keys().isdisjoint({"service default/young", "service default/y"})


def test_a_value_in_etcd_that_is_no_object_disturbs_nobody(scene: Scene) -> None:
    web = scene.made()
    scene.world.etcd.ctl("put", "/registry/services/default/junk", "not { JSON")
    scene.world.put({"services/default/list": [1, 2]})  # type: ignore[dict-item]
    scene.world.endpoints(web.name, [scene.b])
    scene.world.settle()
    assert scene.node.servers(web.ip, 80, count=5) == {"b"}
    assert CONTROL in scene.node.netd.status()["services"]["api"]["server"]
