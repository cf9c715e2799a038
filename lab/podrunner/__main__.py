"""``python -m lab.podrunner``: the command."""

import argparse
import asyncio
import contextlib
import signal
import sys

from hostkit import logs
from hostkit.notify import Notifier
from lab.podrunner.agent import Runner
from lab.podrunner.http import Http


async def run(master: str, docker: str, node: str, address: str) -> None:
    """Run the pods of *node* until SIGTERM; its containers stay."""
    api, engine = Http(master), Http("http://docker", socket=docker)
    runner = Runner(api, engine, node, address)
    works = asyncio.gather(runner.follow(), runner.loop.run(), runner.beat(Notifier().ready))
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, works.cancel)
    try:
        with contextlib.suppress(asyncio.CancelledError):
            await works
    finally:
        await api.close()
        await engine.close()


def main() -> int:
    """Parse the command line and run."""
    parser = argparse.ArgumentParser(prog="podrunner", description=__doc__)
    parser.add_argument("--master", required=True, metavar="URL", help="the API server")
    parser.add_argument("--node", required=True, metavar="NAME", help="this node")
    parser.add_argument("--address", required=True, metavar="IP", help="this node's address")
    parser.add_argument("--docker", default="/run/docker.sock", metavar="SOCKET")
    found = parser.parse_args()
    logs.setup()
    asyncio.run(run(found.master, found.docker, found.node, found.address))
    return 0


if __name__ == "__main__":
    sys.exit(main())
