"""Asking and answering between network namespaces: who answers, and whom it sees."""

import asyncio
import select
import socket
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TypeVar, cast

from tests.support.netns import Inside, Namespace

T = TypeVar("T")

TCP, UDP = "tcp", "udp"
PORTS = (8080, 8081)
"""Every server serves these by TCP and by UDP."""

SILENCE = 0.4
"""Seconds without an answer after which a packet counts as dropped."""

_KINDS = {TCP: socket.SOCK_STREAM, UDP: socket.SOCK_DGRAM}
_ETH_P_IP = 0x0800


@dataclass(frozen=True, slots=True)
class Answer:
    """*server* is who answered, *client* the address that it saw, *port* the one asked there."""

    server: str
    client: str
    port: int


class _Stream(asyncio.Protocol):
    def __init__(self, name: str) -> None:
        self._name = name

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        peer = transport.get_extra_info("peername")
        here = transport.get_extra_info("sockname")
        transport.write(f"{self._name} {peer[0]} {here[1]}".encode())
        transport.close()


class _Datagrams(asyncio.DatagramProtocol):
    def __init__(self, name: str, port: int) -> None:
        self._name, self._port = name, port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        # The transport of a selector loop is no DatagramTransport by its class.
        self._transport = cast("asyncio.DatagramTransport", transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        self._transport.sendto(f"{self._name} {addr[0]} {self._port}".encode(), addr)


class Host:
    """A namespace from which to ask, and in which to serve."""

    def __init__(self, space: Namespace, name: str, address: str) -> None:
        self.ns = space
        self.name = name
        self.address = address
        self._inside = Inside(space)
        self._closing: list[Callable[[], None]] = []

    def serve(self, ports: Iterable[int] = PORTS) -> None:
        """Answer by TCP and UDP at *ports*."""
        for port in ports:
            self._inside.wait(self._serve(port))

    async def _serve(self, port: int) -> None:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(lambda: _Stream(self.name), "0.0.0.0", port, backlog=999)
        transport, _ = await loop.create_datagram_endpoint(
            lambda: _Datagrams(self.name, port), local_addr=("0.0.0.0", port)
        )
        self._closing += [server.close, transport.close]

    def open(self, protocol: str = TCP, source: str = "") -> socket.socket:
        """A socket of this host, for any thread."""
        made = self._inside.call(socket.socket, socket.AF_INET, _KINDS[protocol])
        if source:
            made.bind((source, 0))
        return made

    def ask(
        self,
        address: str,
        port: int,
        protocol: str = TCP,
        *,
        source: str = "",
        timeout: float = 20.0,
    ) -> Answer:
        """Who answers. Raises ConnectionRefusedError, or TimeoutError."""
        with self.open(protocol, source) as made:
            made.settimeout(timeout)
            made.connect((address, port))
            return ask_again(made)

    def servers(self, address: str, port: int, protocol: str = TCP, count: int = 40) -> set[str]:
        """The names of all that answered *count* times."""
        return {self.ask(address, port, protocol).server for _ in range(count)}

    def refused(self, address: str, port: int, protocol: str = TCP) -> bool:
        """Whether there is a refusal, and not an answer or silence."""
        try:
            self.ask(address, port, protocol)
        # The latter when a datagram is refused on its way out of its own host.
        except (ConnectionRefusedError, PermissionError):
            return True
        except TimeoutError:
            pass
        return False

    def unanswered(self, address: str, port: int, protocol: str = TCP, source: str = "") -> bool:
        """Whether there is silence, and neither an answer nor a refusal."""
        try:
            self.ask(address, port, protocol, source=source, timeout=SILENCE)
        except TimeoutError:
            return True
        except ConnectionRefusedError:
            pass
        return False

    def listen_raw(self) -> socket.socket:
        """A socket that hears every IPv4 frame of eth0."""

        def make() -> socket.socket:
            made = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(_ETH_P_IP))
            made.bind(("eth0", _ETH_P_IP))
            return made

        return self._inside.call(make)

    def send_raw(self, packet: bytes, to: str) -> None:
        """Send an IPv4 packet as it is, header and all."""
        kind = (socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
        with self._inside.call(socket.socket, *kind) as made:
            made.sendto(packet, (to, 0))

    def close(self) -> None:
        """End the servers."""
        for close in self._closing:
            self._inside.call(close)
        self._inside.close()


def ask_again(connected: socket.socket) -> Answer:
    """The answer to one more datagram, or what a stream says first."""
    if connected.type == socket.SOCK_DGRAM:
        connected.send(b"?")
    server, client, port = connected.recv(200).decode().split()
    return Answer(server, client, int(port))


def said(flow: socket.socket) -> str:
    """Who answers one more datagram, "refused", or nothing; for use with ``eventually``.

    An answer may be lost while netd removes the flow's entry, and the kernel limits ICMP errors.
    """
    flow.settimeout(SILENCE)
    try:
        return ask_again(flow).server
    except ConnectionRefusedError:
        return "refused"
    except TimeoutError:
        return ""


def heard(
    listening: socket.socket, wanted: Callable[[bytes], T], deadline: float = 60.0
) -> T | None:
    """What *wanted* makes of the first frame for which it is true; None if none came in time."""
    end = time.monotonic() + deadline
    while (left := end - time.monotonic()) > 0 and select.select([listening], [], [], left)[0]:
        found = wanted(listening.recv(2000))
        if found:
            return found
    return None
