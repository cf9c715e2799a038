"""Debian 12 hosts with real systemd, each with a disk, power and a cable, on one bridge.

::

    with fabric() as net:
        one, two = net.host("one"), net.host("two")
        net.boot(one, two)
        one.run("systemctl", "is-active", "docker")
        one.power_off()
        one.boot()

systemd-nspawn boots a host; what was running ends with its pid 1, what was written stays. A
host's disk is an overlay over one root that all share (tests.support.sysd_root), mounted in the
mount namespace of nspawn only; /var/lib/docker is a plain folder, as overlay2 wants it. Each boot
has a new network namespace: a kernel that starts has no links, routes and rules of the one before.

Nothing is left of a run: hosts end with the context and, by the kernel, with the test process;
files and namespaces that a killed run left behind are removed by the next one. Not like a real
host: the kernel and its global settings are the machine's, a power failure loses no unwritten
page, and /sys/fs/cgroup is made writable by a unit of ours.
"""

import contextlib
import ipaddress
import itertools
import os
import shlex
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TypeVar

from tests.support.netns import Namespace, eventually
from tests.support.sysd_cgroup import HostCgroups
from tests.support.sysd_disk import furnish
from tests.support.sysd_root import base_root, cache_directory
from tests.support.sysd_sweep import sweep

T = TypeVar("T")

BOOT_SECONDS = 120.0

_ENVIRONMENT = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": "/root",
    "LANG": "C.UTF-8",
    "TERM": "dumb",
    "DEBIAN_FRONTEND": "noninteractive",
}


def wait_for(
    condition: Callable[[], T], what: str, *, deadline: float = 90.0, interval: float = 0.1
) -> T:
    """Poll *condition* until it is true; its value. AssertionError after *deadline* seconds."""
    return eventually(condition, what, deadline=deadline, interval=interval)


class Fabric:
    """The bridge between hosts, with an address that is their gateway and resolver.

    *network* is an IPv4 network of its own namespace: runs beside each other may use the same.
    """

    def __init__(self, network: str = "198.18.20.0/24") -> None:
        self.network = ipaddress.IPv4Network(network)
        self._addresses = self.network.hosts()
        self.address = str(next(self._addresses))
        sweep()
        parent = cache_directory() / "hosts"
        parent.mkdir(parents=True, exist_ok=True)
        self.directory = Path(tempfile.mkdtemp(dir=parent, prefix=f"{os.getpid()}-"))
        self.space = Namespace("sysd-fabric")
        self.hosts: list[Host] = []
        try:
            self.space.create()
            self.space.run("ip link add br0 type bridge forward_delay 0")
            self.space.run(f"ip address add {self.address}/{self.network.prefixlen} dev br0")
            self.space.run("ip link set br0 up")
        except BaseException:
            self.close()
            raise

    @property
    def netns(self) -> str:
        """The name of the bridge's network namespace, for servers beside the hosts."""
        return self.space.name

    def host(self, name: str, *, shares: Mapping[Path, str] | None = None) -> "Host":
        """A host with the next address, switched off.

        *shares* are folders of this machine that the host sees, read-only, at the given paths.
        """
        host = Host(self, name, str(next(self._addresses)), shares or {})
        self.hosts.append(host)
        return host

    def boot(self, *hosts: "Host") -> None:
        """Boot *hosts* at the same time."""
        for host in hosts:
            host.switch_on()
        for host in hosts:
            host.wait_booted()

    def close(self) -> None:
        """Switch everything off and remove it."""
        with contextlib.ExitStack() as stack:
            stack.callback(shutil.rmtree, self.directory)
            stack.callback(self.space.remove)
            for host in self.hosts:
                stack.callback(host.close)


class Host:
    """One host; made by ``Fabric.host``. ``name`` is its host name, ``address`` that of eth0."""

    def __init__(self, fabric: Fabric, name: str, address: str, shares: Mapping[Path, str]) -> None:
        self.name = name
        self.address = address
        self.disk = fabric.directory / name
        self._fabric = fabric
        self._shares = dict(shares)
        self._port = f"p{len(fabric.hosts)}"
        self._boots = itertools.count(1)
        self._cgroups = HostCgroups(f"{fabric.directory.name}-{name}")
        self._space: Namespace | None = None
        self._nspawn: subprocess.Popen[bytes] | None = None
        self._leader = 0
        self._base = base_root()
        for part in ("upper", "work", "root", "docker"):
            (self.disk / part).mkdir(parents=True)
        furnish(self.disk / "upper", self._base, name, address, fabric.address)

    @property
    def console(self) -> str:
        """What this boot has written to the console."""
        file = self.disk / "console.log"
        return file.read_text(errors="replace") if file.exists() else ""

    @property
    def pid(self) -> int:
        """Its pid 1, as numbered on this machine. AssertionError when it is off."""
        assert self._nspawn is not None and self._leader, f"{self.name} is switched off"
        return self._leader

    def boot(self, *, deadline: float = BOOT_SECONDS) -> None:
        """Switch it on and wait until systemd has started everything.

        A failed unit is no failed boot. AssertionError, with console and journal, when it takes
        longer than *deadline* seconds; a unit that waits for ever, such as a netd that has no
        subnet yet, makes it so: then ``switch_on`` and wait for what shall come.
        """
        self.switch_on()
        self.wait_booted(deadline=deadline)

    def switch_on(self) -> None:
        """Start it and return when its pid 1 answers commands."""
        assert self._nspawn is None, f"{self.name} is on already"
        try:
            self._plug()
            self._cgroups.create()
            with (self.disk / "console.log").open("wb") as console:
                self._nspawn = subprocess.Popen(
                    self._argv(),
                    stdin=subprocess.DEVNULL,
                    stdout=console,
                    stderr=subprocess.STDOUT,
                    env={**os.environ, "SYSTEMD_NSPAWN_API_VFS_WRITABLE": "1"},
                )
            self._leader = wait_for(self._find_leader, f"pid 1 of {self.name}", interval=0.02)
        except BaseException as error:
            error.add_note(f"console of {self.name}:\n{self.console[-3000:]}")
            self._clear()
            raise

    def wait_booted(self, *, deadline: float = BOOT_SECONDS) -> None:
        """Wait until systemd says that it has started everything, or all but failed units."""

        def up() -> bool:
            state = self.run("systemctl", "is-system-running", check=False).stdout.strip()
            return state in {"running", "degraded"}

        try:
            wait_for(up, f"{self.name} is up", deadline=deadline, interval=0.05)
        except AssertionError as error:
            jobs = self.run("systemctl", "list-jobs", "--no-pager", check=False).stdout
            journal = self.run("journalctl", "-b", "--no-pager", "-n60", check=False).stdout
            error.add_note(f"jobs:\n{jobs}\njournal:\n{journal}\n{self.console[-3000:]}")
            raise

    def run(
        self, *argv: str, check: bool = True, stdin: str | None = None, timeout: float = 120.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command on it as root, with all output.

        AssertionError with the output when *check* is set and it fails, and when it takes longer
        than *timeout* seconds.
        """
        done = subprocess.run(
            self.argv("timeout", "--kill-after=5", str(timeout), *argv),
            input=stdin,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            env=_ENVIRONMENT,
        )
        said = f"{done.stdout}{done.stderr}"
        assert done.returncode != 124, f"{self.name}: {shlex.join(argv)}: over {timeout} s\n{said}"
        if check:
            assert done.returncode == 0, (
                f"{self.name}: {shlex.join(argv)}: status {done.returncode}\n{said}"
            )
        return done

    def argv(self, *argv: str) -> list[str]:
        """The argv that runs a command on it, for a process of the test's own."""
        # Into the cgroups of its pid 1: a command that finds itself outside of them may fail.
        join = 'for d in "$@"; do shift; [ "$d" != -- ] || break; echo $$ >"$d/cgroup.procs"; done'
        script = f'{join}; exec nsenter -t {self.pid} -m -u -i -n -p -C -- "$@"'
        return ["sh", "-c", script, "sh", *self._own_cgroups(), "--", *argv]

    def push(self, path: Path, target: str) -> None:
        """Copy a file or the content of a folder of this machine to *target*, with its modes."""
        if path.is_dir():
            command = ["tar", "-c", "--owner=0", "--group=0", "-C", str(path), "."]
            # Folders that are there, and links to folders as /lib, stay as they are.
            tar = "tar -x --keep-directory-symlink --no-overwrite-dir"
            unpack = f"mkdir -p {shlex.quote(target)} && {tar} -C {shlex.quote(target)}"
        else:
            command = ["cat", str(path)]
            mode = f"{path.stat().st_mode & 0o7777:o}"
            unpack = f"install -D -m {mode} /dev/stdin {shlex.quote(target)}"
        with subprocess.Popen(command, stdout=subprocess.PIPE) as source:
            done = subprocess.run(
                self.argv("sh", "-c", unpack), stdin=source.stdout, capture_output=True,
                check=False, env=_ENVIRONMENT,
            )  # fmt: skip
        assert done.returncode == 0 == source.returncode, f"{path}: {done.stderr.decode()}"

    def write(self, target: str, text: str, *, mode: int = 0o644) -> None:
        """Write a file on it, with the folders above."""
        self.run("install", "-D", "-m", f"{mode:o}", "/dev/stdin", target, stdin=text)

    def read(self, path: str) -> str:
        """A file of it."""
        return self.run("cat", path).stdout

    def journal(self, unit: str, *, boot: str = "0") -> str:
        """The messages of *unit* in this *boot* (-1: the one before)."""
        words = ("journalctl", f"--boot={boot}", f"--unit={unit}", "--output=cat", "--no-pager")
        return self.run(*words).stdout

    def show(self, unit: str, field: str) -> str:
        """A property of a unit, as ``systemctl show`` has it."""
        return self.run("systemctl", "show", unit, "--value", "-p", field).stdout.strip()

    def failed_units(self) -> list[str]:
        """The units that are in the state failed."""
        words = ("systemctl", "list-units", "--state=failed", "--plain", "--no-legend")
        return [line.split()[0] for line in self.run(*words).stdout.splitlines()]

    def power_off(self) -> None:
        """Power failure: no process of it does anything any more, and no packet leaves it."""
        # The kernel would end the connections of killed processes.
        self._fabric.space.run(f"ip link set {self._port} down")
        os.kill(self.pid, signal.SIGKILL)
        self._end()

    def shutdown(self, *, deadline: float = BOOT_SECONDS) -> None:
        """Shut it down in order. AssertionError when that takes longer than *deadline* seconds."""
        nspawn = self._nspawn
        assert nspawn is not None, f"{self.name} is switched off"
        self.run("systemctl", "poweroff", "--no-block")
        try:
            nspawn.wait(deadline)
        except subprocess.TimeoutExpired:
            text = f"{self.name} does not shut down within {deadline:g} s:\n{self.console[-3000:]}"
            raise AssertionError(text) from None
        self._end()

    def reboot(self) -> None:
        """Shut it down in order and boot it."""
        self.shutdown()
        self.boot()

    def close(self) -> None:
        """Switch it off, if it is on; its disk goes with the fabric."""
        if self._nspawn is not None:
            self.power_off()

    def _argv(self) -> list[str]:
        """nspawn in the host's cgroups and in a mount namespace with its disk."""
        disk = self.disk
        layers = f"lowerdir={self._base},upperdir={disk}/upper,workdir={disk}/work"
        nspawn = [
            "systemd-nspawn", "--quiet", "--boot", "--register=no", "--keep-unit",
            f"--directory={disk}/root", f"--machine={self.name}", f"--hostname={self.name}",
            f"--network-namespace-path={self._space.path if self._space else ''}",
            "--capability=all", "--system-call-filter=add_key keyctl bpf",
            "--resolv-conf=off", "--timezone=off", "--link-journal=no", "--console=read-only",
            f"--bind={disk}/docker:/var/lib/docker",
            *(f"--bind-ro={source}:{target}" for source, target in self._shares.items()),
        ]  # fmt: skip
        join = "".join(
            f"echo $$ >{shlex.quote(f'{p}/cgroup.procs')}; " for p in self._cgroups.paths
        )
        mount = f"mount -t overlay overlay -o {shlex.quote(layers)} {shlex.quote(f'{disk}/root')}"
        script = f"set -e; {join}{mount}; exec {shlex.join(nspawn)}"
        # sysfs shows the links of the network namespace in which it was mounted. What nspawn has
        # started outlives it; a PID namespace around both does not.
        return [
            "setpriv", "--pdeathsig=KILL",
            "nsenter", f"--net={self._space.path if self._space else ''}",
            "unshare", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child=KILL",
            "--mount-proc", "sh", "-c", script,
        ]  # fmt: skip

    def _plug(self) -> None:
        """A new network namespace with eth0 on the bridge."""
        self._space = space = Namespace(f"sysd-{self.name}-{next(self._boots)}")
        space.create()
        packed = ipaddress.IPv4Address(self.address).packed
        mac = "02:00:" + ":".join(f"{byte:02x}" for byte in packed)
        net = self._fabric
        net.space.run(
            f"ip link add {self._port} type veth peer name eth0 address {mac} netns {space.name}"
        )
        net.space.run(f"ip link set {self._port} master br0 up")
        space.run(f"ip address add {self.address}/{net.network.prefixlen} dev eth0")
        space.run("ip link set eth0 up")
        space.run(f"ip route add default via {net.address}")

    def _find_leader(self) -> int:
        nspawn = self._nspawn
        assert nspawn is not None
        assert nspawn.poll() is None, f"systemd-nspawn ended with status {nspawn.returncode}"
        with contextlib.suppress(OSError):
            for pid in _children(*_children(nspawn.pid)):
                if Path(f"/proc/{pid}/comm").read_text().strip() == "systemd":
                    self._leader = pid
                    answer = self.run("systemctl", "is-system-running", check=False)
                    return pid if answer.stdout.strip() not in {"", "offline"} else 0
        return 0

    def _own_cgroups(self) -> list[str]:
        found = []
        for line in Path(f"/proc/{self.pid}/cgroup").read_text().splitlines():
            path = line.split(":", 2)[2]
            for own in self._cgroups.paths:
                inside = own.parents[1] / path.lstrip("/")
                # Which of them belongs to which line shows by where the path exists and has pid 1.
                with contextlib.suppress(OSError):
                    if str(self.pid) in (inside / "cgroup.procs").read_text().split():
                        found.append(str(inside))
        return sorted(set(found))

    def _end(self) -> None:
        nspawn = self._nspawn
        if nspawn is not None:
            try:
                nspawn.wait(60)
            except subprocess.TimeoutExpired:
                nspawn.kill()
                nspawn.wait()
        self._clear()

    def _clear(self) -> None:
        nspawn, self._nspawn, self._leader = self._nspawn, None, 0
        if nspawn is not None and nspawn.poll() is None:
            # All that it has started ends with it.
            nspawn.kill()
            nspawn.wait()
        self._cgroups.remove()
        if self._space is not None:
            # The kernel takes a namespace apart later; the cable must be gone before the next.
            self._fabric.space.run(f"ip link del {self._port}", check=False)
            self._space.remove()
            self._space = None


def _children(*pids: int) -> list[int]:
    lists = (Path(f"/proc/{pid}/task/{pid}/children").read_text() for pid in pids)
    return [int(child) for text in lists for child in text.split()]


@contextlib.contextmanager
def fabric(network: str = "198.18.20.0/24") -> Iterator[Fabric]:
    """A Fabric for the time of the context."""
    made = Fabric(network)
    try:
        yield made
    finally:
        made.close()
