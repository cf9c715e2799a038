"""Looking at a node from the host: its process, its sockets, its files, through /proc/PID/root.

A UNIX socket is found by its inode, so the host can talk to a node's daemons without entering
any namespace.
"""

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec

from hostkit import unixhttp
from lab import machine
from lab.model import ProcessRef, ServiceState

_BESIDE = Path(sys.executable).parent
DOCKER_SOCKET = "run/docker.sock"
NETD_SOCKET = "run/netd/netd.sock"
NODEAGENT_SOCKET = "run/nodeagent/nodeagent.sock"
SUBNET_FILE = "run/flannel/subnet.env"


class _Problem(msgspec.Struct):
    key: str
    text: str


class _Status(msgspec.Struct):
    not_ready: list[str] = []
    problems: list[_Problem] = []


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


async def get(
    ref: ProcessRef, path: str, target: str, timeout: float = 2.0
) -> tuple[int, bytes] | None:
    """GET *target* from the node's socket *path*; None when nobody answers in *timeout* seconds."""
    # sun_path holds 108 bytes: /proc/PID/root keeps this short whatever the node's directory is.
    try:
        return await unixhttp.get(root_of(ref) / path, target, timeout=timeout)
    except (OSError, ValueError):  # TimeoutError is an OSError
        return None


async def docker_answers(ref: ProcessRef) -> bool:
    """Whether the node's dockerd answers its ping."""
    reply = await get(ref, DOCKER_SOCKET, "/_ping")
    return reply is not None and reply[0] == 200


async def says_ready(ref: ProcessRef, path: str) -> bool | None:
    """What a daemon of the node says on /readyz at the socket *path*; None when it is silent."""
    reply = await get(ref, path, "/readyz")
    return None if reply is None else reply[0] == 200


async def complaints(ref: ProcessRef) -> str:
    """What the daemons of the node say is wrong or not done yet, each with a semicolon after it.

    A daemon that has no socket yet says nothing.
    """
    said = []
    for name, path in (("netd", NETD_SOCKET), ("nodeagent", NODEAGENT_SOCKET)):
        try:
            if not (root_of(ref) / path).exists():
                continue
        except OSError:
            # Its pid 1 is about to end.
            continue
        reply = await get(ref, path, "/status")
        try:
            status = msgspec.json.decode(reply[1] if reply else b"", type=_Status)
        except msgspec.MsgspecError:
            said.append(f"{name} does not answer; ")
            continue
        problems = (f"{one.key}: {one.text}" for one in status.problems)
        texts = dict.fromkeys((*status.not_ready, *problems))
        said += [f"{name}: {text}; " for text in texts]
    return "".join(said)


def enter_argv(ref: ProcessRef, command: Sequence[str]) -> list[str]:
    """The command line that runs *command* inside the node of pid 1 *ref*."""
    kinds = ["--mount", "--uts", "--ipc", "--net", "--pid", "--cgroup"]
    return ["nsenter", f"--target={ref.pid}", *kinds, "--", *command]


def node_environment(environment: Mapping[str, str]) -> dict[str, str]:
    """*environment* for a command inside a node, without the operator's own Docker settings.

    netd and nodeagent are found last on its PATH, where this Python has them beside it.
    """
    kept = {k: v for k, v in environment.items() if not k.startswith(("DOCKER_", "NOTIFY_"))}
    path = f"/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:{_BESIDE}"
    return {**kept, "PATH": path}
