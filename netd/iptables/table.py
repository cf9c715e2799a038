"""Reading and writing the tables through iptables' own programs, in the variant that is in use.

Debian ships two: ``nft`` (iptables on nf_tables) and ``legacy``. Rules written with one are not
seen by the other, so the variant that already carries other programs' rules is the one to use.

A change by anybody is noticed without starting a process: nf_tables counts its commits in a
generation number, and the legacy tables tell their number of entries and size.
"""

import contextlib
import ctypes
import logging
import os
import socket
import struct
from collections.abc import Iterable

from hostkit.command import CommandError, Runner
from netd.errors import FirewallError
from netd.iptables.chain import Wish
from netd.iptables.diff import Change, Observed, parse_save, plan

log = logging.getLogger(__name__)

VARIANTS = ("nft", "legacy")
LOCK_WAIT = 5
"""Seconds to wait for another program's hold on the xtables lock."""

_NETLINK_NETFILTER = 12
_NFT_MSG_GETGEN = (10 << 8) | 16  # NFNL_SUBSYS_NFTABLES, linux/netfilter/nf_tables.h
_NFTA_GEN_ID = 1
_IPT_SO_GET_INFO = 64  # linux/netfilter_ipv4/ip_tables.h
_IPT_GETINFO_SIZE = 84  # struct ipt_getinfo: name, hooks, entries, underflows, count, size


_libc = ctypes.CDLL(None, use_errno=True)


async def detect_variant(runner: Runner) -> str:
    """``nft`` or ``legacy``: the one with rules of known programs, else with more rules, else
    the one that the plain ``iptables`` command is.

    Raises FirewallError when there is no iptables at all.
    """
    known = ("DOCKER", "FLANNEL", "KUBE-", "CNI-", "ufw-")
    scores: dict[str, tuple[int, int]] = {}
    for variant in VARIANTS:
        with contextlib.suppress(CommandError):
            saved = (await runner.run([f"iptables-{variant}-save"])).stdout
            lines = [line for line in saved.splitlines() if line.startswith((":", "-A"))]
            hints = sum(1 for line in lines if any(f" {k}" in f" {line[1:]}" for k in known))
            scores[variant] = (hints, sum(1 for line in lines if line.startswith("-A")))
    try:
        version = (await runner.run(["iptables", "--version"])).stdout
    except CommandError as error:
        raise FirewallError(
            f"iptables cannot be used ({error}): install the iptables package, or switch off "
            "--ip-masq and --iptables-forward-rules"
        ) from error
    default = "nft" if "nf_tables" in version else "legacy"
    if not scores:
        return default
    other = "legacy" if default == "nft" else "nft"
    return other if scores.get(other, (0, 0)) > scores.get(default, (0, 0)) else default


class Generation:
    """A cheap number that changes when the rules may have changed; None when it is unknown."""

    def __init__(self, variant: str) -> None:
        self._variant = variant
        self._socket: socket.socket | None = None
        self._sequence = 0

    @property
    def is_exact(self) -> bool:
        """Whether every change of the rules changes the number."""
        return self._variant == "nft"

    def read(self, tables: Iterable[str]) -> object:
        """What identifies the present state of *tables*."""
        try:
            if self._variant == "nft":
                return self._nft()
            return tuple(self._legacy(table) for table in tables)
        except OSError:
            return None

    def close(self) -> None:
        """Close the socket."""
        if self._socket is not None:
            self._socket.close()
            self._socket = None

    def _nft(self) -> int | None:
        if self._socket is None:
            self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_NETFILTER)
            self._socket.settimeout(1.0)
            self._socket.bind((0, 0))
        self._sequence += 1
        self._socket.send(
            struct.pack("=IHHIIBBH", 20, _NFT_MSG_GETGEN, 1, self._sequence, 0, 0, 0, 0)
        )
        reply = self._socket.recv(4096)
        offset = 20
        while offset + 4 <= len(reply):
            length, kind = struct.unpack_from("=HH", reply, offset)
            if kind == _NFTA_GEN_ID and length >= 8:
                return int.from_bytes(reply[offset + 4 : offset + 8], "big")
            if length < 4:
                break
            offset += (length + 3) & ~3
        return None

    def _legacy(self, table: str) -> bytes:
        if self._socket is None:
            # getsockopt(2) on a raw socket, as iptables itself asks; it needs an input buffer,
            # which Python's socket.getsockopt does not offer.
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        buffer = ctypes.create_string_buffer(table.encode(), _IPT_GETINFO_SIZE)
        size = ctypes.c_uint(_IPT_GETINFO_SIZE)
        if _libc.getsockopt(
            self._socket.fileno(), socket.SOL_IP, _IPT_SO_GET_INFO, buffer, ctypes.byref(size)
        ):
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number))
        return bytes(buffer)


class Tables:
    """The tables of one variant. Methods raise FirewallError."""

    def __init__(self, runner: Runner, variant: str) -> None:
        self.variant = variant
        self._runner = runner
        self.restore_failures = 0

    async def save(self, table: str) -> Observed:
        """What *table* holds now."""
        try:
            done = await self._runner.run([f"iptables-{self.variant}-save", "-t", table])
        except CommandError as error:
            raise FirewallError(f"reading table {table}: {error}") from error
        return parse_save(done.stdout)

    async def restore(self, change: Change) -> None:
        """Commit *change*."""
        argv = [f"iptables-{self.variant}-restore", "--noflush", "-w", str(LOCK_WAIT)]
        try:
            await self._runner.run(argv, stdin=change.text)
        except CommandError as error:
            self.restore_failures += 1
            raise FirewallError(f"writing the tables: {error}") from error

    async def ensure(self, wishes: Iterable[Wish]) -> tuple[str, ...]:
        """Make the tables as wished; returns what had to be changed."""
        changed: list[str] = []
        for wish in wishes:
            change = plan(wish, await self.save(wish.table))
            if change is not None:
                await self.restore(change)
                changed += change.what
        return tuple(changed)
