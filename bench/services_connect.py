"""Real connections: who answers at an address, and how long connect() takes.

The kernel completes a connection without the listening process, so nobody waits for one: the
connections are taken from the queue and closed between the measurements. A process that accepts
meanwhile would be woken on one or the other processor, which moves the median by a quarter.
"""

import itertools
import random
import select
import socket
import statistics
import struct
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from bench.events import made_in
from bench.result import BenchError
from tests.support.netns import enter

VIP, OTHER = "service", "other"
"""The two things connected to: a service's address, and one that is no service."""

BURST = 50
"""Connections in a row before it is another host's turn."""

_BACKLOG = 1024
_PATIENCE = struct.pack("ll", 5, 0)  # struct timeval
_RESET = struct.pack("ii", 1, 0)  # struct linger: closing sends RST, which leaves no TIME_WAIT
_SOURCE_PORTS = range(10_000, 30_000)
"""Below the kernel's own choice, /proc/sys/net/ipv4/ip_local_port_range."""

Address = tuple[str, int]


class Listeners:
    """Sockets that listen at *addresses* in *namespace*; a context manager."""

    def __init__(self, namespace: Path, addresses: Sequence[Address]) -> None:
        self._sockets = {
            made_in(namespace, partial(_listen, address)): address[0] for address in addresses
        }
        self._ports = itertools.cycle(_SOURCE_PORTS)

    def __enter__(self) -> "Listeners":
        return self

    def __exit__(self, *_: object) -> None:
        for one in self._sockets:
            one.close()

    def drain(self) -> None:
        """Close all connections that wait to be accepted."""
        for one in self._sockets:
            while True:
                try:
                    one.accept()[0].close()
                except BlockingIOError:
                    break

    def reached(self, target: Address) -> str:
        """The address of the listener that a connection from the calling thread's namespace to
        *target* reaches; empty for none."""
        self.drain()
        # With a port that was in use a moment ago conntrack may take the connection for a late
        # packet of the old one, and send it to the endpoint of then.
        source = next(self._ports)
        try:
            _connect(target, source)
        except OSError:
            return ""
        ready, _, _ = select.select(list(self._sockets), [], [], 1.0)
        return self._sockets[ready[0]] if ready else ""

    def connect_times(
        self, hosts: Mapping[str, Path], targets: Mapping[str, Address], count: int
    ) -> dict[str, dict[str, float]]:
        """The median of *count* connect() calls in microseconds, by host and by target.

        *hosts* are namespaces. All hosts and all targets take turns, so that whatever else the
        machine does meanwhile concerns all alike. Raises BenchError when one fails.
        """
        taken: dict[str, dict[str, list[float]]] = {
            host: {target: [] for target in targets} for host in hosts
        }
        order, shuffle = list(hosts), random.Random(1).shuffle

        def work() -> None:
            for _ in range(-(-count // BURST)):
                shuffle(order)
                for host in order:
                    enter(hosts[host])
                    for _ in range(BURST):
                        for name, target in targets.items():
                            taken[host][name].append(_connect(target))
                    self.drain()

        _in_thread(work)
        return {
            host: {name: statistics.median(values) * 1e6 for name, values in of_host.items()}
            for host, of_host in taken.items()
        }


def _listen(address: Address) -> socket.socket:
    made = socket.create_server(address, backlog=_BACKLOG)
    made.setblocking(False)
    return made


def _in_thread(work: Callable[[], None]) -> None:
    """Run *work* where entering a namespace concerns nobody else."""
    failed: list[OSError] = []

    def guarded() -> None:
        try:
            work()
        except OSError as error:
            failed.append(error)

    thread = threading.Thread(target=guarded)
    thread.start()
    thread.join()
    if failed:
        raise BenchError(f"connecting failed: {failed[0]}") from failed[0]


def _connect(target: Address, source_port: int = 0) -> float:
    """Seconds that connect() took."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as one:
        # Not settimeout(), with which Python's connect() is three calls.
        one.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, _PATIENCE)
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        if source_port:
            one.bind(("", source_port))
        begin = time.perf_counter()
        one.connect(target)
        return time.perf_counter() - begin
