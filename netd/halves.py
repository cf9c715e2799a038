"""What the two halves of netd, overlay and services, show to the daemon around them."""

from ipaddress import IPv4Network
from typing import Any, Protocol


class Half(Protocol):
    """One half; a half that is switched off is never made, and nothing of its own is touched."""

    async def run(self) -> None:
        """Keep it up for ever."""
        ...

    def missing(self) -> str | None:
        """What has not been done yet on the way to readiness; None when all is."""
        ...

    def status(self) -> dict[str, Any]:
        """Its part of the status document."""
        ...

    async def close(self) -> None:
        """Close what was opened; what was programmed stays."""
        ...


class Services(Half, Protocol):
    """The half that balances services."""

    def network_known(self, network: IPv4Network) -> None:
        """The overlay tells the pods' network, which stands in for --cluster-cidr."""
        ...

    def explain(self, target: str) -> dict[str, Any]:
        """The path of a packet to *target*; the document is described in docs/netd.md."""
        ...
