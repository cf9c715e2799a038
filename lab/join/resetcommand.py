"""``barenode reset``: this host leaves its cluster and is as before ``init`` or ``join``.

nodeagent stops first, or it would register the node again; then the Node object goes, then pods,
data plane, files, and last the record, which stays when anything failed: the next try needs it.
Each step stands alone.
"""

import argparse
import asyncio
import os
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from ipaddress import IPv4Network
from pathlib import Path
from typing import TypeVar

from hostkit.command import Runner, SubprocessRunner
from hostkit.errors import HostkitError
from hostkit.kube import config as kube
from hostkit.kube.errors import NotFound
from lab.errors import LabError, PrerequisiteError, UsageError
from lab.join import cleaning, hostservices, leftovers, record
from lab.join.alone import alone
from lab.join.api import Api
from lab.join.dockerbridge import BRIDGE, RESTARTED, own_bridge
from lab.join.hostservices import DOCKER, Outcome, Report, Systemd
from lab.join.leftovers import Leftovers
from lab.join.model import RECORD_FILE, Record
from lab.master import agents
from lab.output import Output
from nodeagent.config import load_settings, node_name

# Long enough for an API server that is well, short for one that is gone with its cluster.
_API = 5.0
_DOCKER_START = 90.0
Clean = Callable[[Runner], Awaitable[list[Outcome]]]
_P = TypeVar("_P", bound=argparse.ArgumentParser)


def add_arguments(groups: "argparse._SubParsersAction[_P]", epilog: str) -> None:
    """Add the command to *groups*."""
    text = "take this host out of its cluster: pods, overlay, certificates and settings go"
    parser = groups.add_parser(
        "reset", help=text, description=text, epilog=epilog, allow_abbrev=False
    )
    parser.set_defaults(command="reset", parser=parser)
    parser.add_argument("--yes", action="store_true", help="do not ask")
    parser.add_argument(
        "--purge", action="store_true",
        help="also what is left when the package was removed before; does not ask",
    )  # fmt: skip
    parser.add_argument("--json", action="store_true", help="print a JSON document")


@dataclass(frozen=True, slots=True)
class Reset:
    """The result. *node* is "" on a host that was none."""

    node: str
    clean: bool
    steps: tuple[Outcome, ...]


async def run(args: argparse.Namespace, output: Output) -> int:
    """Run the command in *args*; returns its exit status, raises LabError."""
    if os.geteuid() != 0:
        raise PrerequisiteError("this needs root: run it with sudo")
    with alone():
        done = await _run(args, output)
    if done is None:
        return 1
    failed = [step for step in done.steps if not step.ok]
    for step in failed:
        output.error(f"{step.what}: {step.result}")
    if not failed and not args.json:
        output.line(f"{done.node or 'this host'} is reset: nothing of the cluster is left here")
    return 1 if failed else 0


async def _run(args: argparse.Namespace, output: Output) -> Reset | None:
    """The result, None when the operator does not want it."""
    root = Path("/")
    known, damaged = _known(root / RECORD_FILE.lstrip("/"))
    found = leftovers.find(root, known)
    for line in warnings(known, found):
        output.progress("reset", line)
    if not (args.yes or args.purge) and not confirmed(sys.stdin.isatty(), input):
        output.error("nothing was done")
        return None
    pods = _pods_and_images if args.purge else cleaning.clean_pods
    done = await reset(SubprocessRunner(), output.progress, known, found, root=root, pods=pods)
    if damaged:
        output.progress("record", damaged)
    if args.json:
        output.json(done)
    return done


def warnings(known: Record | None, found: Leftovers) -> list[str]:
    """What an operator should know before it is done."""
    if known is None and not found.member:
        lines = ["this host is no member of a cluster; what netd and nodeagent left is cleaned up"]
    elif known is None:
        lines = ["this host leaves its cluster; its pods end"]
    else:
        lines = [
            f"the {known.role} {known.name} leaves the cluster at {known.server}; its pods end"
        ]
    if found.master:
        data = ", ".join(map(str, found.data))
        lines.append(f"THE CLUSTER'S DATA AND CAs ON THIS MASTER ARE DELETED FOR EVER: {data}")
    return lines


def confirmed(terminal: bool, ask: Callable[[str], str]) -> bool:
    """Whether the operator says yes; raises UsageError where nobody can be asked."""
    if not terminal:
        raise UsageError("reset asks before it begins, and there is no terminal: give --yes")
    try:
        return ask("Go on? Write yes: ").strip().lower() in {"y", "yes"}
    except EOFError:
        return False


async def reset(
    runner: Runner,
    report: Report,
    known: Record | None,
    found: Leftovers,
    *,
    root: Path = Path("/"),
    systemd: Systemd | None = None,
    pods: Clean = cleaning.clean_pods,
    network: Clean = cleaning.clean_network,
    subnet: Callable[[], IPv4Network | None] = cleaning.last_subnet,
) -> Reset:
    """Do every step; a failure is in the result.

    *pods* and *network* clean up what runs, *subnet* tells what netd had.
    """
    services = systemd or Systemd(runner)
    done: list[Outcome] = []

    def tell(*outcomes: Outcome) -> bool:
        for one in outcomes:
            report(one.what, one.result if one.ok else f"FAILED: {one.result}")
        done.extend(outcomes)
        return all(one.ok for one in outcomes)

    tell(await hostservices.stop_unit(services, hostservices.RENEWAL))
    tell(await hostservices.stop_unit(services, hostservices.NODEAGENT))
    name = known.name if known is not None else ""
    if found.member:
        name = name or _name()
        tell(await leave(name, root / agents.NODEAGENT_CONF.lstrip("/")))
    tell(await hostservices.stop_unit(services, hostservices.NETD))
    tell(*await _docker_up(services, report))
    bridge = subnet()
    tell(*await pods(runner))
    cleaned = await network(runner)
    # A bridge that a container of somebody else is on goes with Docker's restart.
    held = [one for one in cleaned if one.what == BRIDGE and not one.ok]
    gone = tell(*(one for one in cleaned if one not in held))
    docker = await own_bridge(runner, report, services, bridge, root)
    gone &= tell(docker, *(held if docker.result != RESTARTED else ()))
    if gone:
        tell(leftovers.clear_network(root))
    tell(*leftovers.clear(found))
    clean = all(one.ok for one in done)
    if clean:
        record.clear(root / RECORD_FILE.lstrip("/"))
    return Reset(name, clean, tuple(done))


async def leave(name: str, conf: Path) -> Outcome:
    """Delete the Node object *name* with the credential in *conf*.

    An API that does not let us is no failure of this host: the operator is told what to do.
    """
    elsewhere = f"'kubectl delete node {name}' elsewhere removes it from the cluster"
    try:
        async with asyncio.timeout(_API), Api(kube.load((), str(conf))) as api:
            await api.call("DELETE", f"/api/v1/nodes/{name}")
    except NotFound:
        return Outcome("node", f"the cluster has no node {name}")
    except TimeoutError:
        return Outcome("node", f"the API does not answer in {_API:g} s: {elsewhere}")
    except (HostkitError, LabError) as error:
        return Outcome("node", f"{error}: {elsewhere}")
    return Outcome("node", f"{name} is deleted from the cluster")


async def _pods_and_images(runner: Runner) -> list[Outcome]:
    return [*await cleaning.clean_pods(runner), *await cleaning.clean_images(runner)]


async def _docker_up(services: Systemd, report: Report) -> list[Outcome]:
    """Start a stopped Docker: its containers can be removed only by itself."""
    if not services.booted():
        return []
    try:
        unit = await services.unit(DOCKER)
        if not unit.there or unit.is_active:
            return []
        await services.up(DOCKER, report, timeout=_DOCKER_START)
    except LabError as error:
        return [Outcome("docker", str(error), ok=False)]
    return [Outcome("docker", "was stopped, and is started to remove its containers")]


def _name() -> str:
    try:
        return node_name(load_settings([], os.environ))
    except HostkitError:
        return os.uname().nodename.lower()


def _known(path: Path) -> tuple[Record | None, str]:
    """The record; of a damaged one what is wrong with it."""
    try:
        return record.load(path), ""
    except LabError as error:
        return None, str(error)
