"""The services half as a whole, between an API server and a host that are kept in memory."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from hostkit.config import ConfigError
from netd.netlink import messages as nl
from netd.services.half import MOST_TOLD
from tests.fakes.conntrack import Entry
from tests.fakes.kubeobjects import SERVICES, SLICES, AgedKube, ObjectStore
from tests.netd.services.halfworld import FORWARD, LIBERAL, RESTORE, Machine, running, settled
from tests.netd.services.made import web
from tests.netd.services.objects import endpoint, endpoint_slice, service
from tests.support.poll import eventually

NETWORK = IPv4Network("10.1.0.0/16")


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(tmp_path)


@pytest.fixture
def store() -> ObjectStore:
    """default/web with two endpoints, one of them here."""
    made = ObjectStore()
    made.set(SERVICES, service())
    made.set(SLICES, endpoint_slice(endpoint("10.1.1.2"), endpoint("10.1.2.2", nodeName="node2")))
    return made


@pytest.fixture
async def server(store: ObjectStore) -> AsyncIterator[AgedKube]:
    async with AgedKube(store) as made:
        yield made


# --- what it shows ---

KEYS = {
    "api", "node", "listed", "services", "endpoints", "frontends", "chains", "rules", "variant",
    "last_sync", "last_sync_seconds", "last_sync_full", "pending", "skipped", "masquerade",
}  # fmt: skip
API_KEYS = {"servers", "server", "connected", "endpoint_errors", "source"}


async def test_the_status_before_anything_is_known(machine: Machine) -> None:
    half = machine.make("--master=http://127.0.0.1:1")
    status = half.status()
    assert status.keys() == KEYS
    assert status["api"] == {
        "servers": ["http://127.0.0.1:1"],
        "server": None,
        "connected": False,
        "endpoint_errors": {},
        "source": None,
    }
    assert (status["listed"], status["node"], status["variant"]) == (False, "node1", None)
    assert status["last_sync"] is status["last_sync_seconds"] is status["last_sync_full"] is None
    assert (status["services"], status["pending"], status["skipped"]) == (0, 0, [])
    json.dumps(status)
    await half.close()


async def test_the_status_of_a_half_that_balances(machine: Machine, server: AgedKube) -> None:
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        status = half.status()
        assert status.keys() == KEYS
        assert status["api"] == {
            "servers": [server.url],
            "server": server.url,
            "connected": True,
            "endpoint_errors": {},
            "source": "EndpointSlice v1",
        }
        assert (status["services"], status["endpoints"], status["frontends"]) == (1, 2, 1)
        assert status["listed"]
        ours = [rule for rule in machine.rules().splitlines() if rule.startswith("-A KUBE-")]
        assert status["rules"] == len(ours)
        assert status["chains"] == machine.fake.table("nat").text("nat").count("\n:KUBE-")
        assert status["variant"] == "nft"
        assert status["pending"] == 0
        assert status["last_sync"] > 0
        assert status["last_sync_seconds"] >= 0
        assert status["last_sync_full"] in (True, False)
        json.dumps(status)
        assert machine.problems.all() == ()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ((), "clients of node ports and external addresses, and this host"),
        (("--cluster-cidr=10.2.0.0/16",), "clients outside 10.2.0.0/16, and this host"),
        (("--masquerade-all=true", "--cluster-cidr=10.2.0.0/16"), "every client of a service"),
    ],
)
async def test_the_status_says_in_words_what_is_masqueraded(
    machine: Machine, flags: tuple[str, ...], words: str
) -> None:
    half = machine.make("--master=http://127.0.0.1:1", *flags)
    assert half.status()["masquerade"] == words
    await half.close()


async def test_what_is_missing_until_services_are_balanced(
    machine: Machine, server: AgedKube
) -> None:
    half = machine.make(f"--master={server.url}")
    assert half.missing() == "the API server has not listed endpoints and services yet"
    machine.fake.fail(RESTORE, "Permission denied (you must be root)", times=1000)
    async with running(half):
        await eventually(lambda: half.missing() == "service chains not written yet")
        await eventually(lambda: "must be root" in machine.problem("services"))
        machine.fake.faults.clear()
        await settled(half)
        assert half.missing() is None
        assert machine.problem("services") == ""


async def test_an_api_server_that_cannot_be_used_is_refused_with_the_flag(machine: Machine) -> None:
    with pytest.raises(ConfigError, match="master"):
        machine.make("--master=ftp://127.0.0.1")


# --- explain ---


async def test_an_explanation_says_when_nothing_is_known_yet(machine: Machine) -> None:
    half = machine.make("--master=http://127.0.0.1:1")
    document = half.explain("10.0.0.7:80")
    assert not document["found"]
    assert document["wrong"][-1] == (
        "nothing is known yet: the API server has not listed endpoints and services yet"
    )
    await half.close()


async def test_an_explanation_says_when_the_kernel_does_not_have_the_latest_yet(
    machine: Machine, server: AgedKube, store: ObjectStore
) -> None:
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        document = half.explain("default/web")
        assert document["found"]
        assert document["wrong"] == []
        machine.fake.fail(RESTORE, "Killed", code=137, times=1000)
        store.set(SLICES, endpoint_slice(endpoint("10.1.1.3")))
        await eventually(lambda: half.loop.last_error is not None)
        (wrong,) = half.explain("default/web")["wrong"]
        assert wrong.startswith("the latest changes are not in the kernel yet (")
        assert "Killed" in wrong
        machine.fake.faults.clear()
        await eventually(lambda: half.explain("default/web")["wrong"] == [])


async def test_a_change_that_waits_for_its_turn_is_not_in_the_kernel_yet(
    machine: Machine, server: AgedKube
) -> None:
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        half.book.put_service("default/new", web(key="default/new", cluster_ips=("10.0.0.8",)))
        half.loop.trigger()
        document = half.explain("10.0.0.8:80")
        assert document["found"]
        assert document["wrong"] == ["the latest changes are not in the kernel yet"]
        await eventually(lambda: half.explain("10.0.0.8:80")["wrong"] == [])


# --- what it does ---


async def test_when_the_api_server_is_gone_rules_stay_and_it_is_said(
    machine: Machine, server: AgedKube
) -> None:
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        before = machine.rules()
        await server.down()
        await eventually(lambda: not half.status()["api"]["connected"])
        assert server.url in half.status()["api"]["endpoint_errors"]
        assert server.url in machine.problem("api")
        assert half.missing() is None, "it still balances"
        await half.loop.step()
        assert machine.rules() == before


async def test_a_restart_changes_no_rule(machine: Machine, server: AgedKube) -> None:
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
    written, before = len(machine.fake.restored), machine.rules()
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        assert machine.rules() == before
        assert len(machine.fake.restored) == written


async def test_what_others_did_to_the_rules_is_put_right(
    machine: Machine, server: AgedKube
) -> None:
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        before = machine.rules()
        nat = machine.fake.disturb("nat")
        nat.chains = {name: [] for name in nat.policies}
        machine.iptables.watch.step()
        await eventually(lambda: machine.repairs == ["iptables"])
        await eventually(lambda: machine.rules() == before)


async def test_the_network_of_pods_comes_from_the_overlay_unless_a_flag_says_it(
    machine: Machine, server: AgedKube
) -> None:
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        assert "! -s 10.1.0.0/16" not in machine.rules()
        half.network_known(NETWORK)
        await eventually(lambda: "KUBE-PORTALS-CONTAINER ! -s 10.1.0.0/16" in machine.rules())
        assert half.status()["masquerade"] == "clients outside 10.1.0.0/16, and this host"


async def test_the_flag_for_the_network_of_pods_is_stronger_than_the_overlay(
    machine: Machine, server: AgedKube
) -> None:
    half = machine.make(f"--master={server.url}", "--cluster-cidr=10.2.0.0/16")
    async with running(half):
        await settled(half)
        half.network_known(NETWORK)
        assert half.planner.policy.cluster_cidr == "10.2.0.0/16"
        assert "KUBE-PORTALS-CONTAINER ! -s 10.2.0.0/16" in machine.rules()


async def test_new_addresses_of_the_host_have_their_flows_looked_at(
    machine: Machine, server: AgedKube, store: ObjectStore
) -> None:
    udp = {"name": "http", "protocol": "UDP", "port": 53, "nodePort": 30053}
    store.set(SERVICES, service(ports=[udp]))
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        machine.flows.add(Entry("198.51.100.9:4000", "192.0.2.8:30053", "10.1.9.9:53"))
        machine.kernel.add_address(nl.Address(2, bytes([192, 0, 2, 8]), 24, 0))
        await eventually(lambda: machine.flows.sources() == set())


# --- what it tells ---


async def test_node_ports_that_outgoing_connections_may_take_are_named(
    machine: Machine, server: AgedKube, store: ObjectStore
) -> None:
    def ports(*numbers: int) -> list[dict[str, Any]]:
        return [{"name": f"p{n}", "port": n, "nodePort": n} for n in numbers]

    store.set(SERVICES, service(type="NodePort", ports=ports(32767, 32768, 60999, 61000)))
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        text = machine.problem("node-ports")
        assert text.startswith("node ports 32768, 60999 lie between 32768 and 60999")
        assert "net.ipv4.ip_local_reserved_ports" in text
        store.set(SERVICES, service(type="NodePort", ports=ports(*range(40000, 40020))))
        await eventually(lambda: "40009 ... lie" in machine.problem("node-ports"))
        assert "40010" not in machine.problem("node-ports")
        store.set(SERVICES, service(type="NodePort", ports=ports(30061)))
        await eventually(lambda: machine.problem("node-ports") == "")


async def test_what_is_left_out_is_named_in_status_and_log_and_goes_with_its_object(
    machine: Machine, server: AgedKube, store: ObjectStore
) -> None:
    key = "skipped service default/bad"
    bad = service(ports=[{"name": f"p{n}", "port": 70000 + n} for n in range(9)])
    bad["metadata"]["name"] = "bad"
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        store.set(SERVICES, bad)
        await eventually(lambda: "70000" in machine.problem(key))
        text = machine.problem(key)
        assert text.count("use 1 to 65535") == MOST_TOLD
        assert text.endswith("; and 4 more")
        skipped = half.status()["skipped"]
        assert len(skipped) == 9
        assert all(one.keys() == {"key", "text"} for one in skipped)
        assert {one["key"] for one in skipped} == {"service default/bad"}
        store.remove(SERVICES, "default/bad")
        await eventually(lambda: machine.problem(key) == "")
        assert half.status()["skipped"] == []


async def test_a_service_that_iptables_refuses_is_named_and_the_others_are_written(
    machine: Machine, server: AgedKube, store: ObjectStore, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    odd = service(clusterIP="10.0.0.66", clusterIPs=["10.0.0.66"])
    odd["metadata"]["name"] = "odd"
    machine.fake.refused.add("10.0.0.66/32")
    store.set(SERVICES, odd)
    async with running(machine.make(f"--master={server.url}")) as half:
        await eventually(lambda: "default/web:http" in machine.rules())
        await settled(half)
        assert "default/odd" not in machine.rules()
        assert "iptables refuses" in machine.problem("skipped service default/odd")
        assert "service default/odd is left out" in caplog.text


async def test_sysctls_are_set_and_those_that_cannot_be_are_problems(
    machine: Machine,
) -> None:
    half = machine.make("--master=http://127.0.0.1:1")
    machine.write(FORWARD, "0")
    half.look_at_settings()
    assert machine.read(FORWARD) == "1"
    assert machine.problems.all() == ()
    (machine.root / FORWARD).unlink()
    half.look_at_settings()
    text = machine.problem("sysctl/net.ipv4.ip_forward")
    assert text == "is unreadable, must be 1, and cannot be set (No such file or directory)"
    machine.write(FORWARD, "1")
    half.look_at_settings()
    assert machine.problems.all() == ()
    await half.close()


async def test_the_limits_of_connection_tracking_are_those_of_the_flags(machine: Machine) -> None:
    name = "net/netfilter/nf_conntrack_tcp_timeout_close_wait"
    machine.write(name, "60")
    half = machine.make("--master=http://127.0.0.1:1", "--conntrack-tcp-timeout-close-wait=2h")
    half.look_at_settings()
    assert machine.read(name) == "7200"
    await half.close()


async def test_invalid_packets_are_dropped_unless_the_kernel_is_liberal(
    machine: Machine, server: AgedKube
) -> None:
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        assert "--ctstate INVALID -j DROP" in machine.rules()
        machine.write(LIBERAL, "1")
        half.look_at_settings()
        await eventually(lambda: "INVALID" not in machine.rules())
        machine.write(LIBERAL, "0")
        half.look_at_settings()
        await eventually(lambda: "--ctstate INVALID -j DROP" in machine.rules())
        half.look_at_settings()
        assert not half.loop.dirty


# --- the end ---


async def test_when_it_is_closed_nothing_is_left_open_and_the_rules_stay(
    machine: Machine, server: AgedKube
) -> None:
    def state() -> tuple[int, int]:
        return len(asyncio.all_tasks()), server.watches

    before = state()
    async with running(machine.make(f"--master={server.url}")) as half:
        await settled(half)
        await eventually(lambda: server.watches == 2)
    await eventually(lambda: state() == before)
    assert machine.flows.opened == machine.flows.closed
    assert "default/web:http" in machine.rules()


async def test_a_half_that_never_ran_can_be_closed_twice(machine: Machine) -> None:
    half = machine.make("--master=http://127.0.0.1:1")
    await half.close()
    await half.close()
