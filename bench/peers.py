"""Made-up hosts, as many as one likes: their lease records and their three kernel entries.

Invariant: subnets, PublicIPs and MACs of different numbers differ, and none collides with the
hosts of the bench, which live in 172.29.0.0/24.
"""

import json
from collections.abc import Iterable
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

NETWORK = IPv4Network("10.64.0.0/10")
"""Room for 16,384 subnets of /24."""

SUBNET_MAX = IPv4Address("10.127.255.0")
# Peers fill the network from below; what netd may choose for itself lies above.
SUBNET_MIN = IPv4Address("10.112.0.0")
_PUBLIC = int(IPv4Address("172.20.0.0"))
_MOST = 8_000

CONFIG = json.dumps(
    {
        "Network": str(NETWORK),
        "SubnetLen": 24,
        "SubnetMin": str(SUBNET_MIN),
        "SubnetMax": str(SUBNET_MAX),
        "Backend": {"Type": "vxlan"},
    }
)

Entry = tuple[str, bytes]
"""A kernel entry: "route" and the destination, "neighbour" and the address, "fdb" and the MAC."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another host."""

    subnet: IPv4Network
    public_ip: IPv4Address
    mac: str

    @property
    def base(self) -> IPv4Address:
        """The address of its VXLAN device."""
        return self.subnet.network_address

    @property
    def key(self) -> str:
        """The last part of its key in etcd."""
        return str(self.subnet).replace("/", "-")

    @property
    def value(self) -> str:
        """The value of its lease record."""
        return json.dumps(
            {
                "PublicIP": str(self.public_ip),
                "PublicIPv6": None,
                "BackendType": "vxlan",
                "BackendData": {"VNI": 1, "VtepMAC": self.mac},
            }
        )

    @property
    def entries(self) -> tuple[Entry, Entry, Entry]:
        """What the kernel has to hold for it."""
        return (
            ("route", self.base.packed),
            ("neighbour", self.base.packed),
            ("fdb", bytes.fromhex(self.mac.replace(":", ""))),
        )


def peer(number: int) -> Peer:
    """Host *number*, 1 to 8,000."""
    if not 1 <= number <= _MOST:
        raise ValueError(f"peer {number}: must be 1 to {_MOST}")
    subnet = IPv4Network((int(NETWORK.network_address) + (number << 8), 24))
    mac = f"0e:be:00:00:{number >> 8:02x}:{number & 255:02x}"
    return Peer(subnet, IPv4Address(_PUBLIC + number), mac)


def peers(count: int, *, first: int = 1) -> list[Peer]:
    """*count* hosts from *first* on."""
    return [peer(number) for number in range(first, first + count)]


def entries(of: Iterable[Peer]) -> set[Entry]:
    """What the kernel has to hold for all of them."""
    return {entry for one in of for entry in one.entries}
