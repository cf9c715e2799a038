"""Pid 1 of a node: mounts, names the host, then keeps its services running until SIGTERM.

Everything decided here is decided by ``lab.machine`` and ``lab.supervisor``; this module makes
the calls. It has one loop over one selector: a wake-up socket for signals and one datagram
socket per service for sd_notify messages. As pid 1 it also reaps every orphan of the node.

What goes wrong before the services start ends the node; the reason is in its console.log.
"""

import contextlib
import importlib.resources
import logging
import os
import selectors
import signal
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from hostkit.files import write_atomic
from hostkit.mounts import MNT_DETACH, mount, unmount
from lab import machine
from lab.errors import LabError
from lab.model import BootConfig, Service
from lab.supervisor import Kill, Start, Supervisor
from lab.syscalls import set_hostname

log = logging.getLogger("lab.node")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


def environment(boot: BootConfig, service: Service) -> dict[str, str]:
    """The whole environment of a service: nothing is inherited from who started the lab."""
    return {
        "PATH": _PATH,
        "HOME": "/root",
        "LANG": "C.UTF-8",
        "TMPDIR": "/run/tmp",
        "NODE_NAME": boot.node,
        "NOTIFY_SOCKET": f"{machine.NOTIFY_DIR}/{service.name}",
    }


def execute(steps: list[machine.Step]) -> None:
    """Make the directories and mounts of a plan."""
    for step in steps:
        if isinstance(step, machine.Directory):
            Path(step.path).mkdir(parents=True, exist_ok=True)
            Path(step.path).chmod(step.mode)
            continue
        target = Path(step.target)
        target.mkdir(parents=True, exist_ok=True)
        mount(step.source, step.target, step.fstype, step.flags, step.data)
        for link in step.links:
            (target.parent / link).symlink_to(target.name)


def delegate_v2(root: Path) -> None:
    """On cgroup v2, move to a leaf and hand all controllers to the node's other cgroups.

    The kernel refuses to enable controllers in a cgroup that has processes of its own.
    """
    controllers = root / "cgroup.controllers"
    if not controllers.exists():
        return
    leaf = root / "init"
    leaf.mkdir(exist_ok=True)
    (leaf / "cgroup.procs").write_text("0")
    wanted = " ".join(f"+{name}" for name in controllers.read_text().split())
    (root / "cgroup.subtree_control").write_text(wanted)


def prepare(boot: BootConfig) -> None:
    """Turn this process's namespaces into a host of their own."""
    hierarchies = Path("/proc/self/cgroup").read_text()
    execute(machine.mount_plan(boot.data, boot.persistent, hierarchies))
    delegate_v2(Path("/sys/fs/cgroup"))
    set_hostname(boot.node)
    for path, text in machine.identity_files(boot.node, boot.machine_id, boot.hosts).items():
        Path(path).unlink(missing_ok=True)
        Path(path).write_text(text)
    if boot.runtime_wrapper:
        script = importlib.resources.files("lab") / "assets" / "runc-lab"
        Path(machine.WRAPPER).write_bytes(script.read_bytes())
        Path(machine.WRAPPER).chmod(0o755)
    unmount(machine.DATA_IN_NODE, MNT_DETACH)
    # dockerd sets the FORWARD policy to DROP when it finds forwarding off.
    Path("/proc/sys/net/ipv4/ip_forward").write_text("1")


class Init:
    """The effects around a Supervisor."""

    def __init__(self, boot: BootConfig, clock: Callable[[], float] = time.monotonic) -> None:
        self._boot = boot
        self._supervisor = Supervisor(boot.services, clock)
        self._selector = selectors.DefaultSelector()
        self._published = b""

    def run(self) -> None:
        """Run until SIGTERM was received and all services have ended."""
        self._listen_for_signals()
        for service in self._boot.services:
            self._listen_for_notices(service.name)
        while not self._supervisor.done:
            while actions := self._supervisor.next():
                for action in actions:
                    self._perform(action)
            self._publish()
            for key, _ in self._selector.select(self._supervisor.wait()):
                key.data()
            self._reap()

    def _listen_for_signals(self) -> None:
        reader, writer = socket.socketpair()
        reader.setblocking(False)
        writer.setblocking(False)
        signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._wakeup = writer
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGCHLD):
            signal.signal(number, lambda *_: None)

        def received() -> None:
            for number in reader.recv(4096):
                if number in {signal.SIGTERM, signal.SIGINT}:
                    log.info("stopping")
                    self._supervisor.stop()

        self._selector.register(reader, selectors.EVENT_READ, received)

    def _listen_for_notices(self, service: str) -> None:
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        listener.bind(f"{machine.NOTIFY_DIR}/{service}")

        def received() -> None:
            if "READY=1" in listener.recv(65536).decode(errors="replace").splitlines():
                log.info("%s is ready", service)
                self._supervisor.ready(service)

        self._selector.register(listener, selectors.EVENT_READ, received)

    def _perform(self, action: Start | Kill) -> None:
        if isinstance(action, Kill):
            with contextlib.suppress(ProcessLookupError):
                os.kill(action.pid, action.signal)
            return
        service = action.service
        try:
            pid = self._spawn(service)
        except (OSError, LabError) as error:
            log.warning("%s cannot start: %s", service.name, error)
            self._supervisor.start_failed(service.name, str(error))
            return
        log.info("%s started as %d", service.name, pid)
        self._supervisor.started(service.name, pid)

    def _spawn(self, service: Service) -> int:
        variables = environment(self._boot, service)
        if service.environment_file:
            text = Path(service.environment_file).read_text()
            variables.update(machine.parse_environment(text))
        argv = machine.expand(service.argv, variables)
        output = f"/var/log/{service.name}.log"
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND
        return os.posix_spawnp(
            argv[0],
            argv,
            variables,
            file_actions=[
                (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                (os.POSIX_SPAWN_OPEN, 1, output, flags, 0o644),
                (os.POSIX_SPAWN_DUP2, 1, 2),
            ],
            setsid=True,
            setsigdef=[signal.SIGPIPE, signal.SIGCHLD],
        )

    def _reap(self) -> None:
        while True:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            code = os.waitstatus_to_exitcode(status)
            reason = f"exit status {code}" if code >= 0 else signal.Signals(-code).name
            if name := self._supervisor.exited(pid, reason):
                log.warning("%s ended: %s", name, reason)

    def _publish(self) -> None:
        states = msgspec.json.encode(self._supervisor.states())
        if states != self._published:
            write_atomic(Path(machine.SERVICES_FILE), states)
            self._published = states


def main() -> int:
    """Be pid 1 as described by the boot file named by the first argument."""
    logging.basicConfig(
        stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s"
    )
    boot = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=BootConfig)
    try:
        prepare(boot)
    except OSError as error:
        log.error("this node cannot be prepared: %s", error)
        return 1
    Init(boot).run()
    return 0


if __name__ == "__main__":
    sys.exit(main())
