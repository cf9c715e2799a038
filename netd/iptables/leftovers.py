"""Tables of nf_tables that iptables-nft made and that hold nothing any more.

With the first rule iptables-nft makes a table and its base chains, and leaves both when the last
rule is gone. A table whose base chains are all empty and accept does nothing, whoever made it.

Each deletion has NLM_F_NONREC: the kernel refuses it with EBUSY when somebody has put a rule, a set
or a chain there meanwhile. ``nft delete`` does not ask for that, and would take the new rule along.
"""

import errno
import os
import socket
import struct
from collections.abc import Sequence

from netd.errors import FirewallError

BUILT_IN = frozenset({"PREROUTING", "INPUT", "FORWARD", "OUTPUT", "POSTROUTING"})

# linux/netlink.h, linux/netfilter/nfnetlink.h, linux/netfilter/nf_tables.h
_NETLINK_NETFILTER = 12
_NLMSG_ERROR = 2
_REQUEST, _ACK, _NONREC = 0x1, 0x4, 0x100
_SUBSYSTEM = 10
_BATCH_BEGIN, _BATCH_END = 0x10, 0x11
_DELTABLE, _DELCHAIN = _SUBSYSTEM << 8 | 2, _SUBSYSTEM << 8 | 5
_TABLE_NAME = 1
_CHAIN_TABLE, _CHAIN_NAME = 1, 3
_WAIT = 5.0


def unused_tables(saved: str) -> dict[str, tuple[str, ...]]:
    """The tables in *saved*, the output of iptables-nft-save, that do nothing, with their
    chains: these are all built-in, accept and have no rule."""
    found: dict[str, tuple[str, ...]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:].strip()
            found[table] = ()
        elif line.startswith(":"):
            chain, policy, *_ = [*line[1:].split(), ""]
            if chain in BUILT_IN and policy == "ACCEPT" and table in found:
                found[table] += (chain,)
            else:
                found.pop(table, None)
        elif line.startswith("-A "):
            found.pop(table, None)
    return found


def drop_table(table: str, chains: Sequence[str]) -> bool:
    """Remove the IPv4 *table* with its empty base *chains*; False when it is in use after all.

    iptables-nft-save shows all chains that a table can have: one that is not there counts as
    removed. Raises FirewallError when the kernel refuses for another reason or does not answer.
    """
    for chain in chains:
        if not _delete(_DELCHAIN, _text(_CHAIN_TABLE, table) + _text(_CHAIN_NAME, chain), table):
            return False
    return _delete(_DELTABLE, _text(_TABLE_NAME, table), table)


def _delete(kind: int, what: bytes, table: str) -> bool:
    """Whether it is gone; False when it is in use."""
    try:
        refused = _commit(_message(kind, _REQUEST | _ACK | _NONREC, socket.AF_INET, what))
    except OSError as error:
        why = error.strerror or str(error)
        raise FirewallError(f"removing the empty table {table}: {why}") from error
    if refused not in {0, errno.ENOENT, errno.EBUSY}:
        why = os.strerror(refused)
        raise FirewallError(f"removing the empty table {table}: {why}")
    return refused != errno.EBUSY


def _text(kind: int, value: str) -> bytes:
    data = value.encode() + b"\0"
    padding = b"\0" * (-len(data) % 4)
    return struct.pack("=HH", 4 + len(data), kind) + data + padding


def _message(kind: int, flags: int, family: int, data: bytes = b"") -> bytes:
    # struct nlmsghdr and struct nfgenmsg; the subsystem counts in the frame of a batch only, and
    # is in network order.
    subsystem = _SUBSYSTEM if kind in {_BATCH_BEGIN, _BATCH_END} else 0
    head = struct.pack("=IHHII", 20 + len(data), kind, flags, 1, 0)
    return head + struct.pack("=BB", family, 0) + struct.pack(">H", subsystem) + data


def _commit(request: bytes) -> int:
    """Carry out *request* as a transaction of its own; the number of its error, 0 for none."""
    begin, end = (_message(kind, _REQUEST, 0) for kind in (_BATCH_BEGIN, _BATCH_END))
    kind = socket.SOCK_RAW | socket.SOCK_CLOEXEC
    with socket.socket(socket.AF_NETLINK, kind, _NETLINK_NETFILTER) as kernel:
        kernel.settimeout(_WAIT)
        kernel.bind((0, 0))
        kernel.send(begin + request + end)
        while True:
            answer = kernel.recv(65536)
            if struct.unpack_from("=H", answer, 4) == (_NLMSG_ERROR,):
                return -int(struct.unpack_from("=i", answer, 16)[0])
