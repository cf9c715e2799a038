"""The same containers by bare calls to Docker, and what Docker says of those of pods.

The calls are those of ``docker run``, ``docker stop --time 1`` and ``docker rm``, by the SDK: a
process for each would be measured, too. The bodies are those of the containers of a pod that
nodeagent made, without its labels, names, mounts and cgroup.
"""

import contextlib
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

from docker.api.client import APIClient
from docker.errors import DockerException
from requests.exceptions import RequestException

from bench.result import BenchError
from nodeagent.docker.labels import CONTAINER_NAME, POD_NAME
from nodeagent.pods.observed import SANDBOX

T = TypeVar("T")
Json = dict[str, Any]

_VERSION = "1.41"
_THREADS = 8
_GRACE = 1
_LEFT_OUT = {"Hostname", "Domainname", "Labels", "ExposedPorts"}
_HOST_LEFT_OUT = {"Mounts", "Binds", "CgroupParent", "ContainerIDFile", "PortBindings"}


class Pair(NamedTuple):
    """The containers of one pod, by id."""

    sandbox: str
    app: str


class Docker:
    """A Docker Engine at *socket*, a path."""

    def __init__(self, socket: str) -> None:
        self._socket = socket
        self._client = APIClient(
            base_url=f"unix://{socket}", version=_VERSION, timeout=120, num_pools=_THREADS * 2
        )
        self._names = itertools.count()
        self._sandbox_body: Json = {}
        self._app_bodies: dict[str, Json] = {}

    def close(self) -> None:
        """Let go of its connections."""
        self._client.close()

    # --- containers of pods ---

    def containers(self, pod: str) -> Pair:
        """The running containers of *pod*. Raises BenchError."""
        found = {}
        for name in (SANDBOX, "app"):
            filters = {"label": [f"{POD_NAME}={pod}", f"{CONTAINER_NAME}={name}"]}
            with _told():
                listed = self._client.containers(filters=filters)
            if len(listed) != 1:
                raise BenchError(f"pod {pod} has {len(listed)} containers {name}")
            found[name] = str(listed[0]["Id"])
        return Pair(found[SANDBOX], found["app"])

    def remove(self, container: str) -> None:
        """``docker rm -f``. Raises BenchError."""
        with _told():
            self._client.remove_container(container, force=True, v=True)

    def starts(self) -> "Starts":
        """Begin to note starts of containers of pods."""
        return Starts(self._socket)

    # --- the baseline ---

    def learn(self, kind: str, pod: str) -> None:
        """Take the containers of *pod* as the model of those that *kind* is to have."""
        pair = self.containers(pod)
        with _told():
            inspected = [self._client.inspect_container(one) for one in pair]
        self._sandbox_body, self._app_bodies[kind] = map(body_like, inspected)

    def up(self, kind: str) -> Pair:
        """Create and start the containers that a pod of *kind* has. Raises BenchError."""
        sandbox = self._run(self._sandbox_body)
        return Pair(sandbox, self.app(kind, sandbox))

    def app(self, kind: str, sandbox: str) -> str:
        """Create and start the container that joins *sandbox*."""
        joined = f"container:{sandbox}"
        body = self._app_bodies[kind]
        settings = {**body["HostConfig"], "NetworkMode": joined, "IpcMode": joined}
        return self._run({**body, "HostConfig": settings})

    def down(self, pair: Pair) -> None:
        """Stop within a second and remove what ``up`` has made."""
        with _told():
            self._client.stop(pair.app, timeout=_GRACE)
        for one in (pair.app, pair.sandbox):
            self.remove(one)

    def together(self, work: Callable[[Any], T], of: Iterable[Any], parallel: int) -> list[T]:
        """*work* done for each *of* these, *parallel* at a time."""
        with ThreadPoolExecutor(parallel) as threads:
            return list(threads.map(work, of))

    def _run(self, body: Json) -> str:
        with _told():
            name = f"bench-{next(self._names)}"
            made = str(self._client.create_container_from_config(body, name)["Id"])
            self._client.start(made)
            return made


@contextlib.contextmanager
def _told() -> Iterator[None]:
    """Raise what the SDK raises as BenchError."""
    try:
        yield
    except (DockerException, RequestException) as error:
        raise BenchError(f"Docker: {error}") from error


def body_like(document: Mapping[str, Any]) -> Json:
    """The body of POST /containers/create that makes a container as *document*, which is its GET
    /containers/{id}/json (Engine API 1.41), without what belongs to the pod it is of."""
    config = {key: value for key, value in document["Config"].items() if key not in _LEFT_OUT}
    settings = document["HostConfig"]
    kept = {key: value for key, value in settings.items() if key not in _HOST_LEFT_OUT}
    return {**config, "HostConfig": kept}


class Starts:
    """When Docker said that a container of a pod was started; a thread reads its events."""

    def __init__(self, socket: str) -> None:
        self._client = APIClient(base_url=f"unix://{socket}", version=_VERSION, timeout=120)
        filters = {"type": "container", "event": "start", "label": POD_NAME}
        self._events = self._client.events(decode=True, filters=filters)
        self._found: dict[tuple[str, str], tuple[float, str]] = {}
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)

    def __enter__(self) -> "Starts":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(DockerException, RequestException, OSError):
            self._events.close()
        self._thread.join(5.0)
        self._client.close()

    def _read(self) -> None:
        # The stream is cut by ``__exit__``, which may be seen in any of these ways.
        with contextlib.suppress(DockerException, RequestException, OSError, ValueError):
            for event in self._events:
                at = time.monotonic()
                told = event["Actor"]["Attributes"]
                with self._news:
                    key = (told[POD_NAME], told[CONTAINER_NAME])
                    self._found[key] = (at, event["Actor"]["ID"])
                    self._news.notify_all()

    def after(self, pod: str, former: str, deadline: float) -> tuple[float, str]:
        """When the container app of *pod* was started that came after *former*, and its id."""
        with self._news:
            while True:
                found = self._found.get((pod, "app"))
                if found is not None and found[1] != former:
                    return found
                if time.monotonic() > deadline:
                    raise BenchError(f"Docker started no container of pod {pod} again")
                self._news.wait(max(0.0, deadline - time.monotonic()))
