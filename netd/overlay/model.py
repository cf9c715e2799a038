"""What the overlay is told: this host's place in it, and the other hosts'.

All values are frozen; nothing here knows the kernel or etcd. MACs are written
``aa:bb:cc:dd:ee:ff``, MTUs in bytes.
"""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

VXLAN_OVERHEAD = 50
"""Bytes that VXLAN over IPv4 adds: inner Ethernet 14, VXLAN 8, UDP 8, outer IPv4 20."""

ROUTE_PROTOCOL = 85
"""Marks our routes (rtm_protocol). Free in iproute2's rt_protos and in linux/rtnetlink.h; as it
is above RTPROT_STATIC the kernel leaves its meaning to user space."""


@dataclass(frozen=True, slots=True)
class VxlanOptions:
    """Backend ``vxlan``; *mtu* 0 means the underlay's minus VXLAN_OVERHEAD."""

    vni: int = 1
    port: int = 8472
    mtu: int = 0
    gbp: bool = False
    learning: bool = False
    direct_routing: bool = False


@dataclass(frozen=True, slots=True)
class HostGwOptions:
    """Backend ``host-gw``: plain routes, so *mtu* 0 means the underlay's."""

    mtu: int = 0


@dataclass(frozen=True, slots=True)
class LocalNode:
    """This host.

    *interface* is the underlay's name. *vtep_mac* is empty with host-gw; empty with vxlan
    means whatever the kernel gave. *local_ip* is the tunnel's source address when PublicIP is
    not on this host (one-to-one NAT); None means PublicIP.
    """

    network: IPv4Network
    subnet: IPv4Network
    public_ip: IPv4Address
    interface: str
    backend: VxlanOptions | HostGwOptions
    vtep_mac: str
    local_ip: IPv4Address | None = None

    @property
    def device(self) -> str:
        """Name of the VXLAN device, empty with host-gw."""
        return device_name(self.backend.vni) if isinstance(self.backend, VxlanOptions) else ""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another host's lease; *vtep_mac* is None when it published none.

    *revision* orders the records by age: etcd's create revision, 0 when unknown. It decides
    only which of two hosts is believed that claim one MAC.
    """

    subnet: IPv4Network
    public_ip: IPv4Address
    vtep_mac: str | None
    revision: int = 0


def device_name(vni: int) -> str:
    """The name flannel gives the device of *vni*."""
    return f"flannel.{vni}"
