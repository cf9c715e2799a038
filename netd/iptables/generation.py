"""Cheap signs that the rules may have changed; none of them starts a process.

nf_tables counts its commits in a generation number. The legacy tables tell their number of entries
and their size, which a rule that replaces one of its size does not change; but iptables-legacy
opens and closes the lock file ``/run/xtables.lock`` around each table that it lists or writes,
which fanotify tells.
"""

import contextlib
import ctypes
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

LOCK_FILE = Path("/run/xtables.lock")

_NETLINK_NETFILTER = 12
_NFT_MSG_GETGEN = (10 << 8) | 16  # NFNL_SUBSYS_NFTABLES, linux/netfilter/nf_tables.h
_NFTA_GEN_ID = 1
_IPT_SO_GET_INFO = 64  # linux/netfilter_ipv4/ip_tables.h
_IPT_GETINFO_SIZE = 84  # struct ipt_getinfo: name, hooks, entries, underflows, count, size

# linux/fanotify.h, fcntl.h
_FAN_CLOEXEC = 0x1
_FAN_NONBLOCK = 0x2
_FAN_MARK_ADD = 0x1
_FAN_CLOSE = 0x8 | 0x10  # after writing, after reading only
_FAN_Q_OVERFLOW = 0x4000
_AT_FDCWD = -100
_EVENT = struct.Struct("=IBBHQii")  # struct fanotify_event_metadata
_MANY = {-1, -2}

_libc = ctypes.CDLL(None, use_errno=True)


class Source(Protocol):
    """What RuleWatch asks; Generation is the real one."""

    @property
    def is_exact(self) -> bool:
        """Whether every change of the rules changes the number."""

    def read(self, tables: Iterable[str]) -> object:
        """What identifies the present state of *tables*: an int that grows by one with each
        commit, or another value; None when it is unknown."""

    def close(self) -> None:
        """Close what was opened."""


class Generation:
    """The number of one variant (``nft`` or ``legacy``)."""

    def __init__(self, variant: str) -> None:
        self._variant = variant
        self._socket: socket.socket | None = None
        self._sequence = 0

    @property
    def is_exact(self) -> bool:
        """Whether every change of the rules changes the number."""
        return self._variant == "nft"

    def read(self, tables: Iterable[str]) -> object:
        """What identifies the present state of *tables*; None when it is unknown."""
        try:
            if self._variant == "nft":
                return self._nft()
            return tuple(self._legacy(table) for table in tables)
        except OSError:
            # An answer that comes late would be taken for that to the next question.
            self.close()
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


class LockFile:
    """Tells which processes gave the xtables lock back; readers take it too.

    By fanotify(7), because inotify makes one event of two in a row and does not say whose they are.
    Raises OSError when the file cannot be watched (fanotify needs CAP_SYS_ADMIN). *is_lost* says
    that the file was deleted and could not be made again.
    """

    def __init__(self, path: Path = LOCK_FILE) -> None:
        self._path = path
        self._file = self._present_file()
        self.is_lost = False
        descriptor = _libc.fanotify_init(_FAN_CLOEXEC | _FAN_NONBLOCK, os.O_RDONLY | os.O_CLOEXEC)
        if descriptor < 0:
            raise OSError(ctypes.get_errno(), "fanotify_init")
        self._descriptor: int = descriptor
        try:
            self._mark()
        except OSError:
            os.close(self._descriptor)
            raise

    def take(self) -> frozenset[int]:
        """The processes since the last call, by their ids; 0 are those in other namespaces, and
        negative numbers stand for an unknown number of processes, two at the least."""
        found: set[int] = set()
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._descriptor, 65536):
                for offset in range(0, len(data) - _EVENT.size + 1, _EVENT.size):
                    _, _, _, _, mask, descriptor, process = _EVENT.unpack_from(data, offset)
                    if descriptor >= 0:
                        os.close(descriptor)
                    found |= _MANY if mask & _FAN_Q_OVERFLOW else {process}
        if not self.is_lost and self._file != self._present_file():
            found |= _MANY
            try:
                self._mark()
            except OSError:
                self.is_lost = True
        return frozenset(found)

    def close(self) -> None:
        """Stop watching."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    def _mark(self) -> None:
        # As iptables does (XT_LOCK_NAME): the file is made by whoever comes first.
        os.close(os.open(self._path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC, 0o600))
        if _libc.fanotify_mark(
            self._descriptor,
            _FAN_MARK_ADD,
            ctypes.c_uint64(_FAN_CLOSE),
            _AT_FDCWD,
            os.fsencode(self._path),
        ):
            raise OSError(ctypes.get_errno(), "fanotify_mark", str(self._path))
        self._file = self._present_file()

    def _present_file(self) -> tuple[int, int, int]:
        """What tells the file from another in its place, which may be given the same inode."""
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return found.st_dev, found.st_ino, found.st_ctime_ns
