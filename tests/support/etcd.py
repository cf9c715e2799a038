"""A real etcd cluster for tests, whose members can be killed, stopped, wiped and restarted.

Members are numbered from 0. Each one can run in a network namespace of its own; without
addresses all run on 127.0.0.1 at free ports. Everything ends with ``stop``, also when the test
process is killed.
"""

import json
import secrets
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.support.certs import Pair


@dataclass(frozen=True, slots=True)
class ServerTls:
    """TLS of the client port; with *client_auth* clients need a certificate of *ca*.

    ``client`` is what the helper's own etcdctl uses.
    """

    ca: Path
    server: Pair
    client: Pair
    client_auth: bool = True


def free_ports(count: int) -> list[int]:
    """*count* different TCP ports that are free on 127.0.0.1 now.

    They are below those that the kernel gives to connections and to whoever asks for any port, so
    that nobody has them later by chance.
    """
    held: dict[int, socket.socket] = {}
    try:
        while len(held) < count:
            port = 12_000 + secrets.randbelow(18_000)
            if port in held:
                continue
            sock = socket.socket()
            try:
                sock.bind(("127.0.0.1", port))
            except OSError:
                sock.close()
                continue
            held[port] = sock
        return list(held)
    finally:
        for sock in held.values():
            sock.close()


class EtcdCluster:
    """*members* etcd processes with data and logs in *directory*; a context manager.

    *addresses* are the members' IP addresses (client port 2379, peer port 2380 unless given);
    *namespaces* names for each the network namespace, as in /run/netns. *cluster_name* is
    part of the cluster id. *like* is a stopped cluster whose members these are (same peer
    addresses and cluster id), under client ports that its clients do not know.
    """

    def __init__(
        self,
        directory: Path,
        members: int = 3,
        *,
        addresses: Sequence[str] = (),
        namespaces: Sequence[str] = (),
        tls: ServerTls | None = None,
        cluster_name: str = "barenode-test",
        extra_args: Sequence[str] = (),
        like: "EtcdCluster | None" = None,
    ) -> None:
        self.directory = directory
        self._members = members
        self._namespaces = tuple(namespaces)
        self._tls = tls
        self._cluster_name = cluster_name
        self._extra = tuple(extra_args)
        self._processes: dict[int, subprocess.Popen[bytes]] = {}
        self._paused: set[int] = set()
        self.user = ""
        if addresses:
            clients = [f"{_host(address)}:2379" for address in addresses]
            self._peers = [f"http://{_host(address)}:2380" for address in addresses]
        else:
            ports = free_ports(2 * members)
            clients = [f"127.0.0.1:{port}" for port in ports[:members]]
            self._peers = [f"http://127.0.0.1:{port}" for port in ports[members:]]
        if like is not None:
            self._peers = like._peers
        scheme = "https" if tls else "http"
        self.endpoints = tuple(f"{scheme}://{client}" for client in clients)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def start(self) -> None:
        """Start all members and wait until each answers."""
        self.directory.mkdir(parents=True, exist_ok=True)
        try:
            for index in range(self._members):
                self.start_member(index)
            self.wait_ready()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End all members at once."""
        for index in list(self._processes):
            self.kill(index)

    def start_member(self, index: int) -> None:
        """Start a member that does not run; does not wait."""
        if index in self._processes:
            raise AssertionError(f"member {index} runs")
        name, url = f"m{index}", self.endpoints[index]
        cluster = ",".join(f"m{number}={peer}" for number, peer in enumerate(self._peers))
        argv = [
            *self._enter(index),
            *("setpriv", "--pdeathsig", "KILL", "--", "etcd", "--name", name),
            *("--data-dir", str(self.data_dir(index))),
            *("--listen-client-urls", url, "--advertise-client-urls", url),
            *("--listen-peer-urls", self._peers[index]),
            *("--initial-advertise-peer-urls", self._peers[index]),
            *("--initial-cluster", cluster, "--initial-cluster-token", self._cluster_name),
            *("--initial-cluster-state", "new", "--logger", "zap"),
        ]
        if self._tls:
            argv += ["--cert-file", str(self._tls.server.cert)]
            argv += ["--key-file", str(self._tls.server.key)]
            argv += ["--trusted-ca-file", str(self._tls.ca)]
            if self._tls.client_auth:
                argv += ["--client-cert-auth"]
        with self.log_file(index).open("ab") as log:
            self._processes[index] = subprocess.Popen(
                [*argv, *self._extra], stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )

    def kill(self, index: int) -> None:
        """kill -9 a member, running or stopped."""
        process = self._processes.pop(index)
        self._paused.discard(index)
        process.kill()
        process.wait(timeout=30)

    def pause(self, index: int) -> None:
        """SIGSTOP a member: its connections stay open and nothing answers."""
        self._processes[index].send_signal(signal.SIGSTOP)
        self._paused.add(index)

    def resume(self, index: int) -> None:
        """SIGCONT a member."""
        self._processes[index].send_signal(signal.SIGCONT)
        self._paused.discard(index)

    def wipe(self, index: int) -> None:
        """Delete the data of a member that does not run."""
        if index in self._processes:
            raise AssertionError(f"member {index} runs")
        shutil.rmtree(self.data_dir(index), ignore_errors=True)

    def data_dir(self, index: int) -> Path:
        """Where member *index* keeps its data."""
        return self.directory / f"m{index}"

    def log_file(self, index: int) -> Path:
        """Where member *index* logs."""
        return self.directory / f"m{index}.log"

    def running(self) -> tuple[int, ...]:
        """The members that run and are not stopped by ``pause``."""
        return tuple(sorted(set(self._processes) - self._paused))

    def wait_ready(self, timeout: float = 60.0) -> None:
        """Wait until every running member answers a linearizable read."""
        deadline = time.monotonic() + timeout
        for index in self.running():
            while self._run(index, ("endpoint", "health")).returncode != 0:
                if (status := self._processes[index].poll()) is not None:
                    raise AssertionError(f"etcd {index} ended ({status}): {self.log_tail(index)}")
                if time.monotonic() > deadline:
                    raise AssertionError(f"etcd {index} is not ready: {self.log_tail(index)}")

    def log_tail(self, index: int) -> str:
        """The end of member *index*'s log."""
        return self.log_file(index).read_text(errors="replace")[-1500:]

    def ctl(self, *args: str, member: int | None = None) -> str:
        """The output of ``etcdctl *args`` against *member* or the first running one."""
        index = self.running()[0] if member is None else member
        done = self._run(index, args, dial=20, wait=30)
        if done.returncode != 0:
            raise AssertionError(f"etcdctl {' '.join(args)}: {done.stderr.strip()}")
        return done.stdout

    def leader(self, timeout: float = 60.0) -> int:
        """The member that leads, once the running ones have one."""
        deadline = time.monotonic() + timeout
        while time.monotonic() < deadline:
            for index in self.running():
                done = self._run(index, ("endpoint", "status", "-w", "json"))
                if done.returncode == 0:
                    status = json.loads(done.stdout)[0]["Status"]
                    if status["leader"] == status["header"]["member_id"]:
                        return index
        raise AssertionError("no member leads")

    def revision(self) -> int:
        """The current revision."""
        out = self.ctl("get", "/", "-w", "json")
        return int(json.loads(out)["header"]["revision"])

    def compact(self, revision: int | None = None) -> int:
        """Drop the history before *revision* (default: the current one), which is returned."""
        at = revision or self.revision()
        self.ctl("compact", "--physical", str(at))
        return at

    def defrag(self, index: int) -> None:
        """Defragment a member; it does not answer meanwhile."""
        self.ctl("defrag", member=index)

    def enable_auth(self, password: str) -> None:
        """Switch authentication on, with the user root."""
        self.ctl("user", "add", f"root:{password}")
        self.ctl("user", "grant-role", "root", "root")
        self.ctl("auth", "enable")
        self.user = f"root:{password}"

    def _enter(self, index: int) -> tuple[str, ...]:
        if not self._namespaces:
            return ()
        return ("nsenter", f"--net=/run/netns/{self._namespaces[index]}")

    def _run(
        self, index: int, args: Sequence[str], *, dial: int = 1, wait: int = 5
    ) -> subprocess.CompletedProcess[str]:
        """etcdctl's end; *dial* and *wait* are its seconds for connection and command."""
        argv = [*self._enter(index), "env", "ETCDCTL_API=3", "etcdctl"]
        argv += ["--endpoints", self.endpoints[index], "--dial-timeout", f"{dial}s"]
        argv += ["--command-timeout", f"{wait}s"]
        if self._tls:
            argv += ["--cacert", str(self._tls.ca), "--cert", str(self._tls.client.cert)]
            argv += ["--key", str(self._tls.client.key)]
        if self.user:
            argv += ["--user", self.user]
        return subprocess.run(
            [*argv, *args], check=False, capture_output=True, text=True, timeout=60
        )


def _host(address: str) -> str:
    return f"[{address}]" if ":" in address else address
