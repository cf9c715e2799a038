"""The node at the API server: registered, kept alive, told about truthfully, whatever happens."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import msgspec
import pytest

from hostkit.kube.config import KubeConfig
from hostkit.kube.listwatch import Changed, Listed
from hostkit.kube.transport import KubeClient
from hostkit.problems import Problems
from hostkit.reconcile import Backoff
from nodeagent.docker.api import EngineInfo
from nodeagent.node.address import AddressError
from nodeagent.node.facts import Facts
from nodeagent.node.keeper import NodeKeeper, Sources
from nodeagent.node.settings import NodeSettings
from tests.fakes.kube import Json, Refused
from tests.nodeagent.node.nodeserver import LEASES, NAME, NODES, NodeServer, Notes
from tests.support.poll import eventually

FACTS = Facts(
    hostname=NAME, machine_id="m1", system_uuid="S1", boot_id="b1", cpus=4, memory=8 * 2**30,
    disk=100 * 2**30,
)  # fmt: skip
SETTINGS = NodeSettings(NAME, version="v1.20.0+barenode.0.3.0")


@dataclass
class World:
    """What the keeper looks at; tests change it."""

    facts: Facts = FACTS
    address: str = "192.168.0.201"
    engine: EngineInfo | None = field(default_factory=lambda: EngineInfo("20.10.24", "1.41"))
    trouble: str = ""
    pressure: dict[str, str] = field(default_factory=dict)
    mono: float = 1000.0
    wall: float = 1_700_000_000.0
    hurry: bool = True

    async def where(self) -> str:
        if not self.address:
            raise AddressError("there is no default route: set --node-ip")
        return self.address

    async def sleep(self, seconds: float) -> None:
        """Time passes as fast as the test can, but lets others run."""
        if self.hurry:
            await asyncio.sleep(0.002)
            self.pass_time(seconds)
        else:
            await asyncio.Event().wait()

    def pass_time(self, seconds: float) -> None:
        self.mono += seconds
        self.wall += seconds


class Rig:
    """A keeper against a server."""

    def __init__(self, server: NodeServer, client: KubeClient) -> None:
        self.server = server
        self.client = client
        self.world = World()
        self.notes = Notes()
        self.problems = Problems()
        self.told: list[Any] = []

    def keeper(self, **settings: Any) -> NodeKeeper:
        world = self.world
        return NodeKeeper(
            self.client,
            replace(SETTINGS, **settings),
            Sources(
                facts=lambda: world.facts,
                address=world.where,
                engine=lambda: world.engine,
                trouble=lambda: world.trouble,
                pressure=lambda: world.pressure,
            ),
            self.notes,
            self.problems,
            on_node=self.told.append,
            backoff=Backoff(first=0.5, most=8.0, jitter=0.0),
            clock=lambda: world.mono,
            wall=lambda: world.wall,
            sleep=world.sleep,
        )

    def problem(self, key: str) -> str:
        return next((p.text for p in self.problems.all() if p.key == key), "")

    @asynccontextmanager
    async def running(self, **settings: Any) -> AsyncIterator[NodeKeeper]:
        keeper = self.keeper(**settings)
        task = asyncio.create_task(keeper.run())
        try:
            yield keeper
            assert not task.done(), "the keeper ended"
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)


@pytest.fixture
async def rig() -> AsyncIterator[Rig]:
    """A server, a client of it and a world."""
    async with NodeServer() as server:
        client = KubeClient(
            KubeConfig((server.url,)), user_agent="test", deadline=2.0, probe_every=0.05
        )
        try:
            yield Rig(server, client)
        finally:
            await client.close()


def status_posts(rig: Rig) -> list[Json]:
    return rig.server.written("PATCH", "/status")


async def test_a_new_node_is_made_with_labels_taints_and_a_true_status(rig: Rig) -> None:
    keeper = rig.keeper(
        labels={"disk": "ssd"}, taints=({"key": "a", "effect": "NoExecute"},), schedulable=False
    )
    assert keeper.missing() == "node node-1 is not registered yet"
    await keeper.turn()
    node = rig.server.node
    assert node["metadata"]["labels"]["disk"] == "ssd"
    assert node["metadata"]["labels"]["kubernetes.io/hostname"] == NAME
    assert node["spec"]["unschedulable"] is True
    assert [taint["key"] for taint in node["spec"]["taints"]] == [
        "a", "node.kubernetes.io/unschedulable",
    ]  # fmt: skip
    assert rig.server.ready["status"] == "True"
    assert node["status"]["addresses"][0] == {"type": "InternalIP", "address": "192.168.0.201"}
    assert keeper.missing() is None
    assert keeper.node == node
    assert rig.told
    assert rig.notes.reasons == [
        "NodeHasSufficientMemory", "NodeHasNoDiskPressure", "NodeHasSufficientPID", "NodeReady",
    ]  # fmt: skip
    assert not status_posts(rig), "the Node was made with its status"


async def test_an_existing_node_keeps_cordon_taints_and_foreign_labels(rig: Rig) -> None:
    await rig.keeper().turn()
    node = rig.server.node
    node["spec"] = {"unschedulable": True, "taints": [{"key": "x", "effect": "NoSchedule"}]}
    node["metadata"]["labels"] = {"foreign": "1", "kubernetes.io/hostname": "wrong"}
    rig.server.set(NODES, node)
    await rig.keeper(taints=({"key": "a", "effect": "NoExecute"},), labels={"disk": "ssd"}).turn()
    found = rig.server.node
    assert found["spec"] == node["spec"]
    assert found["metadata"]["labels"]["foreign"] == "1"
    assert found["metadata"]["labels"]["kubernetes.io/hostname"] == NAME
    assert found["metadata"]["labels"]["disk"] == "ssd"
    assert found["metadata"]["uid"] == node["metadata"]["uid"]


async def test_nothing_is_written_while_nothing_changes(rig: Rig) -> None:
    keeper = rig.keeper(report=300.0)
    await keeper.turn()
    await keeper.beat()
    before = len(status_posts(rig))
    for _ in range(100):
        rig.world.pass_time(1.0)
        await keeper.turn()
    assert len(status_posts(rig)) == before
    rig.world.pass_time(200.0)
    await keeper.turn()
    assert len(status_posts(rig)) == before + 1


async def test_a_server_without_leases_gets_the_status_every_ten_seconds(rig: Rig) -> None:
    rig.server.leases = False
    keeper = rig.keeper()
    await keeper.turn()
    assert await keeper.beat() == 60.0
    assert "every 10 s instead" in rig.problem("node/lease")
    before = len(status_posts(rig))
    for _ in range(40):
        rig.world.pass_time(1.0)
        await keeper.turn()
    assert len(status_posts(rig)) == before + 4
    rig.server.leases = True
    assert await keeper.beat() <= 10.0
    assert not rig.problem("node/lease")


async def test_a_missing_right_to_leases_falls_back_on_the_status(rig: Rig) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    rig.server.lease_rights = False
    await keeper.beat()
    assert "leases is forbidden" in rig.problem("node/lease")


async def test_the_lease_is_owned_by_the_node_and_renewed(rig: Rig) -> None:
    keeper = rig.keeper()
    assert await keeper.beat() == 1.0, "not before the node is there"
    await keeper.turn()
    await keeper.beat()
    lease = rig.server.lease
    owner = lease["metadata"]["ownerReferences"][0]
    assert (owner["kind"], owner["uid"]) == ("Node", rig.server.node["metadata"]["uid"])
    assert lease["spec"] == {
        "holderIdentity": NAME, "leaseDurationSeconds": 40,
        "renewTime": "2023-11-14T22:13:20.000000Z",
    }  # fmt: skip
    rig.world.pass_time(10.5)
    await keeper.beat()
    assert rig.server.lease["spec"]["renewTime"] == "2023-11-14T22:13:30.500000Z"


async def test_the_lease_is_renewed_to_a_later_time_even_when_the_clock_is_set_back(
    rig: Rig,
) -> None:
    await rig.keeper().turn()
    times = []
    for step in (10.0, -3600.0, 10.0, 10.0):
        rig.world.wall += step
        # One that begins just now knows no more than the lease says.
        keeper = rig.keeper()
        await keeper.turn()
        await keeper.beat()
        times.append(rig.server.lease["spec"]["renewTime"])
    assert times == sorted(set(times))
    lease = rig.server.lease
    lease["spec"]["renewTime"] = "9999-12-31T23:59:59.999999Z"
    rig.server.set(LEASES, lease)
    keeper = rig.keeper()
    await keeper.turn()
    await keeper.beat()
    assert rig.server.lease["spec"]["renewTime"].startswith("2023-11-14")


async def test_docker_in_trouble_is_not_ready_with_the_reason_and_heartbeats_go_on(
    rig: Rig,
) -> None:
    async with rig.running() as keeper:
        await eventually(lambda: keeper.registered and rig.server.get(LEASES) is not None)
        rig.world.trouble = "Docker does not answer"
        await eventually(lambda: rig.server.ready["status"] == "False")
        assert rig.server.ready["reason"] == "KubeletNotReady"
        assert rig.server.ready["message"] == "Docker does not answer"
        renewed = rig.server.lease["spec"]["renewTime"]
        await eventually(lambda: rig.server.lease["spec"]["renewTime"] > renewed)
        rig.world.trouble = ""
        await eventually(lambda: rig.server.ready["status"] == "True")
        # It is told once the keeper has the answer.
        await eventually(lambda: rig.notes.reasons.count("NodeReady") == 2)
    told = [reason for reason in rig.notes.reasons if "Ready" in reason]
    assert told == ["NodeReady", "NodeNotReady", "NodeReady"]


async def test_poke_makes_a_change_known_without_waiting(rig: Rig) -> None:
    async with rig.running() as keeper:
        await eventually(lambda: keeper.registered)
        rig.world.hurry = False
        rig.world.trouble = "Docker does not answer"

        def poked() -> bool:
            keeper.poke()
            return bool(rig.server.ready["status"] == "False")

        await eventually(poked)


async def test_pressure_becomes_condition_and_event(rig: Rig) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    rig.world.pressure = {"DiskPressure": "nodefs.available is below 10%"}
    await keeper.turn()
    found = {one["type"]: one for one in rig.server.node["status"]["conditions"]}
    assert found["DiskPressure"]["status"] == "True"
    assert found["DiskPressure"]["reason"] == "KubeletHasDiskPressure"
    assert "NodeHasDiskPressure" in rig.notes.reasons


async def test_a_deleted_node_is_made_again(rig: Rig) -> None:
    async with rig.running() as keeper:
        await eventually(lambda: keeper.registered and rig.server.get(LEASES) is not None)
        first = rig.server.node["metadata"]["uid"]
        await eventually(lambda: rig.server.watches > 0)
        rig.server.delete(NODES)
        await eventually(lambda: (rig.server.get(NODES) or {"metadata": {"uid": first}})
                         ["metadata"]["uid"] != first)  # fmt: skip
        second = rig.server.node["metadata"]["uid"]
        await eventually(
            lambda: rig.server.lease["metadata"]["ownerReferences"][0]["uid"] == second
        )


async def test_a_node_deleted_unseen_is_made_again_at_the_next_write(rig: Rig) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    rig.server.delete(NODES)
    rig.world.trouble = "Docker does not answer"
    await keeper.turn()
    assert keeper.node is None
    assert keeper.missing() is not None
    await keeper.turn()
    assert rig.server.ready["status"] == "False"


async def test_a_control_plane_that_calls_the_node_lost_is_put_right_at_once(rig: Rig) -> None:
    async with rig.running() as keeper:
        await eventually(lambda: keeper.registered and rig.server.watches > 0)
        node = rig.server.node
        for condition in node["status"]["conditions"]:
            condition["status"] = "Unknown"
        rig.server.set(NODES, node)
        await eventually(lambda: rig.server.ready["status"] == "True")


async def test_heartbeats_go_on_when_the_server_comes_back(rig: Rig) -> None:
    async with rig.running() as keeper:
        await eventually(lambda: keeper.registered and rig.server.get(LEASES) is not None)
        await rig.server.down()
        await eventually(lambda: bool(rig.problem("node/lease")))
        # No pause of the keeper ends from here on: the watch that runs again wakes its loops.
        rig.world.hurry = False
        rig.world.trouble = "Docker does not answer"
        await rig.server.up()
        renewed = rig.server.lease["spec"]["renewTime"]
        await eventually(lambda: rig.server.lease["spec"]["renewTime"] > renewed)
        await eventually(lambda: rig.server.ready["status"] == "False")
        await eventually(lambda: not rig.problems.all())


async def test_failures_wait_longer_each_time_and_at_most_ten_seconds(rig: Rig) -> None:
    await rig.server.down()
    keeper = rig.keeper()
    waits = [await keeper.turn() for _ in range(8)]
    assert waits == [0.5, 1.0, 2.0, 4.0, 8.0, 8.0, 8.0, 8.0]
    assert "no API server answers" in str(keeper.missing())
    await rig.server.up()
    assert await keeper.turn() == 1.0
    assert keeper.registered


async def test_a_call_that_times_out_is_followed_by_one_on_a_new_connection(rig: Rig) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    await keeper.beat()
    old = rig.server.peers[-1]
    rig.server.fail("write", "hang")
    rig.world.trouble = "Docker does not answer"
    assert await keeper.turn() == 0.5
    before = len(rig.server.peers)
    await keeper.turn()
    assert old not in rig.server.peers[before:]
    assert rig.server.ready["status"] == "False"


@pytest.mark.parametrize("step", [3600.0, -3600.0, -1e9])
async def test_a_clock_that_is_set_changes_nothing(rig: Rig, step: float) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    await keeper.beat()
    before = len(status_posts(rig))
    rig.world.wall += step
    for _ in range(20):
        rig.world.pass_time(1.0)
        assert await keeper.turn() == 1.0
    assert len(status_posts(rig)) == before
    assert await keeper.beat() <= 10.0
    assert not rig.problems.all()


def reported_by(machine: str) -> Json:
    return {
        "metadata": {"name": NAME, "uid": "u"},
        "spec": {},
        "status": {"nodeInfo": {"machineID": machine, "systemUUID": machine}},
    }


async def test_a_name_that_a_living_machine_has_is_not_taken(rig: Rig) -> None:
    rig.server.set(NODES, reported_by("other"))
    keeper = rig.keeper()
    for beat in range(10):
        rig.server.set(LEASES, {"metadata": {"name": NAME}, "spec": {"renewTime": f"t{beat}"}})
        await keeper.turn()
        rig.world.pass_time(10.0)
    assert "another machine that is alive (machine ID other)" in rig.problem("node")
    assert "--hostname-override" in str(keeper.missing())
    assert rig.server.node["status"]["nodeInfo"]["machineID"] == "other"


async def test_a_name_of_a_machine_that_is_silent_is_taken_over(rig: Rig) -> None:
    rig.server.set(NODES, reported_by("other"))
    rig.server.set(LEASES, {"metadata": {"name": NAME}, "spec": {"renewTime": "long ago"}})
    keeper = rig.keeper()
    await keeper.turn()
    assert keeper.missing()
    rig.world.pass_time(26.0)
    await keeper.turn()
    assert keeper.registered
    assert rig.server.node["status"]["nodeInfo"]["machineID"] == "m1"


async def test_the_same_machine_is_adopted_at_once_whatever_the_case_of_its_uuid(rig: Rig) -> None:
    node = reported_by("m1")
    node["status"]["nodeInfo"]["systemUUID"] = "s1"
    rig.server.set(NODES, node)
    keeper = rig.keeper()
    await keeper.turn()
    assert keeper.registered


async def test_another_agent_that_renews_the_lease_is_a_loud_problem(rig: Rig) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    await keeper.beat()
    for minute in (10, 20):
        lease = rig.server.lease
        lease["spec"]["renewTime"] = f"2031-01-01T00:{minute}:00.000000Z"
        rig.server.set(LEASES, lease)
        rig.world.pass_time(10.0)
        await keeper.beat()
    await keeper.turn()
    assert "two agents run under this node name" in rig.problem("node/rival")
    rig.world.pass_time(100.0)
    await keeper.turn()
    assert not rig.problem("node/rival")


async def test_a_lease_that_somebody_only_edits_is_no_rival(rig: Rig) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    await keeper.beat()
    for number in range(4):
        lease = rig.server.lease
        lease["metadata"]["annotations"] = {"seen": str(number)}
        # Go writes the same moment without the zeros.
        lease["spec"]["renewTime"] = lease["spec"]["renewTime"].replace(".000000Z", "+00:00")
        rig.server.set(LEASES, lease)
        rig.world.pass_time(5.0)
        await keeper.beat()
    await keeper.turn()
    assert not rig.problem("node/rival")
    assert rig.server.lease["metadata"]["annotations"] == {"seen": "3"}


async def test_a_status_that_somebody_keeps_changing_is_not_fought_over_without_end(
    rig: Rig,
) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    await keeper.beat()
    before = len(status_posts(rig))
    for _ in range(100):
        node = rig.server.node
        node["status"]["addresses"] = [{"type": "InternalIP", "address": "10.9.9.9"}]
        rig.server.set(NODES, node)
        keeper.take(event("MODIFIED", rig.server.node))
        rig.world.pass_time(1.0)
        await keeper.turn()
    assert 10 <= len(status_posts(rig)) - before <= 10 + 10 + 1


async def test_what_the_server_will_not_have_is_not_sent_again_and_again(rig: Rig) -> None:
    rig.server.spoil = {"images": None, "daemonEndpoints": {}}
    keeper = rig.keeper()
    await keeper.turn()
    await keeper.beat()
    before = len(status_posts(rig))
    for _ in range(20):
        rig.world.pass_time(1.0)
        await keeper.turn()
    assert len(status_posts(rig)) == before


async def test_a_node_of_surprising_types_is_no_trouble(rig: Rig) -> None:
    rig.server.set(
        NODES,
        {
            "metadata": {"name": NAME, "labels": ["a"]},
            "spec": 7,
            "status": {"conditions": {"a": 1}, "addresses": "x", "nodeInfo": 3, "capacity": None},
        },
    )
    keeper = rig.keeper()
    await keeper.turn()
    assert not rig.problem("node")
    assert rig.server.ready["status"] == "True"


async def test_a_node_registered_by_others_is_waited_for(rig: Rig) -> None:
    keeper = rig.keeper(register=False)
    await keeper.turn()
    assert "--register-node=false" in rig.problem("node")
    rig.server.set(NODES, {"metadata": {"name": NAME, "uid": "u"}, "spec": {}, "status": {}})
    await keeper.turn()
    assert rig.server.ready["status"] == "True"


async def test_a_refused_registration_is_told_with_the_servers_words(rig: Rig) -> None:
    rig.server.fail("write", Refused(403, "Forbidden", "nodes is forbidden"))
    keeper = rig.keeper()
    assert await keeper.turn() == 0.5
    assert "nodes is forbidden" in str(keeper.missing())
    assert await keeper.turn() == 1.0


async def test_an_unknown_address_holds_registration_up_and_a_lost_one_does_not_matter(
    rig: Rig,
) -> None:
    rig.world.address = ""
    keeper = rig.keeper()
    await keeper.turn()
    assert "--node-ip" in str(keeper.missing())
    rig.world.address = "192.168.0.201"
    await keeper.turn()
    assert keeper.address == "192.168.0.201"
    rig.world.address = ""
    rig.world.pass_time(11.0)
    await keeper.turn()
    assert keeper.address == "192.168.0.201"
    assert "--node-ip" in rig.problem("node/address")
    rig.world.address = "192.168.0.202"
    rig.world.pass_time(11.0)
    await keeper.turn()
    assert [one["address"] for one in rig.server.node["status"]["addresses"]] == [
        "192.168.0.202", NAME,
    ]  # fmt: skip


async def test_a_reboot_is_an_event(rig: Rig) -> None:
    await rig.keeper().turn()
    assert "Rebooted" not in rig.notes.reasons
    rig.world.facts = replace(FACTS, boot_id="b2")
    await rig.keeper().turn()
    assert "Rebooted" in rig.notes.reasons
    assert rig.server.node["status"]["nodeInfo"]["bootID"] == "b2"


async def test_cordon_and_labels_are_heard_of(rig: Rig) -> None:
    async with rig.running() as keeper:
        await eventually(lambda: keeper.registered and rig.server.watches > 0)
        heard = len(rig.told)
        node = rig.server.node
        node["spec"]["unschedulable"] = True
        rig.server.set(NODES, node)
        await eventually(lambda: len(rig.told) > heard)
        assert rig.told[-1]["spec"]["unschedulable"] is True
        assert "NodeNotSchedulable" in rig.notes.reasons
        heard = len(rig.told)
        await eventually(lambda: len(status_posts(rig)) > 2)
        assert len(rig.told) == heard, "heartbeats are no news for admission"


async def test_a_watch_that_sends_nonsense_ends_nothing(rig: Rig) -> None:
    async with rig.running() as keeper:
        await eventually(lambda: keeper.registered and rig.server.watches > 0)
        await rig.server.inject(b'{"type":"MODIFIED","object":{"metadata":{}}}\n')
        await rig.server.inject(b'{"type":"DELETED","object":{"metadata":{"name":"node-1"}}}\n')
        await rig.server.inject(b"nonsense\n")
        rig.world.trouble = "Docker does not answer"
        await eventually(lambda: rig.server.ready["status"] == "False")


async def test_without_an_api_server_the_node_is_known_to_this_agent_alone(rig: Rig) -> None:
    world = rig.world
    keeper = NodeKeeper(
        None,
        SETTINGS,
        Sources(lambda: FACTS, world.where, lambda: world.engine, lambda: world.trouble),
        rig.notes,
        rig.problems,
        sleep=world.sleep,
    )
    assert await keeper.turn() == 10.0
    assert keeper.node is None
    assert keeper.missing() is None
    assert keeper.local()["status"]["allocatable"]["cpu"] == "4"
    task = asyncio.create_task(keeper.run())
    await eventually(lambda: rig.notes.reasons == ["Starting"])
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    assert not rig.server.requests


async def test_writes_that_fail_at_any_point_end_in_the_same_state(rig: Rig) -> None:
    faults: list[Callable[[], None]] = [
        lambda: rig.server.fail("write", "cut"),
        lambda: rig.server.fail("list", "cut"),
        lambda: rig.server.fail("write", Refused(500, "InternalError", "etcd is away")),
        lambda: rig.server.fail("write", Refused(409, "Conflict", "modified")),
        lambda: rig.server.fail("list", Refused(500, "InternalError", "etcd is away")),
    ]
    for fault in faults:
        if rig.server.get(NODES) is not None:
            rig.server.delete(NODES)
        if rig.server.get(LEASES) is not None:
            rig.server.delete(LEASES)
        keeper = rig.keeper()
        fault()
        for _ in range(3):
            await keeper.turn()
            await keeper.beat()
        assert keeper.registered
        assert rig.server.ready["status"] == "True"
        assert rig.server.lease["spec"]["holderIdentity"] == NAME


def event(kind: Literal["ADDED", "MODIFIED", "DELETED"], node: Json) -> Changed:
    return Changed(kind, msgspec.Raw(msgspec.json.encode(node)), "")


async def test_an_event_older_than_our_own_write_is_passed_over(rig: Rig) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    old = rig.server.node
    rig.world.trouble = "Docker does not answer"
    await keeper.turn()
    keeper.take(event("MODIFIED", old))
    assert keeper.node == rig.server.node
    keeper.take(event("DELETED", {**old, "metadata": {**old["metadata"], "uid": "earlier"}}))
    assert keeper.registered


@pytest.mark.parametrize("listed", ["older", "empty", "nonsense"])
async def test_a_list_that_does_not_fit_has_the_node_read_from_etcd(rig: Rig, listed: str) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    node = rig.server.node
    older = {**node, "metadata": {**node["metadata"], "resourceVersion": "1"}}
    items = {"older": [msgspec.json.encode(older)], "empty": [], "nonsense": [b"7"]}[listed]
    keeper.take(Listed([msgspec.Raw(item) for item in items], "1"))
    node["spec"]["unschedulable"] = True
    rig.server.set(NODES, node)
    await keeper.turn()
    assert keeper.node == rig.server.node
    rig.server.delete(NODES)
    keeper.take(Listed([], "99"))
    await keeper.turn()
    assert rig.server.node["spec"] == {}, "deleted in truth, so it was made again"


async def test_another_machine_that_reports_as_this_node_is_a_loud_problem(rig: Rig) -> None:
    keeper = rig.keeper()
    await keeper.turn()
    for _ in range(2):
        node = rig.server.node
        node["status"]["nodeInfo"]["machineID"] = "other"
        rig.server.set(NODES, node)
        keeper.take(event("MODIFIED", rig.server.node))
        rig.world.pass_time(5.0)
        await keeper.turn()
    assert "another machine reports" in rig.problem("node/rival")
    assert rig.server.node["status"]["nodeInfo"]["machineID"] == "m1"


async def test_without_the_right_to_read_leases_a_silent_machine_is_still_taken_over(
    rig: Rig,
) -> None:
    rig.server.lease_rights = False
    rig.server.set(NODES, reported_by("other"))
    keeper = rig.keeper()
    await keeper.turn()
    assert keeper.missing()
    rig.world.pass_time(26.0)
    await keeper.turn()
    assert keeper.registered
