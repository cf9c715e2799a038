"""Which tracked UDP flows lead to endpoints that are gone.

The kernel translates the packets of a flow as it did the first one, so a client that keeps
sending stays with an endpoint for ever, or with none. Such an entry has to be removed after the
rules have changed. What is stale follows from the rules and the entries alone, not from what
changed: nothing is lost when a step fails, and a flow whose endpoint stays is never touched.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from netd.netlink.conntrack import Flow


@dataclass(frozen=True, slots=True)
class UdpView:
    """The UDP frontends that the rules serve, each with its endpoints as ``address:port``.

    *vips* are keyed by address and port, *node_ports* answer at each of *local_addresses*
    except loopback. A frontend that was removed is given with no endpoints until its flows
    have gone. Where policies give several pools to one frontend it has all their endpoints.
    """

    vips: Mapping[tuple[str, int], frozenset[str]] = field(default_factory=dict)
    node_ports: Mapping[int, frozenset[str]] = field(default_factory=dict)
    local_addresses: frozenset[str] = frozenset()

    def endpoints(self, address: str, port: int) -> frozenset[str] | None:
        """Who may answer at *address* and *port*; None when that is no frontend of ours."""
        found = self.vips.get((address, port))
        if found is None and address in self.local_addresses and not address.startswith("127."):
            return self.node_ports.get(port)
        return found

    def __bool__(self) -> bool:
        """Whether there is any frontend."""
        return bool(self.vips or self.node_ports)


def is_stale(flow: Flow, view: UdpView) -> bool:
    """Whether *flow* was sent to a frontend and does not lead where its rules lead now."""
    endpoints = view.endpoints(flow.address, flow.port)
    if endpoints is None or flow.target in endpoints:
        return False
    if flow.translated:
        return True
    # In a zone of its own another program may track the same packets before our rules see them.
    return bool(endpoints) and flow.zone == 0
