"""The surroundings of a measurement of services: hosts, listeners, API servers, netd.

Everything lives in private namespaces and one temporary directory and goes when ``ground`` ends,
in whatever way. API servers are processes of their own on the far side of the hosts' bridge, so
that their processor time is not netd's.
"""

import contextlib
import itertools
import os
import select
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.memory import memory, processor_time
from bench.result import BenchError
from bench.services_connect import Address, Listeners
from bench.services_made import LISTENERS, POD_CIDR, TARGET_PORT, Event
from bench.world import Daemon, Notices
from tests.support.netns import Fabric, Namespace

API_ADDRESS = "172.29.0.254"
OTHER_TARGET: Address = ("172.29.0.203", TARGET_PORT)
"""An address that listens and is no service's endpoint."""

_FIRST_PORT = 8080
_START_DEADLINE = 60.0
# The bench may be killed; what it started must not stay. It is the bench that an interrupt at the
# terminal concerns, hence also a session of their own.
_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


class Api:
    """A ``bench.canned`` that serves *count* services; a context manager."""

    def __init__(self, space: Namespace, port: int, count: int) -> None:
        self.url = f"http://{API_ADDRESS}:{port}"
        self._process = space.start(
            [
                *_WITH_US, sys.executable, "-m", "bench.canned",
                f"--services={count}", f"--listen={API_ADDRESS}:{port}",
            ],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True,
        )  # fmt: skip

    def __enter__(self) -> "Api":
        _wait_listening(self._process, "the API server")
        return self

    def __exit__(self, *_: object) -> None:
        self._process.kill()
        self._process.communicate()

    def push(self, event: Event) -> float:
        """Send *event* to who watches; returns the monotonic time just before."""
        assert self._process.stdin is not None
        line = b"%d %b" % (event.version, event.line)
        begin = time.monotonic()
        try:
            # Not through Python's buffer: what is too much for the pipe has to wait.
            while line:
                line = line[os.write(self._process.stdin.fileno(), line) :]
        except BrokenPipeError as error:
            raise BenchError("the API server of the bench has ended") from error
        return begin


class ServiceDaemon(Daemon):
    """``netd run`` with its services half alone, against the API server at *url*."""

    def __init__(self, space: Namespace, directory: Path, url: str, variant: str) -> None:
        super().__init__(space, directory, url, "")
        self.variant = variant

    def start(self) -> None:
        """Start it; does not wait."""
        folder = self.directory
        self._notices = Notices(folder / "notify")
        settings = folder / "netd.toml"
        settings.touch()
        argv = [
            *_WITH_US, str(Path(sys.executable).with_name("netd")), "run",
            f"--config={settings}", "--overlay=off", "--services=on", "--bridge=none",
            f"--master={self._endpoint}", "--hostname-override=node-01",
            f"--cluster-cidr={POD_CIDR}", f"--iptables-variant={self.variant}",
            # The limits of connection tracking are the machine's, not the namespace's.
            "--conntrack-max-per-core=0", "--conntrack-min=0",
            f"--state-dir={folder / 'state'}", f"--run-dir={folder / 'run'}",
        ]  # fmt: skip
        # An installed netd has its bytecode; PYTHONDONTWRITEBYTECODE would measure the compiler.
        env = {"PATH": os.environ["PATH"], "NOTIFY_SOCKET": str(folder / "notify")}
        with (folder / "netd.log").open("a") as log:
            self.started = time.monotonic()
            self._process = self.ns.start(
                argv, stdout=log, stderr=log, env=env, start_new_session=True
            )

    def is_ready(self) -> bool:
        """Whether READY=1 has come, sd_notify(3). Raises BenchError when netd has ended."""
        assert self._notices is not None
        self.check()
        return self._notices.wait_ready(0.0) > 0

    def rss(self) -> float:
        """Resident memory in MiB."""
        return memory(self.pid)[0]

    def idle(self, seconds: float) -> float:
        """Percent of one processor that netd and what it runs use in the next *seconds*."""
        begin, before = time.monotonic(), processor_time(self.pid)
        time.sleep(seconds)
        return (processor_time(self.pid) - before) / (time.monotonic() - begin) * 100


class Ground:
    """A bridge with listeners and API servers on it, and hosts; use ``ground``."""

    def __init__(self, fabric: Fabric, directory: Path, listeners: Listeners) -> None:
        self._fabric = fabric
        self.listeners = listeners
        self.directory = directory
        self._hosts = itertools.count(1)
        self._ports = itertools.count(_FIRST_PORT)

    @contextlib.contextmanager
    def host(self) -> Iterator[Namespace]:
        """A host on the bridge, for the time of the context."""
        number = next(self._hosts)
        space = self._fabric.host(f"h{number}", f"172.29.0.{number % 199 + 1}/24")
        try:
            space.run(f"ip route add default via {API_ADDRESS}")
            yield space
        finally:
            space.remove()

    def api(self, count: int) -> Api:
        """An API server with *count* services."""
        return Api(self._fabric.bridge, next(self._ports), count)

    @contextlib.contextmanager
    def daemon(self, space: Namespace, api: Api, variant: str) -> Iterator[ServiceDaemon]:
        """A netd on *space*, not started; killed with the context."""
        folder = Path(tempfile.mkdtemp(prefix="netd-", dir=self.directory)) / "h"
        made = ServiceDaemon(space, folder, api.url, variant)
        try:
            yield made
        finally:
            made.kill()


@contextlib.contextmanager
def ground() -> Iterator[Ground]:
    """A Ground for the time of the context."""
    with contextlib.ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-")))
        fabric = Fabric()
        stack.callback(fabric.remove)
        fabric.bridge.run(f"ip addr add {API_ADDRESS}/24 dev br0")
        listeners = ((LISTENERS[0], TARGET_PORT), (LISTENERS[1], TARGET_PORT), OTHER_TARGET)
        target = fabric.host("target", f"{OTHER_TARGET[0]}/24")
        for address in LISTENERS:
            target.run(f"ip addr add {address}/24 dev eth0")
        yield Ground(fabric, directory, stack.enter_context(Listeners(target.path, listeners)))


def _wait_listening(process: "subprocess.Popen[str]", what: str) -> None:
    """Wait for the line that a helper prints when it listens. Raises BenchError."""
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], _START_DEADLINE)
    if not ready or process.stdout.readline() != "listening\n":
        raise BenchError(f"{what} of the bench did not start")
