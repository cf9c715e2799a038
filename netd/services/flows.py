"""Removing the stale UDP flows from the kernel's table.

A pass lists the UDP entries and deletes those that ``conntrack.is_stale`` names, in a thread,
because a table of a million entries takes the kernel a while. 6 microseconds for each UDP entry;
entries of other protocols are left out by the kernel (since 5.8) and cost it 0.3 microseconds.
"""

import asyncio
import errno
import logging
from collections.abc import Callable

from netd.errors import NetdError
from netd.netlink.conntrack import NETLINK_NETFILTER, Flow, delete_flow, dump_udp, read_flow
from netd.netlink.exchange import Exchange, open_exchange
from netd.netlink.socket import NetlinkError, Transport
from netd.services.conntrack import UdpView, is_stale

log = logging.getLogger(__name__)

_SHOWN = 5
"""Most flows that one log line names."""


class FlowError(NetdError):
    """Stale UDP flows could not be found or removed; clean again later."""


class FlowCleaner:
    """Removes stale flows. *connect* opens the socket, in the namespace of the caller."""

    def __init__(
        self, *, connect: Callable[[], Transport] = lambda: open_exchange(NETLINK_NETFILTER)
    ) -> None:
        self._connect = connect
        self.removed = 0
        """How many flows were removed so far."""

    async def clean(self, view: UdpView) -> int:
        """Remove the flows that are stale under *view*, after its rules are in place.

        Returns how many. *view* must not change meanwhile. Raises FlowError, also when only
        some could be removed.
        """
        if not view:
            return 0
        try:
            # Opened here: another thread may be in another network namespace.
            transport = self._connect()
        except NetlinkError as error:
            raise FlowError(_cannot("list", error)) from error
        gone, refused = await asyncio.to_thread(_clean, transport, view)
        self.removed += len(gone)
        if gone:
            names = ", ".join(map(_name, gone[:_SHOWN])) + (", ..." if gone[_SHOWN:] else "")
            log.info("removed %d UDP flows to endpoints that are gone: %s", len(gone), names)
        if refused:
            raise FlowError(f"{len(refused)} UDP flows cannot be removed: {refused[0]}")
        return len(gone)


def _clean(transport: Transport, view: UdpView) -> tuple[list[Flow], list[str]]:
    """The flows that were removed, and why others were not."""
    found: list[Flow] = []

    def take(data: bytes, at: int, end: int) -> None:
        # Only the stale ones are kept: a node may have hundreds of thousands of others.
        flow = read_flow(data, at, end)
        if flow is not None and is_stale(flow, view):
            found.append(flow)

    with Exchange(transport) as kernel:
        try:
            kernel.dump(dump_udp(), take)
        except NetlinkError as error:
            raise FlowError(_cannot("list", error)) from error
        gone, refused = [], []
        for flow in found:
            try:
                failure = kernel.change(delete_flow(flow))
            except NetlinkError as error:
                raise FlowError(_cannot("remove", error)) from error
            if failure is None:
                gone.append(flow)
            # It ended by itself, or its place was taken by another flow.
            elif failure.errno != errno.ENOENT:
                refused.append(f"{_name(flow)}: {failure.text}")
    return gone, refused


def _name(flow: Flow) -> str:
    return f"{flow.source} to {flow.address}:{flow.port} at {flow.target}"


def _cannot(what: str, error: NetlinkError) -> str:
    hint = ""
    if error.errno in (errno.EINVAL, errno.EOPNOTSUPP, errno.EPROTONOSUPPORT):
        hint = "; load the kernel module nf_conntrack_netlink"
    elif error.errno in (errno.EPERM, errno.EACCES):
        hint = "; netd needs CAP_NET_ADMIN"
    return f"cannot {what} UDP flows: {error}{hint}"
