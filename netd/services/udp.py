"""Who serves each UDP address and port, kept up to date from what the book says was affected.

A place that nobody serves any more stays, with no endpoints, until its flows were cleaned. Pure.
"""

from netd.services.book import Affected, Book
from netd.services.conntrack import UdpView
from netd.services.names import address_of, port_of
from netd.services.values import Frontend, Kind


class UdpPlaces:
    """Starts with nothing known; every place is affected when it is first told."""

    def __init__(self) -> None:
        self._vips: dict[tuple[str, int], frozenset[str]] = {}
        self._node_ports: dict[int, frozenset[str]] = {}
        self._ports_at: dict[str, set[int]] = {}
        self._gone: set[tuple[str, int]] = set()

    def refresh(self, book: Book, affected: Affected) -> None:
        """Look again at the places that *affected* names."""
        for key in affected.addresses:
            self._refresh_address(address_of(key), book.at_address(key))
        for key in affected.node_ports:
            protocol, port = port_of(key)
            if protocol == "udp":
                now = {one.port: _served(one) for one in book.at_node_port(key)}
                self._set("", port, now.get(port))

    def view(self, local_addresses: frozenset[str]) -> UdpView:
        """The present state, for one cleaning; not to be kept beyond the next ``refresh``."""
        return UdpView(self._vips, self._node_ports, local_addresses)

    def cleaned(self) -> None:
        """No flow of the latest view is stale any more: forget the places that nobody serves."""
        for address, port in self._gone:
            if address:
                del self._vips[address, port]
            else:
                del self._node_ports[port]
        self._gone.clear()

    def _refresh_address(self, address: str, frontends: list[Frontend]) -> None:
        now = {one.port: _served(one) for one in frontends if one.protocol == "udp"}
        for port in self._ports_at.get(address, set()) | now.keys():
            self._set(address, port, now.get(port))
        if now:
            self._ports_at[address] = set(now)
        else:
            self._ports_at.pop(address, None)

    def _set(self, address: str, port: int, served: frozenset[str] | None) -> None:
        """*served* is None where there is no frontend any more."""
        known = (address, port) in self._vips if address else port in self._node_ports
        if served is None:
            if not known:
                return
            self._gone.add((address, port))
        else:
            self._gone.discard((address, port))
        if address:
            self._vips[address, port] = served or frozenset()
        else:
            self._node_ports[port] = served or frozenset()


def _served(one: Frontend) -> frozenset[str]:
    """Every endpoint that some client may be sent to."""
    pool = one.pool
    if not one.local_only:
        return frozenset(pool.every)
    # From outside to an endpoint of this node, from pods and the host to any.
    return frozenset(pool.local if one.kind is Kind.CLUSTER else (*pool.every, *pool.local))
