"""Which address a node has, from a network that the test makes up."""

from dataclasses import dataclass, field

import pytest

from nodeagent.node.address import ELSEWHERE, AddressError, Network, NodeAddress, node_name


@dataclass
class Host:
    """Routes by destination, names, and addresses of interfaces."""

    routes: dict[str, str] = field(default_factory=dict)
    names: dict[str, list[str]] = field(default_factory=dict)
    local: set[str] = field(default_factory=set)

    def network(self) -> Network:
        return Network(self._resolve, self._source, lambda address: address in self.local)

    async def _resolve(self, name: str) -> list[str]:
        if name not in self.names:
            raise OSError("unknown name")
        return self.names[name]

    def _source(self, target: str) -> str:
        if target not in self.routes:
            raise OSError("unreachable")
        return self.routes[target]


async def test_node_ip_wins_if_the_host_has_it() -> None:
    host = Host(local={"10.0.0.5"}, routes={ELSEWHERE: "10.0.0.9"})
    assert await NodeAddress("10.0.0.5", network=host.network()).find() == "10.0.0.5"
    with pytest.raises(AddressError, match=r"--node-ip 10\.0\.0\.6 is not on any interface"):
        await NodeAddress("10.0.0.6", network=host.network()).find()


@pytest.mark.parametrize("text", ["127.0.0.1", "0.0.0.0", "224.0.0.1", "fd00::1", "node-1"])
async def test_a_node_ip_that_others_cannot_reach_is_refused(text: str) -> None:
    with pytest.raises(AddressError, match="cannot be this node's address"):
        await NodeAddress(text, network=Host(local={text}).network()).find()


@pytest.mark.parametrize("text", ["127.0.0.1", "192.168.0.201"])
async def test_an_override_that_is_an_address_is_the_address(text: str) -> None:
    host = Host(routes={ELSEWHERE: "10.0.0.9"})
    assert await NodeAddress("", text, network=host.network()).find() == text


async def test_an_override_that_no_host_can_have_is_refused() -> None:
    with pytest.raises(AddressError, match=r"--hostname-override 0\.0\.0\.0"):
        await NodeAddress("", "0.0.0.0", network=Host().network()).find()


async def test_the_way_to_the_api_server_comes_before_the_default_route() -> None:
    host = Host(
        routes={"10.0.0.1": "10.0.0.9", ELSEWHERE: "192.168.1.9"}, names={"master": ["10.0.0.1"]}
    )
    for url in ("http://10.0.0.1:8080", "https://master:6443"):
        assert await NodeAddress("", "n", [url], network=host.network()).find() == "10.0.0.9"


async def test_an_api_server_on_this_host_says_nothing_about_the_address() -> None:
    host = Host(
        routes={"127.0.0.1": "127.0.0.1", ELSEWHERE: "192.168.1.9"},
        names={"localhost": ["127.0.0.1"]},
    )
    servers = ["http://localhost:8080"]
    assert await NodeAddress("", "", servers, network=host.network()).find() == "192.168.1.9"


async def test_without_routes_the_hosts_name_is_resolved_but_never_to_loopback() -> None:
    host = Host(names={"node-1": ["127.0.1.1", "10.0.0.9"], "alone": ["127.0.1.1"]})
    assert await NodeAddress(hostname="node-1", network=host.network()).find() == "10.0.0.9"
    for name in ("alone", "unknown", ""):
        with pytest.raises(AddressError, match="set --node-ip"):
            await NodeAddress(hostname=name, network=host.network()).find()


async def test_the_kernel_is_asked_without_sending_anything() -> None:
    network = Network()
    assert network.source("127.0.0.1") == "127.0.0.1"
    assert network.is_local("127.0.0.1")
    assert not network.is_local(ELSEWHERE)
    assert "127.0.0.1" in await network.resolve("localhost")


def test_names_are_the_override_or_the_hosts_in_small_letters() -> None:
    assert node_name("", "Node-1.Example\n") == "node-1.example"
    assert node_name("192.168.0.201", "x") == "192.168.0.201"


@pytest.mark.parametrize("name", ["", "a_b", "-a", "a-", "a..b", "a b", "x" * 254, "a\n/b"])
def test_a_name_that_the_api_would_refuse_is_refused_with_its_source(name: str) -> None:
    with pytest.raises(ValueError, match="the host's name"):
        node_name("", name)
    if name.strip():
        with pytest.raises(ValueError, match="--hostname-override"):
            node_name(name, "good")
