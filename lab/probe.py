"""Looking at a node from the host: its process, its sockets, its files, through /proc/PID/root.

A UNIX socket is found by its inode, so the host can talk to a node's daemons without entering
any namespace. HTTP is spoken as 1.0: one request, the reply ends with the connection.
"""

import asyncio
from collections.abc import Mapping
from pathlib import Path

import msgspec

from lab import machine
from lab.model import ProcessRef, ServiceState

DOCKER_SOCKET = "run/docker.sock"
NETD_SOCKET = "run/netd/netd.sock"
SUBNET_FILE = "run/flannel/subnet.env"


def parse_stat(stat: str) -> tuple[str, int]:
    """State letter and start time (clock ticks since boot) from /proc/PID/stat."""
    # The command name, in parentheses, may itself contain spaces and parentheses.
    fields = stat.rpartition(")")[2].split()
    return fields[0], int(fields[19])


def process_ref(pid: int) -> ProcessRef | None:
    """A lasting reference to *pid*, or None when it is gone or a zombie."""
    try:
        state, started = parse_stat(Path(f"/proc/{pid}/stat").read_text())
    except (FileNotFoundError, ProcessLookupError):
        return None
    return None if state in {"Z", "X"} else ProcessRef(pid=pid, started=started)


def alive(ref: ProcessRef | None) -> bool:
    """Whether this very process still runs."""
    return ref is not None and process_ref(ref.pid) == ref


def root_of(ref: ProcessRef) -> Path:
    """A node's root directory as seen from the host."""
    return Path(f"/proc/{ref.pid}/root")


def services(ref: ProcessRef) -> tuple[ServiceState, ...]:
    """What the node's pid 1 says about its services; empty before it has started them."""
    try:
        text = (root_of(ref) / machine.SERVICES_FILE.lstrip("/")).read_bytes()
        return msgspec.json.decode(text, type=tuple[ServiceState, ...])
    except (OSError, msgspec.MsgspecError):
        return ()


def subnet(ref: ProcessRef) -> Mapping[str, str]:
    """The node's subnet.env, empty when there is none."""
    try:
        return machine.parse_environment((root_of(ref) / SUBNET_FILE).read_text())
    except OSError:
        return {}


def parse_response(raw: bytes) -> tuple[int, bytes]:
    """Status and body of an HTTP/1.0 response; raises ValueError when it is none."""
    head, _, body = raw.partition(b"\r\n\r\n")
    words = head.split(b"\r\n", 1)[0].split(None, 2)
    if len(words) < 2 or not words[0].startswith(b"HTTP/"):
        raise ValueError("not an HTTP response")
    return int(words[1]), body


async def get(
    ref: ProcessRef, path: str, target: str, timeout: float = 2.0
) -> tuple[int, bytes] | None:
    """GET *target* from the node's socket *path*; None when nobody answers in *timeout* seconds."""
    # sun_path holds 108 bytes: /proc/PID/root keeps this short whatever the node's directory is.
    try:
        async with asyncio.timeout(timeout):
            reader, writer = await asyncio.open_unix_connection(str(root_of(ref) / path))
            try:
                request = f"GET {target} HTTP/1.0\r\nHost: node\r\n\r\n"
                writer.write(request.encode())
                return parse_response(await reader.read())
            finally:
                writer.close()
    except (OSError, ValueError):  # TimeoutError is an OSError
        return None


async def docker_answers(ref: ProcessRef) -> bool:
    """Whether the node's dockerd answers its ping."""
    reply = await get(ref, DOCKER_SOCKET, "/_ping")
    return reply is not None and reply[0] == 200


async def netd_ready(ref: ProcessRef) -> bool | None:
    """What the node's netd says on /readyz; None when its control socket does not answer."""
    reply = await get(ref, NETD_SOCKET, "/readyz")
    return None if reply is None else reply[0] == 200
