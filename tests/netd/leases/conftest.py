"""Hosts that hold leases in one etcd in memory, each with a roster that is filled on demand."""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from random import Random

import pytest

from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.gateway import EtcdClient, KeyValue
from hostkit.problems import Problems
from netd.leases.holder import Held, LeaseHolder
from netd.leases.model import LEASE_TTL, NetworkConfig
from netd.leases.peers import Record, Roster
from netd.leases.store import LeaseStore
from tests.fakes.etcd import FakeEtcd, Store
from tests.netd.leases.strategies import CONFIG, PREFIX, mac


class Clock:
    """A clock that is set by hand, in seconds."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@dataclass
class Host:
    """One host: its holder, and what the holder has told."""

    number: int
    holder: LeaseHolder
    told: list[Held] = field(default_factory=list)
    woken: list[str] = field(default_factory=list)

    @property
    def problems(self) -> Problems:
        """This host's problems."""
        return self.holder.problems


class World:
    """One etcd, and hosts made and told of changes as a test wants."""

    def __init__(self, etcd: FakeEtcd, client: EtcdClient, clock: Clock) -> None:
        self.etcd = etcd
        self.state: Store = etcd.store
        self.client = client
        self.clock = clock
        self.hosts: list[Host] = []

    def store(self) -> LeaseStore:
        """A host's access to the records."""
        return LeaseStore(self.client, "/coreos.com/network/", LEASE_TTL)

    def host(
        self,
        number: int = 1,
        *,
        config: NetworkConfig = CONFIG,
        remembered: str = "",
        mac_is_new: bool = False,
        allow_renumber: bool = False,
        seed: int = 1,
        keepalive: float = 60.0,
        answers: str | None = None,
    ) -> Host:
        """Host *number* at 198.18.0.*number*, which knows what etcd holds now.

        *answers* is the MAC of a host that answers for every address on the network.
        """

        async def find_owner(_address: IPv4Address) -> str | None:
            return answers

        told: list[Held] = []
        woken: list[str] = []
        holder = LeaseHolder(
            self.store(),
            Roster(),
            Problems(clock=self.clock),
            public_ip=IPv4Address(f"198.18.0.{number}"),
            vtep_mac=mac(number),
            mac_is_new=mac_is_new,
            known_macs=frozenset() if mac_is_new else frozenset({mac(number)}),
            remembered=IPv4Network(remembered) if remembered else None,
            changed=told.append,
            trigger=lambda: woken.append("trigger"),
            find_owner=find_owner,
            on_link=lambda _address: True,
            allow_renumber=allow_renumber,
            clock=self.clock,
            rng=Random(seed),
            keepalive=keepalive,
        )
        holder.config = config
        made = Host(number, holder, told, woken)
        self.hosts.append(made)
        self.tell(made)
        return made

    def tell(self, host: Host) -> None:
        """Let the roster of *host* be what etcd holds, as its watch does in the end."""
        self.state.expire()
        records = [
            host.holder.store.record(
                KeyValue(key.decode(), one.value, one.created, one.modified, one.version, one.lease)
            )
            for key, one in self.state.keys.items()
            if key.startswith(PREFIX.encode())
        ]
        host.holder.roster.replace(records, self.state.revision)

    async def converge(self, host: Host) -> None:
        """One pass with a roster that is up to date before and after."""
        self.tell(host)
        await host.holder.converge()
        self.tell(host)

    def grant(self, ttl: int = LEASE_TTL) -> int:
        """An etcd lease that some other program took."""
        lease_id = 7000 + len(self.state.granted)
        self.state.call("lease/grant", {"ID": str(lease_id), "TTL": str(ttl)})
        return lease_id

    def put(self, one: Record, *, ttl: int = LEASE_TTL) -> int:
        """Write *one* as another program; with a lease unless it is a reservation."""
        lease_id = self.grant(ttl) if one.lease_id else 0
        self.state.put(one.key, one.value, lease_id)
        return lease_id

    def records(self) -> dict[str, tuple[bytes, int]]:
        """Value and etcd lease of each record, by the last part of its key."""
        return {
            key.decode().removeprefix(PREFIX): (one.value, one.lease)
            for key, one in self.state.keys.items()
            if key.startswith(PREFIX.encode())
        }

    def end(self, lease_id: int) -> None:
        """End an etcd lease with its keys."""
        self.state.call("lease/revoke", {"ID": str(lease_id)})


@pytest.fixture
def clock() -> Clock:
    return Clock()


@pytest.fixture
async def world(clock: Clock) -> AsyncIterator[World]:
    """An etcd and no hosts; what hosts are made is closed at the end."""
    async with FakeEtcd(Store(clock=clock)) as etcd:
        config = EtcdConfig((etcd.url,), call_timeout=1.0, total_timeout=2.0)
        client = EtcdClient(config)
        made = World(etcd, client, clock)
        yield made
        for host in made.hosts:
            await host.holder.close()
        await client.close()
