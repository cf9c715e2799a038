"""What the kernel holds in its nat table, looked at without netd's help.

Model: ``mark`` is a cheap value that differs after a commit, polled every half millisecond;
``points_to`` asks the kernel for all rules in their binary form and looks for a DNAT target;
``rules`` reads iptables-save and is the judge at the end of a measurement.

The legacy tables only tell their number of entries and size, so a change has to make the table
larger or smaller to be seen by its mark.
"""

import ctypes
import os
import re
import socket
import struct
import time
from collections.abc import Callable, Collection

from bench.events import made_in
from bench.result import BenchError
from bench.services_made import Rule
from tests.support.netns import Namespace

VARIANTS = ("nft", "legacy")

RESOLUTION = 0.0005
"""Seconds between looks at the mark."""

QUIET = 1.5
"""Seconds without a commit after which the rules are compared."""

_TABLE = "nat"
_NETLINK_NETFILTER = 12
_NFNETLINK_HEADER = 20
_NFT_MSG_GETRULE = (10 << 8) | 7  # NFNL_SUBSYS_NFTABLES, linux/netfilter/nf_tables.h
_NFT_MSG_GETGEN = (10 << 8) | 16
_NFTA_RULE_TABLE = 1
_NLM_F_REQUEST, _NLM_F_DUMP = 0x1, 0x300
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_IPT_SO_GET_INFO, _IPT_SO_GET_ENTRIES = 64, 65  # linux/netfilter_ipv4/ip_tables.h
_GETINFO_SIZE, _ENTRIES_HEADER = 84, 40

_DNAT = re.compile(
    r"^-A \S+ (?:-d (?P<vip>[\d.]+)/32 )?-p (?P<protocol>\w+) .*--dport (?P<port>\d+) "
    r".*-j DNAT --to-destination (?P<endpoint>\S+)"
)

_libc = ctypes.CDLL(None, use_errno=True)


class Kernel:
    """The nat table of *variant* in *space*; a context manager."""

    def __init__(self, space: Namespace, variant: str) -> None:
        self.variant = variant
        self._space = space
        self._socket = made_in(space.path, _netfilter if variant == "nft" else _raw)

    def __enter__(self) -> "Kernel":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def mark(self) -> bytes:
        """A value that differs after a commit. Raises BenchError when the kernel has none."""
        if self.variant == "legacy":
            return self._getsockopt(_IPT_SO_GET_INFO, _TABLE.encode(), _GETINFO_SIZE)
        self._socket.send(_nfnetlink(_NFT_MSG_GETGEN, _NLM_F_REQUEST))
        reply = self._socket.recv(4096)
        if struct.unpack_from("=H", reply, 4)[0] == _NLMSG_ERROR:
            raise BenchError("the kernel does not tell the generation of its tables")
        return reply[_NFNETLINK_HEADER:]

    def wait_commit(self, before: bytes, deadline: float) -> tuple[float, bytes]:
        """Wait until the mark is not *before*; returns when, monotonic, and the new mark.

        Raises BenchError when the monotonic clock reaches *deadline*.
        """
        while True:
            now = self.mark()
            if now != before:
                return time.monotonic(), now
            if time.monotonic() > deadline:
                raise BenchError("the change did not reach the kernel")
            time.sleep(RESOLUTION)

    def settle(self, done: Callable[[], bool], deadline: float) -> float:
        """Wait until *done* and no commit for QUIET seconds; returns when the last commit was
        seen, monotonic, 0 for none.

        Raises BenchError when the monotonic clock reaches *deadline*.
        """
        last, quiet_since, before = 0.0, time.monotonic(), self.mark()
        while True:
            now = time.monotonic()
            mark = self.mark()
            if mark != before:
                last, quiet_since, before = now, now, mark
            if not done():
                quiet_since = now
            if now - quiet_since > QUIET:
                return last
            if now > deadline:
                raise BenchError("the tables did not come to rest")
            time.sleep(RESOLUTION)

    def points_to(self, address: str) -> bool:
        """Whether a rule of the nat table has *address* as its DNAT target."""
        ip = re.escape(socket.inet_aton(address))
        # Lowest and highest address of the range, struct nf_nat_range2 (union nf_inet_addr of 16
        # bytes each) or nf_nat_ipv4_range, linux/netfilter/nf_nat.h.
        return re.search(ip + rb"(?:\0{12})?" + ip, self._dump()) is not None

    def rules(self) -> set[Rule]:
        """Where packets are sent by the leaf rules, from iptables-save."""
        found = set()
        for line in self._space.run([f"iptables-{self.variant}-save", "-t", _TABLE]).splitlines():
            match = _DNAT.match(line)
            if match is not None:
                vip, protocol, port, endpoint = match.groups()
                found.add(Rule(vip or "", protocol, int(port), endpoint))
        return found

    def check(self, expected: Collection[Rule]) -> None:
        """Raise BenchError unless ``rules`` are exactly those expected."""
        found, wanted = self.rules(), set(expected)
        if found != wanted:
            missing, surplus = sorted(wanted - found), sorted(found - wanted)
            example = missing[0] if missing else surplus[0]
            raise BenchError(
                f"{len(missing)} rules missing and {len(surplus)} too many, such as {example}"
            )

    def _dump(self) -> bytes:
        return self._nft_dump() if self.variant == "nft" else self._legacy_dump()

    def _nft_dump(self) -> bytes:
        name = _TABLE.encode() + b"\0"
        attribute = struct.pack("=HH", 4 + len(name), _NFTA_RULE_TABLE) + name
        self._socket.send(_nfnetlink(_NFT_MSG_GETRULE, _NLM_F_REQUEST | _NLM_F_DUMP, attribute))
        parts = []
        while True:
            part = self._socket.recv(1 << 20)
            parts.append(part)
            if _ends_dump(part):
                return b"".join(parts)

    def _legacy_dump(self) -> bytes:
        info = self._getsockopt(_IPT_SO_GET_INFO, _TABLE.encode(), _GETINFO_SIZE)
        (size,) = struct.unpack_from("=I", info, _GETINFO_SIZE - 4)
        request = struct.pack("=32sI", _TABLE.encode(), size)
        return self._getsockopt(_IPT_SO_GET_ENTRIES, request, _ENTRIES_HEADER + size)

    def _getsockopt(self, option: int, request: bytes, size: int) -> bytes:
        buffer = ctypes.create_string_buffer(request, size)
        length = ctypes.c_uint(size)
        if _libc.getsockopt(
            self._socket.fileno(), socket.SOL_IP, option, buffer, ctypes.byref(length)
        ):
            raise BenchError(f"reading the legacy table: {os.strerror(ctypes.get_errno())}")
        return bytes(buffer)


def _netfilter() -> socket.socket:
    made = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
    made.settimeout(10.0)
    made.bind((0, 0))
    return made


def _nfnetlink(kind: int, flags: int, attributes: bytes = b"") -> bytes:
    """A message about the IPv4 tables: struct nlmsghdr, then struct nfgenmsg."""
    size = _NFNETLINK_HEADER + len(attributes)
    return struct.pack("=IHHIIBBH", size, kind, flags, 1, 0, socket.AF_INET, 0, 0) + attributes


def _raw() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)


def _ends_dump(part: bytes) -> bool:
    """Whether the last message of the dump is in *part*; raises BenchError for a refusal."""
    offset = 0
    while offset + 16 <= len(part):
        length, kind = struct.unpack_from("=IH", part, offset)
        if kind == _NLMSG_ERROR:
            raise BenchError("the kernel refused to list its rules")
        if kind == _NLMSG_DONE:
            return True
        offset += max((length + 3) & ~3, 16)
    return False
