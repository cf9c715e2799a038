"""The Docker Engine over its socket, by the SDK's low-level client in threads.

Each kind of call has a lane of threads of its own, so that what hangs or takes long holds up
nothing else: a hanging inspect no list, a pull no start, a probe's command no kill.

No connection is kept: a daemon that was restarted, or replaced by another version, is met anew
by each call. The API version is agreed upon with the first call and after a daemon refuses it.

A cancelled change waits for Docker's answer; looks, commands, pulls and streams are let go.
"""

import asyncio
import contextlib
import os
import tempfile
import threading
import time
from collections.abc import AsyncGenerator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from docker.api.client import APIClient
from docker.errors import DockerException

from hostkit.errors import cut
from hostkit.metrics import Metrics
from nodeagent.docker import answers, calls
from nodeagent.docker.api import EngineEvent, EngineInfo, Entry, ExecResult, Image, LogOptions
from nodeagent.docker.frames import PullProgress, one_line, refusal
from nodeagent.docker.labels import OURS, POD_UID, seen_of
from nodeagent.docker.references import names, parse
from nodeagent.docker.threads import Abandoned, Grip, Lane, Pump, finished, spawn
from nodeagent.docker.wire import Wire
from nodeagent.errors import EngineError, EngineNotFound, EngineUnavailable
from nodeagent.pods.observed import Seen

T = TypeVar("T")

SOCKET = "unix:///var/run/docker.sock"
WANTED = "1.41"
"""The API version that is spoken where the daemon has it: Docker 20.10's."""
LOOK, CHANGE, SILENCE = 10.0, 120.0, 300.0
"""Seconds: for an answer to a look, to a change, and between two signs of a pull."""
MOST_STREAMS = 32
"""Logs that are followed at once."""
PROGRESS = 1.0
"""Seconds between two lines of a pull's progress."""

# The kubelet's buckets for this figure: 5 ms growing by 2.5.
_BUCKETS = tuple(round(0.005 * 2.5**n, 6) for n in range(14))


def connect(base_url: str, version: str, timeout: float) -> Any:
    """The SDK's client, with nothing of the user's own Docker configuration."""
    client = _client(base_url, version, timeout)
    # The SDK keeps a pool of connections for each URL: of no use, and stale after a restart.
    client.headers.update({"Connection": "close", "Accept-Encoding": "identity"})
    client.trust_env = False
    if base_url.startswith("unix://"):
        client.request = Wire(client, base_url.removeprefix("unix://"), client.request).request
    return client


_environment = threading.Lock()


def _client(base_url: str, version: str, timeout: float) -> Any:
    with contextlib.suppress(Exception):  # whatever a broken file makes of the SDK
        return APIClient(base_url=base_url, version=version, timeout=timeout)
    # The SDK reads ~/.docker/config.json before anything else and fails with a broken one.
    with _environment, tempfile.TemporaryDirectory(prefix="nodeagent-") as folder:
        (Path(folder) / "config.json").write_text('{"auths": {}}', encoding="ascii")
        before = os.environ.get("DOCKER_CONFIG")
        os.environ["DOCKER_CONFIG"] = folder
        try:
            return APIClient(base_url=base_url, version=version, timeout=timeout)
        except DockerException as error:
            raise EngineError(f"Docker at {base_url}: {cut(one_line(str(error)))}") from error
        finally:
            if before is None:
                del os.environ["DOCKER_CONFIG"]
            else:
                os.environ["DOCKER_CONFIG"] = before


class DockerEngine:
    """``Engine`` by a Docker daemon at *base_url* (``unix://`` or ``tcp://``).

    *starts* is how many changes of containers run at once, *change* for how many seconds Docker
    may carry one out. *connect* makes the SDK's client.
    """

    def __init__(
        self,
        base_url: str = SOCKET,
        *,
        metrics: Metrics,
        starts: int = 8,
        change: float = CHANGE,
        clock: Callable[[], float] = time.monotonic,
        connect: Callable[[str, str, float], Any] = connect,
    ) -> None:
        self._base_url = base_url
        self._connect = connect
        self._within = change
        self._clock = clock
        self._agreed = ""
        self._clients: dict[float, Any] = {}
        self._agreeing = threading.Lock()
        self._pinging = Lane("ping", 1)
        self._looking = Lane("look", 3)
        self._inspecting = Lane("inspect", 4)
        self._changing = Lane("change", starts)
        self._tidying = Lane("images", 2)
        self._commanding = Lane("exec", 32)
        self._pulling = Lane("pull", 8)
        self._reading = Lane("stats", 4)
        self._streams: set[Pump[Any]] = set()
        self._let_go = asyncio.Event()
        kind = "operation_type"
        self._operations = metrics.counter("runtime_operations", "Calls to Docker.", kind)
        self._errors = metrics.counter("runtime_operations_errors", "Calls that failed.", kind)
        self._durations = metrics.histogram(
            "runtime_operations_duration_seconds", "How long calls took.", _BUCKETS, kind
        )

    # --- the daemon ---

    async def info(self) -> EngineInfo:
        """As ``Engine.info``."""
        return await self._look(
            "info", self._looking, lambda c: answers.engine_info(c.info(), self._agreed)
        )

    async def ping(self, within: float) -> None:
        """As ``Engine.ping``."""
        try:
            async with asyncio.timeout(within):
                await self._look("status", self._pinging, lambda c: calls.ping(c, within))
        except TimeoutError:
            raise EngineUnavailable(f"Docker does not answer within {within:g} s") from None

    # --- containers ---

    async def containers(self, uid: str = "") -> list[Entry]:
        """As ``Engine.containers``."""
        labels = [f"{OURS}=1", *([f"{POD_UID}={uid}"] if uid else [])]
        return await self._look(
            "list_containers",
            self._looking,
            lambda c: [answers.entry(e) for e in c.containers(all=True, filters={"label": labels})],
        )

    async def inspect(self, container: str) -> Seen:
        """As ``Engine.inspect``."""
        document = await self._look(
            "container_status", self._inspecting, lambda c: c.inspect_container(container)
        )
        return seen_of(document)

    async def create(self, name: str, config: Mapping[str, Any]) -> str:
        """As ``Engine.create``."""
        body = dict(config)
        made = await self._change(
            "create_container", lambda c: c.create_container_from_config(body, name)["Id"]
        )
        return str(made)

    async def start(self, container: str) -> None:
        """As ``Engine.start``."""
        await self._change("start_container", lambda c: c.start(container))

    async def kill(self, container: str, signal: str) -> None:
        """As ``Engine.kill``."""
        await self._change("stop_container", lambda c: calls.kill(c, container, signal))

    async def remove(self, container: str) -> None:
        """As ``Engine.remove``."""
        await self._change("remove_container", lambda c: calls.remove(c, container))

    async def exec(
        self, container: str, argv: Sequence[str], *, timeout: float, limit: int = 10_240
    ) -> ExecResult:
        """As ``Engine.exec``; a command that is not done in time, or not needed, is killed."""
        grip, note = Grip(), list[str]()
        try:
            async with asyncio.timeout(timeout):
                return await self._run(
                    "exec_sync",
                    self._commanding,
                    lambda c: calls.execute(c, container, argv, grip, limit, note),
                    self._within,
                    wait=False,
                )
        except (TimeoutError, asyncio.CancelledError):
            self._end_command(container, grip, note)
            raise

    def _end_command(self, container: str, grip: Grip, note: list[str]) -> None:
        def end() -> None:
            with contextlib.suppress(EngineError, Abandoned):
                if note:
                    calls.kill_command(self._client(LOOK), note[0], container)
            grip.loosen()

        # By a thread of its own: the lane may be full of commands such as this one.
        spawn(end, "docker-kill-exec")

    async def stats(self, container: str) -> Mapping[str, Any]:
        """As ``Engine.stats``."""
        result = await self._look(
            "container_stats",
            self._reading,
            # Without one_shot (from API 1.41) Docker takes two readings, a second apart.
            lambda c: c.stats(
                container, stream=False, one_shot=answers.at_least(c.api_version, "1.41") or None
            ),
        )
        if not isinstance(result, Mapping):
            raise EngineError("Docker answers a question for stats with no object")
        return result

    # --- streams ---

    async def logs(
        self, container: str, options: LogOptions
    ) -> AsyncGenerator[tuple[int, bytes], None]:
        """As ``Engine.logs``; raises EngineError when MOST_STREAMS are open."""
        if sum(1 for one in self._streams if one.limited) >= MOST_STREAMS:
            raise EngineError(f"{MOST_STREAMS} streams of logs are open: close one first", 429)
        try:
            since = answers.since(options.since) if options.since else ""
        except ValueError as error:
            raise EngineError(f"sinceTime {error}", 400) from error
        pump: Pump[tuple[int, bytes]] = Pump(limited=True)

        def work() -> None:
            calls.pour_logs(pump, lambda: self._client(LOOK), container, options, since)

        with self._open(pump, work, "docker-logs"):
            async for piece in pump:
                yield piece

    async def events(self) -> AsyncGenerator[EngineEvent, None]:
        """As ``Engine.events``: start, die, destroy and oom of containers with our label."""
        pump: Pump[EngineEvent] = Pump(depth=256)

        def work() -> None:
            calls.pour_events(pump, lambda: self._client(LOOK), f"{OURS}=1")

        with self._open(pump, work, "docker-events"):
            async for one in pump:
                yield one
        raise EngineUnavailable("Docker has ended the stream of events")

    @contextlib.contextmanager
    def _open(self, pump: Pump[Any], work: Callable[[], None], name: str) -> Iterator[None]:
        self._streams.add(pump)
        try:
            spawn(work, name)
            yield
        finally:
            self._streams.discard(pump)
            pump.close()

    # --- images ---

    async def image(self, reference: str) -> Image | None:
        """As ``Engine.image``."""
        try:
            found = await self._look(
                "image_status", self._looking, lambda c: answers.image(c.inspect_image(reference))
            )
            wanted = parse(reference)
        except (EngineNotFound, ValueError):
            return None
        return found if names(wanted, found.id, (*found.tags, *found.digests)) else None

    async def images(self) -> list[Image]:
        """As ``Engine.images``; of a list Docker leaves out user, stop signal and volumes."""
        return await self._look(
            "list_images", self._looking, lambda c: [answers.image(one) for one in c.images()]
        )

    async def pull(
        self, reference: str, auth: Mapping[str, str] | None, progress: Callable[[str], None]
    ) -> None:
        """As ``Engine.pull``; a cancelled one is let go, and Docker ends it."""
        try:
            wanted = parse(reference)
        except ValueError as error:
            raise EngineError(str(error), 400) from error
        pump: Pump[dict[str, Any]] = Pump()
        with self._counted("pull_image"):
            future = self._pulling.submit(
                lambda: calls.pour_pull(pump, lambda: self._client(LOOK), wanted, auth, SILENCE)
            )
            try:
                state, told = PullProgress(), self._clock()
                async for document in pump:
                    if refusal(document):
                        raise EngineError(cut(refusal(document)))
                    state.feed(document)
                    if self._clock() - told >= PROGRESS:
                        told = self._clock()
                        progress(state.text)
            finally:
                future.cancel()
                pump.close()

    async def remove_image(self, image: str) -> None:
        """As ``Engine.remove_image``."""
        await self._run(
            "remove_image", self._tidying, lambda c: calls.remove_image(c, image), self._within
        )

    async def load_image(self, data: bytes) -> None:
        """Load an archive in the form of ``docker save``."""
        await self._run("load_image", self._tidying, lambda c: calls.load(c, data), self._within)

    async def close(self) -> None:
        """End streams and take no more calls; nobody waits for calls that hang any more."""
        self._let_go.set()
        for pump in tuple(self._streams):
            pump.close()
        for lane in self._lanes:
            lane.close()
        await asyncio.sleep(0)
        for client in tuple(self._clients.values()):
            client.close()

    # --- inside ---

    @property
    def _lanes(self) -> tuple[Lane, ...]:
        return (
            self._pinging, self._looking, self._inspecting, self._changing, self._tidying,
            self._commanding, self._pulling, self._reading,
        )  # fmt: skip

    async def _look(self, kind: str, lane: Lane, work: Callable[[Any], T]) -> T:
        return await self._run(kind, lane, work, LOOK, wait=False)

    async def _change(self, kind: str, work: Callable[[Any], T]) -> T:
        return await self._run(kind, self._changing, work, self._within)

    async def _run(
        self, kind: str, lane: Lane, work: Callable[[Any], T], within: float, *, wait: bool = True
    ) -> T:
        def call() -> T:
            with calls.told():
                return work(self._client(within))

        with self._counted(kind):
            try:
                return await finished(lane.submit(call), wait=wait, let_go=self._let_go)
            except EngineError as error:
                # After a daemon was up- or downgraded: "client version 1.41 is too old. ...".
                if error.status == 400 and "client version" in str(error):
                    self._agreed = ""
                raise

    @contextlib.contextmanager
    def _counted(self, kind: str) -> Iterator[None]:
        self._operations.labels(kind).inc()
        began = self._clock()
        try:
            yield
        except EngineError as error:
            # That something is not there is an answer.
            if not isinstance(error, EngineNotFound):
                self._errors.labels(kind).inc()
            raise
        finally:
            self._durations.labels(kind).observe(self._clock() - began)

    def _client(self, timeout: float) -> Any:
        """A client with that time-out in seconds; in a thread, as it may have to ask Docker."""
        with self._agreeing:
            if not self._agreed:
                self._clients.clear()
                self._agreed = self._agree()
            client = self._clients.get(timeout)
            if client is None:
                client = self._connect(self._base_url, self._agreed, timeout)
                self._clients[timeout] = client
            return client

    def _agree(self) -> str:
        with calls.told():
            probe = self._connect(self._base_url, WANTED, LOOK)
            try:
                found = probe.version(api_version=False)
                return answers.api_version(
                    found.get("MinAPIVersion") or "", found["ApiVersion"], WANTED
                )
            finally:
                probe.close()
