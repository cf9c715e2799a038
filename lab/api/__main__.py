"""``python -m lab.api``: the lab's API server, controllers and scheduler in one process."""

import argparse
import asyncio
import logging
import signal
import sys
from collections.abc import Sequence
from ipaddress import AddressValueError, IPv4Address, IPv4Network, NetmaskValueError

from hostkit import logs
from hostkit.errors import HostkitError
from hostkit.etcd.config import EtcdConfig
from hostkit.etcd.gateway import EtcdClient
from lab.api.controllers.manager import run_controllers
from lab.api.faults import Faults
from lab.api.names import endpoint_address
from lab.api.objects import StatusError
from lab.api.registry import Registry
from lab.api.server import Server

log = logging.getLogger(__name__)


def _listen(text: str) -> tuple[str, int]:
    host, _, port = text.rpartition(":")
    if not host or not port.isdecimal() or int(port) > 65535:
        raise argparse.ArgumentTypeError(f"{text!r} has to look like 127.0.0.1:8080")
    return host, int(port)


def _network(text: str) -> IPv4Network:
    try:
        network = IPv4Network(text)
    except (AddressValueError, NetmaskValueError, ValueError) as error:
        raise argparse.ArgumentTypeError(
            f"{text!r} has to look like 10.0.0.0/24: {error}"
        ) from error
    if network.prefixlen > 30:
        raise argparse.ArgumentTypeError(f"{text} is too small for services: use a /30 or larger")
    return network


def _address(text: str) -> IPv4Address:
    try:
        address = IPv4Address(text)
    except AddressValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no IPv4 address") from error
    if wrong := endpoint_address(text):
        raise argparse.ArgumentTypeError(f"{text} {wrong}: other hosts could not reach it")
    return address


def advertised(options: argparse.Namespace) -> str:
    """The endpoint of the service kubernetes; empty when other hosts cannot reach this server."""
    host = str(options.advertise_address or options.listen[0])
    return "" if endpoint_address(host) else host


def parse(argv: Sequence[str]) -> argparse.Namespace:
    """The options; exits with status 2 and a sentence when one cannot be used."""
    parser = argparse.ArgumentParser(
        prog="python -m lab.api",
        description="A small stand-in for kube-apiserver, for development and tests only.",
    )
    parser.add_argument("--etcd", required=True, metavar="URL[,URL]", help="etcd's endpoints")
    parser.add_argument(
        "--listen", type=_listen, default=("127.0.0.1", 8080), metavar="ADDRESS:PORT",
        help="where to answer, without TLS and authentication (127.0.0.1:8080)",
    )  # fmt: skip
    parser.add_argument(
        "--service-cluster-ip-range", type=_network, default="10.0.0.0/24", metavar="CIDR",
        help="the addresses of services (10.0.0.0/24)",
    )  # fmt: skip
    parser.add_argument(
        "--advertise-address", type=_address, metavar="IP",
        help="the endpoint of the service kubernetes (that of --listen, none if it is loopback)",
    )  # fmt: skip
    parser.add_argument("--faults", action="store_true", help="let POST /faults break things")
    parser.add_argument(
        "--no-controllers", action="store_true", help="answer requests only, nothing acts on them"
    )
    parser.add_argument("-v", "--verbose", action="count", default=0, help="more log lines")
    return parser.parse_args(argv)


async def serve(options: argparse.Namespace) -> int:
    """Serve until SIGTERM or SIGINT; returns the exit status."""
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    host, port = options.listen
    client = EtcdClient(EtcdConfig(tuple(options.etcd.split(","))))
    registry = Registry(client, service_range=options.service_cluster_ip_range)
    server = Server(registry, faults=Faults(registry.mirror) if options.faults else None)
    tasks: list[asyncio.Task[object]] = [asyncio.create_task(stop.wait())]
    try:
        tasks.append(asyncio.create_task(registry.start()))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        if stop.is_set():
            return 0
        await tasks.pop()
        port = await server.start(host, port)
        await registry.advertise(advertised(options), port)
        log.info("the lab's API server answers at http://%s:%d", host, port)
        if not options.no_controllers:
            tasks.append(asyncio.create_task(run_controllers(registry)))
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks[1:]:
            if task.done():
                task.result()
        return 0
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.close()
        await registry.close()
        await client.close()


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns the exit status."""
    options = parse(sys.argv[1:] if argv is None else argv)
    logs.setup(options.verbose)
    try:
        return asyncio.run(serve(options))
    except (HostkitError, StatusError, OSError) as error:
        log.error("%s", error)
        return 1


if __name__ == "__main__":
    sys.exit(main())
