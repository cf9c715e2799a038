"""``Engine`` in memory: ``FakeEngine`` is one agent's hold on a ``World``, which outlives it.

It fails on demand (``fail_next``, ``hang``), and its agent can be killed right before or after the
effect of any call (``kill_before``, ``kill_after``): that call and all later ones raise
AgentKilled, and ``successor`` is the next agent's engine on the same world.
"""

import asyncio
import collections
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from typing import Any

from nodeagent.docker.api import EngineEvent, EngineInfo, Entry, ExecResult, Image, LogOptions
from nodeagent.docker.labels import CONTAINER_NAME, OURS, POD_UID, seen_of
from nodeagent.errors import EngineConflict, EngineError, EngineNotFound, EngineUnavailable
from nodeagent.pods.observed import Seen
from tests.fakes.docker_world import FakeContainer, Program, World

__all__ = ["AgentKilled", "FakeContainer", "FakeEngine", "Program", "World"]


class AgentKilled(BaseException):
    """The agent was killed: nothing it does has any effect any more."""


class FakeEngine:
    """``Engine`` on a World. ``calls`` are the names of the calls made, in order."""

    def __init__(self, world: World | None = None) -> None:
        self.world = world or World()
        self.calls: list[str] = []
        self.dead = False
        self.details = EngineInfo("20.10.24", "1.41")
        self.loaded: list[bytes] = []
        self.load_brings: tuple[str, ...] = ()
        self._failures: dict[str, collections.deque[tuple[BaseException, bool]]] = {}
        self._gates: dict[str, asyncio.Event] = {}
        self._kill: tuple[int, bool] | None = None

    # --- what the test has happen ---

    def successor(self) -> "FakeEngine":
        """The engine of the next agent; this one is of no use any more."""
        self.dead = True
        return FakeEngine(self.world)

    def fail_next(
        self, call: str, error: BaseException, *, times: int = 1, done: bool = False
    ) -> None:
        """Fail the next calls; *call* is ``inspect`` or ``inspect:<id>``; *done*: after effect."""
        queue = self._failures.setdefault(call, collections.deque())
        queue.extend([(error, done)] * times)

    def hang(self, call: str) -> None:
        """Have calls (as for ``fail_next``) not answer until ``release``."""
        self._gates.setdefault(call, asyncio.Event())

    def release(self, call: str) -> None:
        """Have those that hang go on."""
        gate = self._gates.pop(call, None)
        if gate is not None:
            gate.set()

    def kill_before(self, n: int) -> None:
        """Kill the agent before the effect of its *n*-th call from now, 1 being the next."""
        self._kill = (len(self.calls) + n, False)

    def kill_after(self, n: int) -> None:
        """Kill the agent after the effect of its *n*-th call from now, before the answer."""
        self._kill = (len(self.calls) + n, True)

    async def _call(self, name: str, subject: str, effect: Callable[[], Any]) -> Any:
        """Carry out one call, with what was asked to go wrong."""
        if self.dead:
            raise AgentKilled
        self.calls.append(name)
        number = len(self.calls)
        kill, after = self._kill or (0, False)
        # Others go on between a call and its effect, and between that and its answer.
        await asyncio.sleep(0)
        for key in (name, f"{name}:{subject}"):
            while key in self._gates:
                await self._gates[key].wait()
        if self.dead or (number == kill and not after):
            self.dead = True
            raise AgentKilled
        failure = self._failure(name, subject)
        if failure is not None and not failure[1]:
            raise failure[0]
        if self.world.down:
            raise EngineUnavailable("Docker cannot be reached: Connection refused")
        self.world.history.append((name, subject))
        result = effect()
        if number == kill and after:
            self.dead = True
        await asyncio.sleep(0)
        if self.dead:
            raise AgentKilled
        if failure is not None:
            raise failure[0]
        return result

    def _failure(self, name: str, subject: str) -> tuple[BaseException, bool] | None:
        for key in (f"{name}:{subject}", name):
            if self._failures.get(key):
                return self._failures[key].popleft()
        return None

    # --- Engine ---

    async def info(self) -> EngineInfo:
        """As ``Engine.info``."""
        found: EngineInfo = await self._call("info", "", lambda: self.details)
        return found

    async def ping(self, within: float) -> None:
        """As ``Engine.ping``; *within* is over at once while the call hangs."""
        if "ping" in self._gates:
            raise EngineUnavailable(f"Docker does not answer within {within:g} s")
        await self._call("ping", "", lambda: None)

    async def containers(self, uid: str = "") -> list[Entry]:
        """As ``Engine.containers``."""

        def effect() -> list[Entry]:
            return [
                Entry(one.id, one.status, dict(one.labels), (one.name,))
                for one in self.world.containers.values()
                if one.labels.get(OURS) == "1" and (not uid or one.labels.get(POD_UID) == uid)
            ]

        found: list[Entry] = await self._call("containers", uid, effect)
        return found

    async def inspect(self, container: str) -> Seen:
        """As ``Engine.inspect``."""
        document = await self._call(
            "inspect", container, lambda: self.world.held(container).document()
        )
        return seen_of(document)

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """As ``Engine.create``."""

        made: str = await self._call("create", name, lambda: self.world.create(name, config))
        return made

    async def start(self, container: str) -> None:
        """As ``Engine.start``."""

        def effect() -> None:
            one = self.world.held(container)
            if not one.running:
                self.world.start(one)

        await self._call("start", container, effect)

    async def kill(self, container: str, signal: str) -> None:
        """As ``Engine.kill``."""

        def effect() -> None:
            if container in self.world.containers:
                self.world.signal(container, signal)

        await self._call("kill", container, effect)

    async def remove(self, container: str) -> None:
        """As ``Engine.remove``."""

        def effect() -> None:
            if container in self.world.containers:
                self.world.delete(container)

        await self._call("remove", container, effect)

    async def exec(
        self, container: str, argv: Sequence[str], *, timeout: float, limit: int = 10_240
    ) -> ExecResult:
        """As ``Engine.exec``: what ``World.commands`` has under ``<container> <argv>``, or less.

        A result, an error to raise, or what is called with the container and *argv*.
        """

        def effect() -> ExecResult:
            one = self.world.held(container)
            if not one.running:
                raise EngineConflict(f"Container {container} is not running", 409)
            name = one.labels.get(CONTAINER_NAME, "")
            result = self.world.commands.get(f"{name} {' '.join(argv)}")
            result = result or self.world.commands.get(name, ExecResult(0, b""))
            if isinstance(result, Exception):
                raise result
            if not isinstance(result, ExecResult):
                result = result(one, tuple(argv))
            return ExecResult(result.code, result.output[:limit])

        async with asyncio.timeout(timeout):
            found: ExecResult = await self._call("exec", container, effect)
        return found

    async def logs(
        self, container: str, options: LogOptions
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """As ``Engine.logs``, of whole pieces as they were written; *since* is not heeded."""
        one: FakeContainer = await self._call("logs", container, lambda: self.world.held(container))
        streams = {1: options.stdout, 2: options.stderr}
        at = 0 if options.tail is None else max(0, len(one.log) - options.tail)
        while True:
            one.grown.clear()
            while at < len(one.log):
                stream, data = one.log[at]
                at += 1
                if streams[stream]:
                    stamp = self.world.text().encode() + b" " if options.timestamps else b""
                    yield stream, stamp + data
            if not options.follow or not one.running:
                return
            await one.grown.wait()

    async def image(self, reference: str) -> Image | None:
        """As ``Engine.image``."""
        found: Image | None = await self._call(
            "image", reference, lambda: self.world.here(reference)
        )
        return found

    async def images(self) -> list[Image]:
        """As ``Engine.images``."""
        found: list[Image] = await self._call(
            "images", "", lambda: list(self.world.images.values())
        )
        return found

    async def pull(
        self, reference: str, auth: Mapping[str, str] | None, progress: Callable[[str], None]
    ) -> None:
        """As ``Engine.pull``; the password that is asked for may come with any name."""

        def effect() -> None:
            found = self.world.registry.get(reference)
            password = self.world.passwords.get(reference)
            if found is None or (password and (auth or {}).get("password") != password):
                raise EngineNotFound(
                    f"pull access denied for {reference}, repository does not exist or may "
                    "require 'docker login': denied: requested access to the resource is denied",
                    404,
                )
            progress("1 of 1 layers, 1.0 of 1.0 MB")
            self.world.images[found.id] = found

        await self._call("pull", reference, effect)

    async def remove_image(self, image: str) -> None:
        """As ``Engine.remove_image``."""

        await self._call("remove_image", image, lambda: self.world.remove_image(image))

    async def load_image(self, data: bytes) -> None:
        """As ``DockerEngine.load_image``: ``load_brings`` are the images the archive has."""

        def effect() -> None:
            self.loaded.append(data)
            for reference in self.load_brings:
                self.world.add_image(reference)

        await self._call("load_image", "", effect)

    async def stats(self, container: str) -> Mapping[str, Any]:
        """As ``Engine.stats``."""

        def effect() -> Mapping[str, Any]:
            self.world.held(container)
            return {"read": self.world.text(), "cpu_stats": {}, "memory_stats": {}}

        found: Mapping[str, Any] = await self._call("stats", container, effect)
        return found

    async def events(self) -> AsyncGenerator[EngineEvent, None]:
        """As ``Engine.events``."""
        queue: asyncio.Queue[EngineEvent | EngineError] = asyncio.Queue()
        await self._call("events", "", lambda: self.world.streams.add(queue))
        try:
            while True:
                one = await queue.get()
                if self.dead:
                    raise AgentKilled
                if isinstance(one, EngineError):
                    raise one
                yield one
        finally:
            self.world.streams.discard(queue)

    async def close(self) -> None:
        """As ``DockerEngine.close``."""
