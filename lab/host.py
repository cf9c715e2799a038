"""What the lab needs to know about this machine: ranges in use, tools, rights."""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from typing import Any

import msgspec

from hostkit.command import CommandError, Runner
from lab.errors import LabError, PrerequisiteError

TOOLS = ("ip", "nsenter", "etcd", "etcdctl", "dockerd", "containerd", "runc", "iptables")


def parse_ranges(addresses: Sequence[Any], routes: Sequence[Any]) -> list[IPv4Network]:
    """The IPv4 ranges in ``ip -json address`` and ``ip -json route show table all``."""
    found: set[IPv4Network] = set()
    for link in addresses:
        for info in link.get("addr_info", ()):
            if info.get("family") == "inet":
                text = f"{info['local']}/{info['prefixlen']}"
                found.add(IPv4Network(text, strict=False))
    for route in routes:
        destination = route.get("dst", "default")
        if destination != "default":
            found.add(IPv4Network(destination, strict=False))
    return sorted(found)


def parse_nameservers(resolv_conf: str) -> list[IPv4Network]:
    """The name servers in resolv.conf, as ranges of one address."""
    found = []
    for line in resolv_conf.splitlines():
        words = line.split()
        if len(words) > 1 and words[0] == "nameserver" and ":" not in words[1]:
            found.append(IPv4Network(IPv4Address(words[1])))
    return found


def _resolv_conf() -> str:
    path = Path("/etc/resolv.conf")
    return path.read_text() if path.exists() else ""


async def ranges_in_use(runner: Runner) -> list[IPv4Network]:
    """Every IPv4 range that this host has an address in, a route to, or a name server at."""
    try:
        addresses = await runner.run(["ip", "-json", "-4", "address", "show"])
        routes = await runner.run(["ip", "-json", "-4", "route", "show", "table", "all"])
        found = parse_ranges(
            msgspec.json.decode(addresses.stdout or "[]"),
            msgspec.json.decode(routes.stdout or "[]"),
        )
        return found + parse_nameservers(_resolv_conf())
    except (CommandError, ValueError) as error:
        raise LabError(f"cannot read this host's addresses: {error}") from error


def require_root(uid: int) -> None:
    """Raise PrerequisiteError unless *uid* is root's."""
    if uid != 0:
        raise PrerequisiteError(
            "a lab is made of namespaces, which needs root: run this as root (sudo)"
        )


def require_tools(find: Callable[[str], str | None] = shutil.which) -> None:
    """Raise PrerequisiteError naming the commands that are missing."""
    missing = [tool for tool in TOOLS if find(tool) is None]
    if missing:
        raise PrerequisiteError(
            f"not installed: {', '.join(missing)}; 'make setup' installs what the lab needs"
        )


def daemon(name: str, environment: Mapping[str, str] = os.environ) -> str:
    """The program *name* (netd or nodeagent) to run in nodes.

    BARENODE_NETD or BARENODE_NODEAGENT, else the one beside this interpreter, else PATH's.
    Raises PrerequisiteError when there is none.
    """
    beside = Path(sys.executable).parent / name
    candidates = (environment.get(f"BARENODE_{name.upper()}"), str(beside), shutil.which(name))
    for candidate in candidates:
        if candidate and os.access(candidate, os.X_OK):
            return candidate
    raise PrerequisiteError(f"no {name} beside this Python and none on PATH: run 'make venv'")


def docker_client() -> str:
    """The docker client that belongs to the distribution's engine, else PATH's."""
    return "/usr/bin/docker" if os.access("/usr/bin/docker", os.X_OK) else "docker"
