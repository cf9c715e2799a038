"""The overlay as one would make it by hand with iproute2: the baseline of most measurements."""

import subprocess
import time
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network

from bench.peers import Peer
from bench.result import BenchError
from tests.support.netns import Namespace


class HandMade:
    """A VXLAN device *name* in *host*, with the attributes that flannel's device has."""

    def __init__(self, host: Namespace, name: str, vni: int, public_ip: IPv4Address) -> None:
        self.host = host
        self.name = name
        host.run(
            f"ip link add {name} mtu 1450 type vxlan id {vni} local {public_ip} dev eth0 "
            "dstport 8472 nolearning"
        )
        host.run(f"ip link set {name} up")

    @property
    def mac(self) -> str:
        """The device's MAC."""
        return str(self.host.json(f"ip link show {self.name}")[0]["address"])

    def address(self, subnet: IPv4Network) -> None:
        """Give the device the address of *subnet*."""
        self.host.run(f"ip addr add {subnet.network_address}/32 dev {self.name}")

    def _neighbour(self, peer: Peer) -> str:
        return f"neigh add {peer.base} lladdr {peer.mac} nud permanent dev {self.name}"

    def _fdb(self, peer: Peer) -> str:
        return f"fdb add {peer.mac} dev {self.name} dst {peer.public_ip} self permanent"

    def _route(self, peer: Peer) -> str:
        return f"route add {peer.subnet} via {peer.base} dev {self.name} onlink"

    def add_all(self, peers: Sequence[Peer]) -> float:
        """Add all by one ``ip -batch`` and one ``bridge -batch``; returns the seconds it took."""
        ip_lines = [line(peer) for peer in peers for line in (self._neighbour, self._route)]
        bridge_lines = [self._fdb(peer) for peer in peers]
        begin = time.monotonic()
        for tool, lines in (("ip", ip_lines), ("bridge", bridge_lines)):
            done = subprocess.run(
                self.host.argv([tool, "-batch", "-"]),
                input="\n".join(lines) + "\n",
                text=True,
                capture_output=True,
                check=False,
            )
            if done.returncode != 0:
                raise BenchError(f"{tool} -batch: {done.stderr.strip()[:300]}")
        return time.monotonic() - begin

    def add_one(self, peer: Peer) -> None:
        """Add one by three commands, as one would type them; call it inside the host."""
        _execute(f"ip {self._neighbour(peer)}")
        _execute(f"bridge {self._fdb(peer)}")
        _execute(f"ip {self._route(peer)}")

    def remove_one(self, peer: Peer) -> None:
        """Remove one by three commands; call it inside the host."""
        _execute(f"ip route del {peer.subnet} dev {self.name}")
        _execute(f"bridge fdb del {peer.mac} dev {self.name} dst {peer.public_ip} self")
        _execute(f"ip neigh del {peer.base} dev {self.name}")


def _execute(command: str) -> None:
    done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BenchError(f"{command}: {done.stderr.strip()}")
