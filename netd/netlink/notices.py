"""Being woken when the kernel announces a change, for those who then look for themselves."""

import asyncio
from collections.abc import Callable

from netd.netlink.socket import Monitor, Transport


class Notices:
    """Calls *heard* after anything was announced to the multicast *groups*.

    What was said does not matter, nor does an overrun: whoever is woken reads the present state.
    A *transport* that is None is the kernel's.
    """

    def __init__(
        self, groups: int, heard: Callable[[], None], *, transport: Transport | None = None
    ) -> None:
        self._groups = groups
        self._heard = heard
        self._transport = transport
        self._events: Monitor | None = None

    def open(self) -> None:
        """Listen from now on, in the running loop. Raises NetlinkError."""
        self._events = events = Monitor(
            groups=self._groups, receive_buffer=1 << 20, transport=self._transport
        )
        asyncio.get_running_loop().add_reader(events.fileno(), self._take, events)

    def close(self) -> None:
        """Stop listening."""
        if self._events is not None:
            asyncio.get_running_loop().remove_reader(self._events.fileno())
            self._events.close()
            self._events = None

    def _take(self, events: Monitor) -> None:
        events.drain()
        self._heard()
