"""What the service half asks of the host itself: health ports, addresses, limits."""

import asyncio
import json
import logging
from collections.abc import Iterator

import pytest

from hostkit.problems import Problems
from netd.services.addresses import LocalAddresses, ephemeral_range
from netd.services.health import HealthServers
from netd.services.limits import LimitKeeper, Limits
from tests.support.netns import Fabric, Inside, Namespace, eventually

NODE, SECOND, PORT = "198.18.0.2", "10.1.0.1", 31805


@pytest.fixture
def node(fabric: Fabric) -> Namespace:
    """A host with two addresses."""
    made = fabric.host("node", f"{NODE}/24")
    fabric.plug(made, f"{SECOND}/24", name="eth1")
    return made


@pytest.fixture
def inside(node: Namespace) -> Iterator[Inside]:
    made = Inside(node)
    yield made
    made.close()


def ask(host: Namespace, address: str) -> tuple[int, dict[str, object]]:
    """Status and document at *address*; status 0 when the connection is refused."""
    url = f"http://{address}:{PORT}/healthz"
    text = host.run(["curl", "-s", "-m", "10", "-w", "\n%{http_code}", url], check=False)
    document, _, status = text.rpartition("\n")
    return int(status), json.loads(document or "{}")


def test_a_health_port_answers_at_every_address_of_the_node(
    fabric: Fabric, node: Namespace, inside: Inside
) -> None:
    balancer = fabric.host("balancer", "198.18.0.9/24")
    fabric.plug(balancer, "10.1.0.9/24", name="eth1")
    servers = inside.call(HealthServers, Problems())
    for count, status in ((2, 200), (0, 503)):
        inside.wait(servers.set({PORT: ("shop/web", count)}))
        for host, address in ((balancer, NODE), (balancer, SECOND), (node, "127.0.0.1")):
            got, document = ask(host, address)
            assert got == status
            assert document["service"] == {"namespace": "shop", "name": "web"}
            assert document["localEndpoints"] == count
    inside.wait(servers.set({}))
    assert ask(balancer, NODE) == (0, {})
    inside.wait(servers.close())


def test_a_port_that_another_program_holds_answers_once_it_is_given_up(
    node: Namespace, inside: Inside
) -> None:
    problems = Problems()
    other = node.start(f"python3 -u -m http.server {PORT}", stdout=-1, stderr=-3)
    assert other.stdout is not None
    assert "Serving" in other.stdout.readline()

    async def sleep(_seconds: float) -> None:
        await asyncio.sleep(0.02)

    servers = inside.call(lambda: HealthServers(problems, sleep=sleep))
    inside.wait(servers.set({PORT: ("shop/web", 1)}))
    (problem,) = problems.all()
    assert f"healthCheckNodePort {PORT} of service shop/web" in problem.text
    other.kill()
    eventually(lambda: ask(node, NODE)[0] == 200, "the answer")
    eventually(lambda: problems.all() == (), "no problem")
    inside.wait(servers.close())


def test_addresses_follow_the_kernels_notices(node: Namespace, inside: Inside) -> None:
    changes: list[frozenset[str]] = []
    local = inside.call(lambda: LocalAddresses(Problems(), on_change=changes.append))

    async def start() -> asyncio.Task[None]:
        return asyncio.create_task(local.run())

    task = inside.wait(start())
    before = frozenset({NODE, SECOND, "127.0.0.1"})
    eventually(lambda: local.current == before, "the addresses")
    node.run("ip addr add 203.0.113.5/32 dev lo")
    eventually(lambda: local.current == before | {"203.0.113.5"}, "the new address")
    assert local.in_ranges([]) == {NODE, SECOND, "203.0.113.5"}
    node.run("ip addr del 203.0.113.5/32 dev lo")
    node.run("ip link del eth1")
    eventually(lambda: local.current == before - {SECOND}, "what is left")
    # Deleting a device and an address may be seen in one look or in two.
    assert changes[0] == before | {"203.0.113.5"}
    eventually(lambda: changes[-1] == before - {SECOND}, "what is left told")
    task.cancel()
    inside.call(local.close)


def test_the_ephemeral_range_is_the_namespaces_own(node: Namespace, inside: Inside) -> None:
    node.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=20000 39999"])
    assert inside.call(ephemeral_range) == (20000, 39999)


def test_timeouts_are_set_and_the_hosts_table_is_left_to_the_host(
    node: Namespace, inside: Inside, caplog: pytest.LogCaptureFixture
) -> None:
    """In a network namespace of its own; the table's size is the whole machine's."""
    caplog.set_level(logging.INFO)
    node.run("iptables-nft -t nat -A POSTROUTING -s 10.250.0.0/16 -j MASQUERADE")
    problems = Problems()
    # More than any machine has.
    limits = Limits(max_per_core=1 << 28, established=4321, close_wait=1234)
    keeper = LimitKeeper(limits, problems, cores=1)
    first, second = inside.call(keeper.ensure), inside.call(keeper.ensure)
    timeouts = node.run(
        "sysctl -n net.netfilter.nf_conntrack_tcp_timeout_established"
        " net.netfilter.nf_conntrack_tcp_timeout_close_wait"
    )
    assert timeouts.split() == ["4321", "1234"]
    assert [bool(one.error) for one in first] == [True, True, False, False]
    assert [one.found for one in second] == [first[0].found, first[1].found, "4321", "1234"]
    assert problems.all() == ()
    assert sum("network namespace may set" in one.message for one in caplog.records) == 2
