"""Private network namespaces: hosts on a bridge, commands in them, and code of ours in them.

Everything is named ``bnt-PID-...`` and goes when the context ends. The fabric's bridge lives in a
namespace of its own, because netfilter of the root namespace would drop frames between hosts.
"""

import asyncio
import contextlib
import ctypes
import itertools
import json
import os
import subprocess
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

_CLONE_NEWNET = 0x40000000
_numbers = itertools.count()


def eventually(
    condition: Callable[[], T], what: str, *, deadline: float = 60.0, interval: float = 0.01
) -> T:
    """Poll *condition* until it is true; its value. AssertionError after *deadline* seconds."""
    end = time.monotonic() + deadline
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > end:
            raise AssertionError(f"not within {deadline:g} s: {what}")
        time.sleep(interval)


def enter(path: Path) -> None:
    """Move the calling thread into the network namespace at *path*. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(fd, _CLONE_NEWNET) != 0:
            code = ctypes.get_errno()
            raise OSError(code, os.strerror(code), str(path))
    finally:
        os.close(fd)


class Namespace:
    """One network namespace."""

    def __init__(self, label: str) -> None:
        self.name = f"bnt-{os.getpid()}-{next(_numbers)}-{label}"
        self.path = Path("/run/netns") / self.name
        self._processes: list[subprocess.Popen[str]] = []

    def create(self) -> None:
        """Make it, with its loopback up."""
        subprocess.run(["ip", "netns", "add", self.name], check=True)
        self.run("ip link set lo up")

    def argv(self, command: str | Sequence[str]) -> list[str]:
        """The argv that runs *command* inside."""
        words = command.split() if isinstance(command, str) else list(command)
        # Not "ip netns exec": that remounts /sys.
        return ["nsenter", f"--net={self.path}", "--", *words]

    def run(self, command: str | Sequence[str], *, check: bool = True) -> str:
        """Run *command* inside; its output. AssertionError when it fails and *check* is set."""
        done = subprocess.run(self.argv(command), capture_output=True, text=True, check=False)
        if check and done.returncode != 0:
            raise AssertionError(f"{self.name}: {command}: {done.stderr or done.stdout}")
        return done.stdout

    def json(self, command: str) -> list[dict[str, Any]]:
        """What ``ip -j`` or ``bridge -j`` prints for *command*, which starts with the tool."""
        tool, rest = command.split(" ", 1)
        text = self.run(f"{tool} -j {rest}", check=False)
        # iproute2 prints an empty object for each filtered link.
        return [entry for entry in json.loads(text or "[]") if entry]

    def start(self, command: str | Sequence[str], **kwargs: Any) -> "subprocess.Popen[str]":
        """Start *command* inside; it is ended with the namespace."""
        process = subprocess.Popen(self.argv(command), text=True, **kwargs)
        self._processes.append(process)
        return process

    def remove(self) -> None:
        """End what was started here and delete the namespace."""
        for process in self._processes:
            if process.poll() is None:
                process.kill()
            process.communicate()
        subprocess.run(["ip", "netns", "del", self.name], check=False, capture_output=True)


class Inside:
    """A thread with an event loop inside a namespace; sockets opened there stay there."""

    def __init__(self, namespace: Namespace) -> None:
        self._loop = asyncio.new_event_loop()
        self._entered = threading.Event()
        self._error: OSError | None = None
        self._thread = threading.Thread(target=self._main, args=(namespace.path,), daemon=True)
        self._thread.start()
        self._entered.wait()
        if self._error is not None:
            raise self._error

    def _main(self, path: Path) -> None:
        try:
            enter(path)
        except OSError as error:
            self._error = error
            return
        finally:
            self._entered.set()
        asyncio.set_event_loop(self._loop)
        self._loop.run_forever()

    def wait(self, work: Coroutine[Any, Any, T], *, deadline: float = 60.0) -> T:
        """Run *work* there to its end."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(deadline)

    def call(self, function: Callable[..., T], *args: Any) -> T:
        """Call *function* there."""

        async def work() -> T:
            return function(*args)

        return self.wait(work())

    def close(self) -> None:
        """Cancel what runs there and end the thread."""

        async def drain() -> None:
            tasks = asyncio.all_tasks() - {asyncio.current_task()}
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        self.wait(drain())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()


class Fabric:
    """A bridge in a namespace of its own, and hosts with an ``eth0`` on it."""

    def __init__(self) -> None:
        self._spaces: list[Namespace] = []
        self.bridge = self.namespace("fabric")
        self.bridge.run("ip link add br0 type bridge")
        self.bridge.run("ip link set br0 up")
        self._ports = itertools.count()

    def namespace(self, label: str) -> Namespace:
        """A namespace without any link but its loopback."""
        space = Namespace(label)
        space.create()
        self._spaces.append(space)
        return space

    def host(self, label: str, address: str, *, mtu: int = 1500) -> Namespace:
        """A host whose ``eth0`` has *address* (with prefix length) and is up."""
        host = self.namespace(label)
        self.plug(host, address, mtu=mtu)
        return host

    def plug(self, host: Namespace, address: str, *, name: str = "eth0", mtu: int = 1500) -> None:
        """Give *host* an interface on the bridge."""
        port = f"p{next(self._ports)}"
        self.bridge.run(
            f"ip link add {port} mtu {mtu} type veth peer name {name} mtu {mtu} netns {host.name}"
        )
        self.bridge.run(f"ip link set {port} master br0 up")
        host.run(f"ip addr add {address} dev {name}")
        host.run(f"ip link set {name} up")

    def remove(self) -> None:
        """Delete every namespace."""
        for space in reversed(self._spaces):
            space.remove()


@contextlib.contextmanager
def fabric() -> Iterator[Fabric]:
    """A Fabric for the time of the context."""
    made = Fabric()
    try:
        yield made
    finally:
        made.remove()
