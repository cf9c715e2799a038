"""Asking a network whether somebody else has an address: RFC 5227's probe.

A probe has no sender address, so it changes nobody's ARP cache; the host that has the address
answers it. Our own kernel never answers itself.
"""

import asyncio
import contextlib
import socket
import struct
import time
from collections.abc import Callable, Collection
from ipaddress import IPv4Address

_ETH_P_ARP = 0x0806
_REQUEST, _REPLY = 1, 2
_ARP = struct.Struct("!HHBBH6s4s6s4s")
"""hardware 1, protocol 0x0800, lengths 6 and 4, operation, sender MAC, IP, target MAC, IP."""

PROBES = 3
PROBE_WAIT = 0.3
"""Seconds for an answer to each probe."""


def probe_frame(mac: bytes, address: IPv4Address) -> bytes:
    """An Ethernet frame that asks everybody for *address*."""
    head = b"\xff" * 6 + mac + struct.pack("!H", _ETH_P_ARP)
    return head + _ARP.pack(1, 0x0800, 6, 4, _REQUEST, mac, b"\0" * 4, b"\0" * 6, address.packed)


def owner_in(frame: bytes, address: IPv4Address) -> str | None:
    """The MAC that *frame* gives as the owner of *address*, None when it says nothing of it."""
    if len(frame) < 14 + _ARP.size:
        return None
    _, protocol, _, _, operation, mac, sender, _, _ = _ARP.unpack_from(frame, 14)
    if protocol != 0x0800 or operation not in {_REQUEST, _REPLY} or sender != address.packed:
        return None
    owner: bytes = mac
    return owner.hex(":")


async def find_owner(
    interface: str,
    address: IPv4Address,
    own: Collection[str] = (),
    *,
    clock: Callable[[], float] = time.monotonic,
) -> str | None:
    """The MAC of another host on *interface*'s network that has *address*; None when none answers.

    *own* are this host's MACs: with two interfaces on one network the other one answers, too.
    Raises OSError when the interface cannot be used.
    """
    loop = asyncio.get_running_loop()
    tap = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_ARP))
    with contextlib.closing(tap):
        tap.bind((interface, _ETH_P_ARP))
        tap.setblocking(False)
        mac: bytes = tap.getsockname()[4]
        if len(mac) != 6 or mac == b"\0" * 6:
            return None
        for _ in range(PROBES):
            tap.send(probe_frame(mac, address))
            end = clock() + PROBE_WAIT
            while (left := end - clock()) > 0:
                try:
                    async with asyncio.timeout(left):
                        frame = await loop.sock_recv(tap, 2048)
                except TimeoutError:
                    break
                owner = owner_in(frame, address)
                if owner is not None and owner != mac.hex(":") and owner not in own:
                    return owner
    return None
